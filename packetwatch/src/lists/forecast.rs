//! Whom a backup would drop, before it is restored.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use time::OffsetDateTime;

use super::{Lists, Saved, SavedList};
use crate::prefix;

/// What lies over an address.
#[derive(Debug, Default)]
struct Over {
    allow: bool,
    deny: bool,
    /// the rule that has banned it
    ban: Option<String>,
}

impl Lists {
    /// Those of `addresses` that these lists and bans would drop beside what is protected, each with the
    /// rule if it is for a ban. Takes as long as the entries are many, however many addresses.
    pub fn would_drop(
        &self,
        saved: &Saved,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Vec<(IpAddr, Option<String>)> {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let is_live = |until: Option<OffsetDateTime>| {
            until.is_none_or(|until| now < shared.clock.deadline(until))
        };
        let each = addresses.into_iter().map(|a| (a, Over::default()));
        let mut found: BTreeMap<IpAddr, Over> = each.collect();
        let mut covered = |prefix: IpNet, note: &mut dyn FnMut(&mut Over)| {
            let inside = found.range_mut(prefix.network()..=prefix.broadcast());
            inside.for_each(|(_, over)| note(over));
        };
        let mut unprotected = HashSet::new();
        for group in saved.entries.iter().filter(|g| is_live(g.expires_at)) {
            for text in &group.prefixes {
                let Ok(parsed) = prefix::parse(text) else {
                    continue;
                };
                match group.list {
                    SavedList::Allow => covered(parsed.prefix, &mut |over| over.allow = true),
                    SavedList::Deny => covered(parsed.prefix, &mut |over| over.deny = true),
                }
                if group.list == SavedList::Deny && group.forced {
                    unprotected.insert(parsed.prefix);
                }
            }
        }
        for ban in saved.bans.iter().filter(|ban| is_live(ban.expires_at)) {
            covered(ban.prefix, &mut |over| over.ban = Some(ban.rule.clone()));
        }
        let state = shared.state();
        let protected = state.protected().map(|(prefix, _)| prefix);
        for prefix in protected.filter(|prefix| !unprotected.contains(prefix)) {
            covered(prefix, &mut |over| over.allow = true);
        }
        drop(state);
        let dropped = found.into_iter().filter_map(|(address, over)| match over {
            Over { allow: true, .. } => None,
            Over { deny: true, .. } => Some((address, None)),
            Over { ban, .. } => Some((address, Some(ban?))),
        });
        dropped.collect()
    }
}
