//! New entries, checked and made into changes of the lists.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ipnet::IpNet;
use packetwatch_abi::FOREVER;
use time::OffsetDateTime;

use super::{
    Shared,
    bans::after,
    entry::{Force, List, NewEntry, Source},
    error::WriteError,
    record::AboutRecord,
    shelf::{About, Change, Draft, Shelf},
    state::State,
};

/// As many carved-out prefixes are named in an answer.
const CARVED_OUT_SHOWN: usize = 100;

/// Reason, length and beginning of entries.
type Known = (Option<String>, Option<Duration>, OffsetDateTime);

impl Shared {
    /// Checks new entries and makes changes of them, one a prefix, in order.
    pub(super) fn drafted(
        &self,
        state: &State,
        list: List,
        mut entries: Vec<NewEntry>,
        force: Force,
    ) -> Result<Vec<Change>, WriteError> {
        let (now, utc) = (self.clock.monotonic_ns(), self.clock.utc());
        let shelf = Shelf::from(list);
        // What is known of entries is kept once for all that have it in common: of a feed that is sent
        // again, too.
        let mut known: HashMap<Known, Arc<About>> = HashMap::new();
        let mut drafts: Vec<(IpNet, Draft)> = Vec::with_capacity(entries.len());
        let mut protected = Vec::new();
        // In order, a million are looked up much faster. Those of one prefix keep theirs.
        entries.sort_by_key(|entry| entry.prefix.trunc());
        for NewEntry {
            prefix,
            reason,
            ttl,
        } in entries
        {
            let prefix = prefix.trunc();
            if list == List::Deny && !force.0 && state.is_protected(prefix, now) {
                protected.push(prefix);
                continue;
            }
            let bad_ttl = |ttl| WriteError::Ttl { prefix, ttl };
            let (until, expires_at) = match ttl {
                None => (FOREVER, None),
                Some(ttl) if ttl.is_zero() => return Err(bad_ttl(ttl)),
                Some(ttl) => {
                    let length = time::Duration::try_from(ttl).ok();
                    let end = length.and_then(|length| utc.checked_add(length));
                    (after(now, ttl), Some(end.ok_or_else(|| bad_ttl(ttl))?))
                }
            };
            let former = state
                .listed(shelf, prefix)
                .filter(|listed| listed.is_live(now));
            // Once a deny was forced, the prefix is not protected: changing it needs no force.
            let was_forced = former.is_some_and(|listed| listed.forced);
            let about = match former {
                Some(listed) if listed.about.is(reason.as_deref(), until) => {
                    Arc::clone(&listed.about)
                }
                _ => {
                    let created_at = former.map_or(utc, |former| former.about.record.created_at);
                    let about = known.entry((reason, ttl, created_at));
                    Arc::clone(about.or_insert_with_key(|(reason, ..)| {
                        let record = AboutRecord {
                            reason: reason.clone(),
                            source: Source::Api,
                            created_at,
                            expires_at,
                            mark: self.clock.mark(until),
                        };
                        Arc::new(About {
                            record: Arc::new(record),
                            until,
                        })
                    }))
                }
            };
            let draft = Draft {
                about,
                forced: list == List::Deny && (force.0 || was_forced),
            };
            drafts.push((prefix, draft));
        }
        if !protected.is_empty() {
            let prefixes = protected;
            return Err(WriteError::Protected { list, prefixes });
        }
        // Of several with one prefix the last counts.
        drafts.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        let change = |(prefix, draft)| Change {
            shelf,
            prefix,
            to: Some(draft),
        };
        Ok(drafts.into_iter().map(change).collect())
    }

    pub(super) fn see_to_room(&self, state: &State, added: usize) -> Result<(), WriteError> {
        if added > state.room() {
            return Err(self.full());
        }
        Ok(())
    }

    pub(super) fn full(&self) -> WriteError {
        WriteError::Full {
            list: "lists",
            capacity: self.capacity.lists,
        }
    }
}

/// What is allowed where a deny is put.
#[derive(Default)]
pub(super) struct Allowed {
    /// strictly inside it, the first [`CARVED_OUT_SHOWN`]
    pub(super) inside: Vec<IpNet>,
    pub(super) inside_total: usize,
    /// the most specific one that is the same prefix or covers it
    pub(super) over: Option<IpNet>,
}

impl Allowed {
    pub(super) fn around(state: &State, prefix: IpNet, now: u64) -> Self {
        let mut allowed = Self::default();
        let inside = state
            .nodes
            .inside(prefix)
            .filter(|(inside, node)| *inside != prefix && node.shown(List::Allow, now).is_some());
        for (inside, _) in inside {
            allowed.inside_total += 1;
            if allowed.inside.len() < CARVED_OUT_SHOWN {
                allowed.inside.push(inside);
            }
        }
        let mut covering = state.nodes.covering(prefix);
        let over = covering.find(|(over, node)| match *over == prefix {
            // A protection of exactly this prefix ends with the deny, which then was forced.
            true => node
                .on(Shelf::Allow)
                .is_some_and(|listed| listed.is_live(now)),
            false => node.shown(List::Allow, now).is_some(),
        });
        allowed.over = over.map(|(over, _)| over);
        allowed
    }
}
