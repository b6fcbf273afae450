//! The protected prefixes, which follow from the state of the host.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use ipnet::IpNet;
use packetwatch_abi::{FOREVER, capacity};

use super::{
    Lists,
    entry::{Entry, Source},
    error::WriteError,
    event,
    record::AboutRecord,
    shelf::{About, Change, Draft, Node, Shelf},
    writes::Switch,
};

/// As many prefixes are protected, whatever the lists hold.
pub const MAX_PROTECTED: usize = capacity::PROTECTED as usize;

/// What becomes of the protected prefixes that are not named.
#[derive(Clone, Copy, PartialEq)]
enum Others {
    Go,
    Stay,
}

impl Lists {
    /// The protected prefixes, in order, with their reasons.
    pub fn protected(&self) -> Vec<(IpNet, String)> {
        let state = self.0.shared.state();
        let reason = |(prefix, node): (IpNet, &Node)| {
            let record = &node.on(Shelf::Protected)?.about.record;
            Some((prefix, record.reason.clone()?))
        };
        state.protected().filter_map(reason).collect()
    }

    /// Makes these, with their reasons, the protected prefixes: of more than [`MAX_PROTECTED`] the first
    /// ones. They are derived from the state of the host and never journaled, and take none of the room
    /// of what people write.
    ///
    /// # Errors
    /// [`WriteError::Unprotected`] when not all of them fit: the first ones are protected all the same.
    /// [`WriteError::Kernel`]: nothing has changed.
    pub fn protect(&self, set: Vec<(IpNet, String)>) -> Result<(), WriteError> {
        self.make_protected(&set, Others::Go)
    }

    /// Protects these besides those that are, whose reasons stay.
    ///
    /// # Errors
    /// As [`Lists::protect`].
    pub fn protect_also(&self, set: &[(IpNet, String)]) -> Result<(), WriteError> {
        self.make_protected(set, Others::Stay)
    }

    fn make_protected(&self, set: &[(IpNet, String)], others: Others) -> Result<(), WriteError> {
        let shared = &self.0.shared;
        let shelf = Shelf::Protected;
        let mut left_out = 0;
        let mut journal = shared.journal();
        let (changes, before, now_protected, no_longer) = {
            let state = shared.state();
            let before = state.count(shelf).total();
            let (room, is_let_be) = match others {
                Others::Go => (MAX_PROTECTED, false),
                Others::Stay => (MAX_PROTECTED.saturating_sub(before), true),
            };
            let mut wanted: BTreeMap<IpNet, &String> = BTreeMap::new();
            for (prefix, reason) in set {
                let prefix = prefix.trunc();
                if is_let_be && state.listed(shelf, prefix).is_some() {
                    continue;
                }
                let is_full = wanted.len() == room;
                match wanted.entry(prefix) {
                    btree_map::Entry::Vacant(_) if is_full => left_out += 1,
                    btree_map::Entry::Vacant(place) => _ = place.insert(reason),
                    btree_map::Entry::Occupied(_) => {}
                }
            }
            let unwanted = state
                .protected()
                .filter(|(prefix, _)| !is_let_be && !wanted.contains_key(prefix));
            let no_longer: Vec<Entry> = unwanted
                .filter_map(|(prefix, node)| Some(node.on(shelf)?.about.entry(prefix)))
                .collect();
            let gone = no_longer.iter().map(|entry| Change {
                shelf,
                prefix: entry.prefix,
                to: None,
            });
            let mut changes: Vec<Change> = gone.collect();
            let utc = shared.clock.utc();
            let mut now_protected: Vec<Entry> = Vec::new();
            for (prefix, reason) in wanted {
                let former = state
                    .listed(shelf, prefix)
                    .map(|listed| &listed.about.record);
                if former.is_some_and(|former| former.reason.as_ref() == Some(reason)) {
                    continue;
                }
                let about = Arc::new(About {
                    record: Arc::new(AboutRecord {
                        reason: Some(reason.clone()),
                        source: Source::Protect,
                        created_at: former.map_or(utc, |former| former.created_at),
                        expires_at: None,
                        mark: None,
                    }),
                    until: FOREVER,
                });
                if former.is_none() {
                    now_protected.push(about.entry(prefix));
                }
                changes.push(Change {
                    shelf,
                    prefix,
                    to: Some(Draft {
                        about,
                        forced: false,
                    }),
                });
            }
            (changes, before, now_protected, no_longer)
        };
        if !changes.is_empty() {
            shared.write(&mut journal, changes, None, Switch::ByPrefix)?;
            event::protected(before, &now_protected, &no_longer);
        }
        match left_out {
            0 => Ok(()),
            left_out => Err(WriteError::Unprotected { left_out }),
        }
    }
}
