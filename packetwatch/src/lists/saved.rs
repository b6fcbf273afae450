//! Lists and bans as a backup holds them, read by pieces and put back in one step.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use packetwatch_abi::FOREVER;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, serde::rfc3339};

use super::{
    Lists, Shared,
    entry::{BanEntry, List, Source},
    error::WriteError,
    journal::Batch,
    record::{AboutRecord, BanRecord, EntryRecord, ListRecord, OffenceRecord},
    state::{About, Change, Draft, Node, Shelf},
    sweep::Reach,
    writes::Switch,
};

/// Entries, bans or offences that are read at a time.
const PIECE: usize = 10_000;
/// Prefixes in one group at most: a line of 20 to 45 KB.
const GROUP: usize = 1000;

/// Entries of a list that differ in their prefixes alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedEntries {
    pub list: SavedList,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    /// `None` for entries that stay.
    #[serde(default, with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// denies that take protected prefixes out of protection
    #[serde(default)]
    pub forced: bool,
    /// as people write them
    pub prefixes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SavedList {
    Allow,
    Deny,
}

impl From<SavedList> for List {
    fn from(list: SavedList) -> Self {
        match list {
            SavedList::Allow => Self::Allow,
            SavedList::Deny => Self::Deny,
        }
    }
}

/// A ban in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedBan {
    pub prefix: IpNet,
    pub rule: String,
    pub reason: String,
    pub offender: IpAddr,
    pub repeat: u32,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(default, with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// how far back the windows of the rules reached
    pub within_seconds: u64,
}

/// How often a prefix has been banned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedOffence {
    pub prefix: IpNet,
    pub count: u32,
    #[serde(default, with = "rfc3339::option")]
    pub ban_ends_at: Option<OffsetDateTime>,
    /// how long after that it is remembered; `None` for ever
    #[serde(default)]
    pub memory_seconds: Option<u64>,
}

/// What is to be put back, each part checked by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    pub entries: Vec<SavedEntries>,
    pub bans: Vec<SavedBan>,
    pub offences: Vec<SavedOffence>,
}

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
    /// Entries behind `cursor`, in groups, and the cursor of the next piece. Protected ones are
    /// derived and left out. Of what is on trial it is what stood before: whether the change stays is
    /// not known, and in a backup it would.
    pub fn saved_entries(
        &self,
        list: List,
        cursor: Option<IpNet>,
    ) -> (Vec<SavedEntries>, Option<IpNet>) {
        let state = self.0.shared.state();
        let shelf = Shelf::from(list);
        let mut groups: Vec<(Arc<AboutRecord>, bool, Vec<IpNet>)> = Vec::new();
        let trial = state.trial.as_ref();
        let listed = |(prefix, node): (IpNet, &Node)| {
            let former = trial.and_then(|trial| trial.former(list, prefix));
            let Draft { about, forced } = match former {
                Some(former) => former.clone()?,
                None => node.on(shelf)?.draft(),
            };
            Some((prefix, Arc::clone(&about.record), forced))
        };
        let (mut last, mut read) = (None, 0);
        for (prefix, record, forced) in state.nodes.after(cursor).filter_map(listed).take(PIECE) {
            (last, read) = (Some(prefix), read + 1);
            // Those that were written together lie together; a few groups are looked at.
            let same = groups
                .iter_mut()
                .rev()
                .take(8)
                .find(|(about, f, prefixes)| {
                    *f == forced && prefixes.len() < GROUP && Arc::ptr_eq(about, &record)
                });
            match same {
                Some((_, _, prefixes)) => prefixes.push(prefix),
                None => groups.push((record, forced, vec![prefix])),
            }
        }
        drop(state);
        let list = match list {
            List::Allow => SavedList::Allow,
            List::Deny => SavedList::Deny,
        };
        let groups = groups.into_iter().map(|(record, forced, prefixes)| {
            let AboutRecord {
                reason,
                source: _,
                created_at,
                expires_at,
                mark: _,
            } = AboutRecord::clone(&record);
            SavedEntries {
                list,
                reason,
                created_at,
                expires_at,
                forced,
                prefixes: prefixes.iter().map(IpNet::to_string).collect(),
            }
        });
        (groups.collect(), last.filter(|_| read == PIECE))
    }

    /// Bans in force behind `cursor`, and the cursor of the next piece.
    pub fn saved_bans(&self, cursor: Option<IpNet>) -> (Vec<SavedBan>, Option<IpNet>) {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let bans = shared.bans();
        let saved = bans.after(cursor, now).take(PIECE).map(|held| {
            let BanEntry {
                prefix,
                rule,
                reason,
                offender,
                repeat,
                created_at,
                expires_at,
            } = held.entry.clone();
            SavedBan {
                prefix,
                rule,
                reason,
                offender,
                repeat,
                created_at,
                expires_at,
                within_seconds: held.within().as_secs(),
            }
        });
        let saved: Vec<SavedBan> = saved.collect();
        let last = saved.last().map(|ban| ban.prefix);
        let next = last.filter(|_| saved.len() == PIECE);
        (saved, next)
    }

    /// Offences that are remembered; there are at most 65 536.
    pub fn saved_offences(&self) -> Vec<SavedOffence> {
        let shared = &self.0.shared;
        let bans = shared.bans();
        let offences = bans.offences(shared.clock).into_iter();
        let offences = offences.map(|(prefix, record)| {
            let OffenceRecord {
                count,
                ban_ends_at,
                mark: _,
                memory,
            } = record;
            SavedOffence {
                prefix,
                count,
                ban_ends_at,
                memory_seconds: (memory != Duration::MAX).then_some(memory.as_secs()),
            }
        });
        offences.collect()
    }

    /// Makes these the lists, bans and offences: one transaction of the journal, and one switch of
    /// the lists in the kernel. Bans follow one by one; if the kernel refuses one, they and the lists
    /// go back to what they were.
    ///
    /// # Errors
    /// [`WriteError::Full`], [`WriteError::Protected`] for a deny of exactly a protected prefix
    /// that is not forced, [`WriteError::InTheWay`], [`WriteError::Journal`],
    /// [`WriteError::Kernel`]. Nothing has changed then.
    pub fn restore(&self, saved: Saved) -> Result<Restored, WriteError> {
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
        let mut batch = Batch {
            lists: lists.into(),
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
        if written.is_err() {
            // Whatever the journal has of them, it gets what is so.
            shared.bans().mark_unwritten(rows);
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
