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
    state::{About, Change, Draft, Shelf},
    writes::Switch,
};

impl Lists {
    /// Makes these, with their reasons, the protected prefixes. They are derived from the state of
    /// the host and never journaled.
    ///
    /// # Errors
    /// [`WriteError::Full`] when not all of them fit: the first ones are protected all the same.
    /// [`WriteError::Kernel`].
    pub fn protect(&self, set: Vec<(IpNet, String)>) -> Result<(), WriteError> {
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
                .filter(|(prefix, _)| !wanted.contains_key(prefix));
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
            for (prefix, reason) in &set {
                let prefix = prefix.trunc();
                let former = state
                    .listed(shelf, prefix)
                    .map(|listed| &listed.about.record);
                if former.is_some_and(|former| former.reason.as_ref() == Some(reason))
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
