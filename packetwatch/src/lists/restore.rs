//! A backup put back in one step.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ipnet::IpNet;
use packetwatch_abi::FOREVER;
use serde_json::Value;
use time::OffsetDateTime;

use super::{
    Lists, Shared,
    entry::{BanEntry, List, Source},
    error::WriteError,
    journal::Batch,
    record::{AboutRecord, BanRecord, EntryRecord, ListRecord, OffenceRecord, RestoreRecord},
    saved::{Saved, SavedBan, SavedEntries, SavedOffence},
    shelf::{About, Change, Draft, Shelf},
    sweep::Reach,
    writes::Switch,
};

/// What [`Lists::restore`] has put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    pub allow: usize,
    pub deny: usize,
    pub bans: usize,
    /// entries and bans that have ended since the backup
    pub ended: usize,
}

impl Lists {
    /// Makes these the lists, bans and offences: one transaction of the journal, and one switch of
    /// the lists in the kernel. Bans follow one by one; if the kernel refuses one, they and the lists
    /// go back to what they were. `besides` is kept until [`Lists::finished`], for
    /// [`Lists::unfinished`] to tell, the next process too.
    ///
    /// # Errors
    /// [`WriteError::Full`], [`WriteError::Protected`] for a deny of exactly a protected prefix
    /// that is not forced, [`WriteError::InTheWay`], [`WriteError::Journal`],
    /// [`WriteError::Kernel`]. Nothing has changed then.
    pub fn restore(&self, saved: Saved, besides: Value) -> Result<Restored, WriteError> {
        let shared = &self.0.shared;
        let mut journal = shared.journal_without_ended(Reach::All);
        for list in [List::Allow, List::Deny] {
            shared.see_to_trial(list, true)?;
        }
        let Saved {
            entries,
            bans,
            offences,
        } = saved;
        let mut restored = Restored::default();
        let now = shared.clock.monotonic_ns();
        let is_over = |at: &OffsetDateTime| shared.clock.deadline(*at) <= now;
        let mut changes = shared.restoring(entries, &mut restored)?;
        let of = |changes: &[Change], list: List| {
            let shelf = Shelf::from(list);
            let kept = changes.iter().filter(|change| change.shelf == shelf);
            ListRecord::of(kept.filter_map(|change| {
                let draft = change.to.as_ref()?;
                let record = EntryRecord::new(&draft.about.record, draft.forced);
                Some((change.prefix, record))
            }))
        };
        let lists = [List::Allow, List::Deny].map(|list| (list, of(&changes, list)));
        changes.extend(shared.no_longer(&changes));
        let all = bans.len();
        let live = |ban: &SavedBan| !ban.expires_at.as_ref().is_some_and(is_over);
        let bans: Vec<SavedBan> = bans.into_iter().filter(live).collect();
        restored.bans = bans.len();
        restored.ended += all - bans.len();
        if bans.len() > shared.capacity.bans as usize {
            return Err(WriteError::Full {
                list: "bans",
                capacity: shared.capacity.bans,
            });
        }
        let bans: Vec<(IpNet, BanRecord)> = bans.into_iter().map(ban_record).collect();
        let offences = offences.into_iter().map(offence_record).collect::<Vec<_>>();
        // What stands and is not in the backup: the bans are ended, the offences forgotten.
        let restore = RestoreRecord {
            besides: besides.clone(),
            is_in_force: false,
        };
        let mut batch = Batch {
            lists: lists.into(),
            restore: Some(Some(restore)),
            ..Batch::default()
        };
        shared
            .bans()
            .replacing(&bans, &offences, shared.clock, &mut batch);
        let rows = batch.bans.iter().map(|(prefix, _)| *prefix);
        let rows = rows.chain(batch.offences.iter().map(|(prefix, _)| *prefix));
        let rows: Vec<IpNet> = rows.collect();
        let replace = || {
            let mut held = shared.bans();
            held.replace(bans, &offences, &*shared.maps, shared.clock)
        };
        let before = {
            let (state, held) = (shared.state(), shared.bans().len());
            Restored {
                allow: state.count(Shelf::Allow).total(),
                deny: state.count(Shelf::Deny).total(),
                bans: held,
                ended: 0,
            }
        };
        let written = shared.write_as(&mut journal, batch, changes, None, Switch::Whole, replace);
        match written {
            Ok(()) => shared.unfinished().begin(besides),
            // Whatever the journal has of them, it gets what is so.
            Err(_) => {
                shared.bans().mark_unwritten(rows);
                shared.unfinished().refuse();
            }
        }
        shared.wake.unwritten();
        written?;
        super::event::restored(&before, &restored);
        Ok(restored)
    }
}

impl Shared {
    fn restoring(
        &self,
        entries: Vec<SavedEntries>,
        restored: &mut Restored,
    ) -> Result<Vec<Change>, WriteError> {
        let now = self.clock.monotonic_ns();
        let state = self.state();
        let mut changes = Vec::new();
        let mut protected = Vec::new();
        for group in entries {
            let SavedEntries {
                list,
                reason,
                created_at,
                expires_at,
                forced,
                prefixes,
            } = group;
            let list = List::from(list);
            let until = expires_at.map_or(FOREVER, |at| self.clock.deadline(at));
            if until <= now {
                restored.ended += prefixes.len();
                continue;
            }
            let record = Arc::new(AboutRecord {
                reason,
                source: Source::Api,
                created_at,
                expires_at,
                mark: self.clock.mark(until),
            });
            let about = Arc::new(About { record, until });
            for prefix in prefixes {
                // Checked before.
                let Ok(parsed) = crate::prefix::parse(&prefix) else {
                    continue;
                };
                let prefix = parsed.prefix;
                if list == List::Deny && !forced && state.is_protected(prefix, now) {
                    protected.push(prefix);
                }
                changes.push(Change {
                    shelf: list.into(),
                    prefix,
                    to: Some(Draft {
                        about: Arc::clone(&about),
                        forced: forced && list == List::Deny,
                    }),
                });
            }
        }
        if !protected.is_empty() {
            return Err(WriteError::Protected {
                list: List::Deny,
                prefixes: protected,
            });
        }
        // Of several with one prefix the first counts, which is the only one in what we wrote.
        changes.sort_by_key(|change| (change.shelf, change.prefix));
        changes.dedup_by_key(|change| (change.shelf, change.prefix));
        let on = |shelf| changes.iter().filter(|c| c.shelf == shelf).count();
        (restored.allow, restored.deny) = (on(Shelf::Allow), on(Shelf::Deny));
        if changes.len() > self.capacity.lists as usize {
            return Err(self.full());
        }
        Ok(changes)
    }

    /// Removals of what is listed and not among `changes`.
    fn no_longer(&self, changes: &[Change]) -> Vec<Change> {
        let kept: HashSet<(Shelf, IpNet)> = changes.iter().map(|c| (c.shelf, c.prefix)).collect();
        let state = self.state();
        let listed = [Shelf::Allow, Shelf::Deny]
            .into_iter()
            .flat_map(|shelf| state.on(shelf).map(move |(prefix, _)| (shelf, prefix)));
        let gone = listed.filter(|key| !kept.contains(key));
        gone.map(|(shelf, prefix)| Change {
            shelf,
            prefix,
            to: None,
        })
        .collect()
    }
}

fn ban_record(ban: SavedBan) -> (IpNet, BanRecord) {
    let SavedBan {
        prefix,
        rule,
        reason,
        offender,
        repeat,
        created_at,
        expires_at,
        within_seconds,
    } = ban;
    let prefix = prefix.trunc();
    let entry = BanEntry {
        prefix,
        rule,
        reason,
        offender,
        repeat,
        created_at,
        expires_at,
    };
    let within = Duration::from_secs(within_seconds);
    (prefix, BanRecord::new(&entry, None, within, false))
}

fn offence_record(offence: SavedOffence) -> (IpNet, OffenceRecord) {
    let SavedOffence {
        prefix,
        count,
        ban_ends_at,
        memory_seconds,
    } = offence;
    let record = OffenceRecord {
        count,
        ban_ends_at,
        mark: None,
        memory: memory_seconds.map_or(Duration::MAX, Duration::from_secs),
    };
    (prefix.trunc(), record)
}
