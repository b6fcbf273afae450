//! What the kernel is told of each prefix: the lists resolved, so that the longest match decides.

use std::{collections::BTreeSet, iter};

use ipnet::IpNet;
use packetwatch_abi::{FOREVER, Standing};

use super::{
    entry::List,
    maps::Maps,
    shelf::{Listed, Node, Shelf},
    state::State,
    trial::OnTrial,
};
use crate::dataplane::{self, Change, Region};

/// Beyond so many regions all are built anew and switched, rather than each written on its own.
pub(super) const REBUILD_ABOVE: usize = 256;

/// Prefixes in order, each with the standing of what no longer prefix in it covers.
pub(super) type Standings = Vec<(IpNet, Standing)>;

/// Writes to bring the kernel up to date.
#[derive(Debug, PartialEq)]
pub(super) enum Projection {
    /// Of each region what covers it and what lies inside.
    Some(Vec<(Region, Standings)>),
    Whole(Standings),
}

impl Projection {
    /// For changes that reach so far, see [`State::reach`]: the regions of these prefixes.
    pub(super) fn of(state: &State, prefixes: impl IntoIterator<Item = IpNet>, now: u64) -> Self {
        let mut affected = BTreeSet::new();
        for prefix in prefixes {
            let regions = Region::of(prefix);
            if affected.len() + regions.len() > REBUILD_ABOVE {
                // Unless most of them are the same.
                affected.extend(regions);
                if affected.len() > REBUILD_ABOVE {
                    return Self::whole(state, now);
                }
            } else {
                affected.extend(regions);
            }
        }
        let standings = |region: Region| (region, Self::inside(state, region, now));
        Self::Some(affected.into_iter().map(standings).collect())
    }

    pub(super) fn whole(state: &State, now: u64) -> Self {
        Self::Whole(Self::standings(state, now))
    }

    /// Every listed prefix with its standing.
    pub(super) fn standings(state: &State, now: u64) -> Standings {
        let units = state.exempt.shared_units(None, now);
        let mut standings = Vec::with_capacity(state.nodes.len() + units.len());
        resolve(state, state.nodes.iter(), units, now, &mut standings);
        standings
    }

    fn inside(state: &State, region: Region, now: u64) -> Standings {
        let prefix = region.prefix();
        let mut nodes: Vec<(IpNet, &Node)> = state.nodes.covering(prefix).collect();
        nodes.reverse();
        let inside = state.nodes.inside(prefix);
        nodes.extend(inside.filter(|(inside, _)| *inside != prefix));
        let units = state.exempt.shared_units(Some(prefix), now);
        let mut standings = Vec::with_capacity(nodes.len() + units.len());
        resolve(state, nodes.into_iter(), units, now, &mut standings);
        standings
    }

    /// `all` is asked for every standing if the kernel needs them to make room.
    pub(super) fn write(
        self,
        maps: &dyn Maps,
        all: impl FnOnce() -> Standings,
    ) -> Result<(), dataplane::Error> {
        match self {
            Self::Whole(standings) => maps.replace_standings(&standings),
            Self::Some(regions) => match maps.set_standings(regions) {
                Change::Done => Ok(()),
                Change::Outgrown => maps.replace_standings(&all()),
            },
        }
    }
}

/// Gives each prefix its standing. Nodes and shared units come in order: what covers a prefix before it.
fn resolve<'a>(
    state: &State,
    nodes: impl Iterator<Item = (IpNet, &'a Node)>,
    units: Vec<IpNet>,
    now: u64,
    standings: &mut Standings,
) {
    // What covers the prefix at hand, the widest first, each with the end of all denies inside.
    let mut path: Vec<(IpNet, Standing, u64)> = Vec::new();
    for (prefix, node, is_shared) in merged(nodes, units) {
        while path
            .last()
            .is_some_and(|(wider, ..)| !wider.contains(&prefix))
        {
            path.pop();
        }
        let around = path.last().map(|(_, standing, end)| (*standing, *end));
        let (around, mut end) = around.unwrap_or((Standing::default(), FOREVER));
        let on_trial = state.on_trial(prefix);
        let node = node.filter(|node| on_trial.is_some() || !node.is_over(now));
        if node.is_none() && !is_shared {
            continue;
        }
        let mut standing = around;
        if let Some(node) = node {
            if let Some(uncovered) = on_trial.and_then(|trial| trial.uncovered(node, now)) {
                end = end.min(uncovered);
            }
            standing = narrowed(around, node, on_trial, now);
            standing.deny_until = standing.deny_until.min(end);
        }
        if is_shared {
            standing.shared_len = prefix.prefix_len();
        }
        // Of use to nobody, and one standing less to keep apart.
        if standing.allow_until == FOREVER {
            standing.shared_len = 0;
        }
        path.push((prefix, standing, end));
        standings.push((prefix, standing));
    }
}

/// Both in one order; whether each is a shared unit.
fn merged<'a>(
    nodes: impl Iterator<Item = (IpNet, &'a Node)>,
    units: Vec<IpNet>,
) -> impl Iterator<Item = (IpNet, Option<&'a Node>, bool)> {
    let (mut nodes, mut units) = (nodes.peekable(), units.into_iter().peekable());
    iter::from_fn(move || {
        let unit = units.peek().copied();
        let is_next = |(prefix, _): &(IpNet, &Node)| unit.is_none_or(|unit| *prefix <= unit);
        match nodes.next_if(is_next) {
            Some((prefix, node)) => {
                let is_shared = units.next_if_eq(&prefix).is_some();
                Some((prefix, Some(node), is_shared))
            }
            None => units.next().map(|unit| (unit, None, true)),
        }
    })
}

/// The standing of a prefix inside one with the standing `around`: the latest deadlines, since the
/// verdict is the same whatever the lengths; the slot of the most specific live entry.
fn narrowed(around: Standing, node: &Node, on_trial: Option<OnTrial>, now: u64) -> Standing {
    let mut standing = around;
    let until = |shelf, listed: &Listed| {
        let until = listed.about.until;
        on_trial.map_or(until, |trial| trial.until(shelf, until))
    };
    if let Some(allow) = node.shown(List::Allow, now) {
        let is_written = node.on(Shelf::Allow).is_some_and(|a| a.is_live(now));
        standing.is_derived = !is_written;
        standing.allow_until = standing.allow_until.max(until(Shelf::Allow, allow));
        standing.allow_slot = allow.slot;
    }
    if let Some(protection) = node.protection(now) {
        standing.allow_until = standing.allow_until.max(protection.about.until);
    }
    if let Some(deny) = node.shown(List::Deny, now) {
        standing.deny_until = standing.deny_until.max(until(Shelf::Deny, deny));
        standing.deny_slot = deny.slot;
    }
    standing
}
