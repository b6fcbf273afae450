//! What the kernel is told of each prefix: the lists resolved, so that its longest match decides.

use std::collections::BTreeSet;

use ipnet::IpNet;
use packetwatch_abi::Standing;

use super::{
    entry::List,
    maps::Maps,
    state::{Node, State},
};
use crate::dataplane;

/// Beyond so many prefixes the whole table is built anew and switched, rather than each prefix
/// written on its own: one system call for each either way, but no packet sees a part of it.
pub(super) const REBUILD_ABOVE: usize = 1024;

/// Writes to bring the kernel up to date.
#[derive(Debug, PartialEq)]
pub(super) enum Projection {
    /// Of each prefix its standing, or nothing if it is no longer listed.
    Some(Vec<(IpNet, Option<Standing>)>),
    Whole(Vec<(IpNet, Standing)>),
}

impl Projection {
    /// For changes of `prefixes`: they and every listed prefix inside them.
    pub(super) fn of(state: &State, prefixes: &[IpNet], now: u64) -> Self {
        if prefixes.len() > REBUILD_ABOVE {
            return Self::whole(state, now);
        }
        let mut affected = BTreeSet::new();
        for prefix in prefixes {
            affected.insert(*prefix);
            affected.extend(state.nodes.inside(*prefix).map(|(inside, _)| inside));
            if affected.len() > REBUILD_ABOVE {
                return Self::whole(state, now);
            }
        }
        let standing = |prefix| (prefix, standing(state, prefix, now));
        Self::Some(affected.into_iter().map(standing).collect())
    }

    pub(super) fn whole(state: &State, now: u64) -> Self {
        Self::Whole(Self::standings(state, now))
    }

    /// Every listed prefix with its standing, in order.
    pub(super) fn standings(state: &State, now: u64) -> Vec<(IpNet, Standing)> {
        let mut standings = Vec::with_capacity(state.nodes.len());
        // What covers the prefix at hand, the widest first. In order, a prefix comes before what
        // lies inside it.
        let mut path: Vec<(IpNet, Standing)> = Vec::new();
        for (prefix, node) in state.nodes.iter() {
            while path
                .last()
                .is_some_and(|(wider, _)| !wider.contains(&prefix))
            {
                path.pop();
            }
            let around = path.last().map_or_else(Standing::default, |(_, s)| *s);
            let standing = narrowed(around, node, now);
            path.push((prefix, standing));
            standings.push((prefix, standing));
        }
        standings
    }

    pub(super) fn write(self, maps: &dyn Maps) -> Result<(), dataplane::Error> {
        match self {
            Self::Whole(standings) => maps.replace_standings(standings),
            Self::Some(standings) => {
                // First what goes, so that a full map has room for what comes.
                for (prefix, _) in standings.iter().filter(|(_, standing)| standing.is_none()) {
                    maps.remove_standing(*prefix)?;
                }
                for (prefix, standing) in standings {
                    if let Some(standing) = standing {
                        maps.put_standing(prefix, standing)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// The standing of a listed prefix.
fn standing(state: &State, prefix: IpNet, now: u64) -> Option<Standing> {
    state.nodes.get(prefix)?;
    let path: Vec<&Node> = state.nodes.covering(prefix).map(|(_, node)| node).collect();
    let widest_first = path.into_iter().rev();
    Some(widest_first.fold(Standing::default(), |around, node| {
        narrowed(around, node, now)
    }))
}

/// The standing of a prefix inside one with the standing `around`: the latest deadlines, since the
/// verdict is the same whatever the lengths; the slot of the most specific live entry.
fn narrowed(around: Standing, node: &Node, now: u64) -> Standing {
    let mut standing = around;
    if let Some(allow) = node.shown(List::Allow, now) {
        standing.allow_until = standing.allow_until.max(allow.draft.until);
        standing.allow_slot = allow.slot;
    }
    if let Some(protection) = node.protection(now) {
        standing.allow_until = standing.allow_until.max(protection.draft.until);
    }
    if let Some(deny) = node.shown(List::Deny, now) {
        standing.deny_until = standing.deny_until.max(deny.draft.until);
        standing.deny_slot = deny.slot;
    }
    standing
}
