//! The protected prefixes, which follow from the state of the host.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use packetwatch_abi::FOREVER;

use super::{
    Lists,
    entry::{Entry, Source},
    error::WriteError,
    event,
    record::AboutRecord,
    state::{About, Change, Draft, Node, Shelf},
    writes::Switch,
};

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

    /// Makes these, with their reasons, the protected prefixes. They are derived from the state of
    /// the host and never journaled.
    ///
    /// # Errors
    /// [`WriteError::Full`] when not all of them fit: the first ones are protected all the same.
    /// [`WriteError::Kernel`].
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
        let mut journal = shared.journal();
        let (mut changes, now_protected, no_longer, outcome) = {
            let state = shared.state();
            let wanted: BTreeMap<IpNet, &String> = set
                .iter()
                .map(|(prefix, reason)| (prefix.trunc(), reason))
                .collect();
            let unwanted = state
                .protected()
                .filter(|(prefix, _)| others == Others::Go && !wanted.contains_key(prefix));
            let no_longer: Vec<Entry> = unwanted
                .filter_map(|(prefix, node)| Some(node.on(shelf)?.about.entry(prefix)))
                .collect();
            let gone = no_longer.iter().map(|entry| Change {
                shelf,
                prefix: entry.prefix,
                to: None,
            });
            let mut changes: Vec<Change> = gone.collect();
            let room = state.room() + changes.len();
            let utc = shared.clock.utc();
            let mut now_protected: Vec<Entry> = Vec::new();
            let mut outcome = Ok(());
            for (prefix, reason) in set {
                let prefix = prefix.trunc();
                let former = state
                    .listed(shelf, prefix)
                    .map(|listed| &listed.about.record);
                let is_as_wanted =
                    |reason_now| others == Others::Stay || reason_now == Some(reason);
                if former.is_some_and(|former| is_as_wanted(former.reason.as_ref()))
                    || changes.iter().any(|c| c.to.is_some() && c.prefix == prefix)
                {
                    continue;
                }
                if former.is_none() && now_protected.len() >= room {
                    outcome = Err(shared.full());
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
            (changes, now_protected, no_longer, outcome)
        };
        if !changes.is_empty() {
            let changes = std::mem::take(&mut changes);
            shared.write(&mut journal, changes, None, Switch::ByPrefix)?;
            event::protected(&now_protected, &no_longer);
        }
        outcome
    }
}
