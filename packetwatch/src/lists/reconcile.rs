//! Kernel and lists compared, and the kernel's maps mended: they are a projection of the lists, and
//! whatever else is in them somebody else has put there.
//!
//! A comparison first goes without a lock, so that neither bans nor API writes wait for it. What
//! differs then may be a write that is under way: it is looked at again with the writers kept out,
//! and counted only if it differs still.

use std::collections::BTreeMap;

use ipnet::IpNet;
use packetwatch_abi::Standing;

use super::{
    Lists, Shared,
    projection::{Projection, REBUILD_ABOVE},
};
use crate::dataplane;

/// Bans that are looked at again before others may be set: microseconds each.
const BANS_AT_ONCE: usize = 256;

/// What was found in a map, and mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// listed, and not in the map
    pub missing: u64,
    /// in the map with another value
    pub changed: u64,
    /// in the map, and not listed
    pub foreign: u64,
    /// the first of them
    pub example: Option<IpNet>,
}

/// In the order of mending: a full map has to have room for what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Foreign,
    Changed,
    Missing,
}

impl Differences {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, kind: Kind, prefix: IpNet) {
        *match kind {
            Kind::Foreign => &mut self.foreign,
            Kind::Changed => &mut self.changed,
            Kind::Missing => &mut self.missing,
        } += 1;
        self.example.get_or_insert(prefix);
    }
}

impl Lists {
    /// Compares the allow and deny lists with what the kernel judges by.
    ///
    /// # Errors
    /// The map cannot be read or written; what was found is found again the next time.
    pub fn reconcile_entries(&self) -> Result<Differences, dataplane::Error> {
        let shared = &self.0.shared;
        let (_, suspects) = shared.compare_entries(shared.clock.monotonic_ns())?;
        if suspects.is_empty() && shared.maps.lists_in_force()? {
            return Ok(Differences::default());
        }
        // An entry that has ended stands in the kernel until the sweep, which may be a second away.
        let _writer = shared.journal_without_ended();
        let now = shared.clock.monotonic_ns();
        let is_ours = shared.maps.lists_in_force()?;
        let (expected, found) = shared.compare_entries(now)?;
        if found.is_empty() && is_ours {
            return Ok(Differences::default());
        }
        let mut differences = Differences::default();
        for (prefix, kind) in &found {
            differences.add(*kind, *prefix);
        }
        if found.is_empty() {
            // Another table with the same entries.
            differences.changed = 1;
        }
        let mend = if is_ours && found.len() <= REBUILD_ABOVE {
            let standing = |prefix: IpNet| Some(expected[position(&expected, prefix)?].1);
            let prefixes = found.into_keys();
            Projection::Some(prefixes.map(|prefix| (prefix, standing(prefix))).collect())
        } else {
            Projection::Whole(expected)
        };
        mend.write(&*shared.maps)?;
        Ok(differences)
    }

    /// Compares the bans, spent ones too, with those in the kernel.
    ///
    /// # Errors
    /// The map cannot be read or written; what was found is found again the next time.
    pub fn reconcile_bans(&self) -> Result<Differences, dataplane::Error> {
        let shared = &self.0.shared;
        let expected = shared.bans().deadlines();
        let each = |visit: &mut dyn FnMut(IpNet, u64)| {
            let mut visit = |prefix, ban: packetwatch_abi::Ban| visit(prefix, ban.until);
            shared.maps.each_ban(&mut visit)
        };
        let suspects = compare(&expected, each)?;
        let mut suspects: Vec<(Kind, IpNet)> = suspects
            .into_iter()
            .map(|(prefix, kind)| (kind, prefix))
            .collect();
        suspects.sort_unstable();
        let mut differences = Differences::default();
        for some in suspects.chunks(BANS_AT_ONCE) {
            let bans = shared.bans();
            for (_, prefix) in some {
                let there = shared.maps.ban_of(*prefix)?.map(|ban| ban.until);
                match (bans.deadline(*prefix), there) {
                    (Some(until), None) => {
                        shared.maps.ban(*prefix, until)?;
                        differences.add(Kind::Missing, *prefix);
                    }
                    (Some(until), Some(other)) if until != other => {
                        shared.maps.ban(*prefix, until)?;
                        differences.add(Kind::Changed, *prefix);
                    }
                    (None, Some(_)) => {
                        shared.maps.remove_ban(*prefix)?;
                        differences.add(Kind::Foreign, *prefix);
                    }
                    _ => {}
                }
            }
        }
        Ok(differences)
    }
}

/// In order, by prefix.
type Expected<T> = Vec<(IpNet, T)>;

impl Shared {
    fn compare_entries(
        &self,
        now: u64,
    ) -> Result<(Expected<Standing>, BTreeMap<IpNet, Kind>), dataplane::Error> {
        let expected = Projection::standings(&self.state(), now);
        let found = compare(&expected, |visit| self.maps.each_standing(visit))?;
        Ok((expected, found))
    }
}

fn position<T>(expected: &[(IpNet, T)], prefix: IpNet) -> Option<usize> {
    expected.binary_search_by_key(&prefix, |(key, _)| *key).ok()
}

fn compare<T: PartialEq>(
    expected: &[(IpNet, T)],
    each: impl FnOnce(&mut dyn FnMut(IpNet, T)) -> Result<(), dataplane::Error>,
) -> Result<BTreeMap<IpNet, Kind>, dataplane::Error> {
    let mut seen = vec![false; expected.len()];
    let mut found = BTreeMap::new();
    each(&mut |prefix, value| match position(expected, prefix) {
        Some(at) => {
            seen[at] = true;
            if expected[at].1 != value {
                found.insert(prefix, Kind::Changed);
            }
        }
        None => {
            found.insert(prefix, Kind::Foreign);
        }
    })?;
    let unseen = expected.iter().zip(seen).filter(|(_, seen)| !seen);
    found.extend(unseen.map(|((prefix, _), _)| (*prefix, Kind::Missing)));
    Ok(found)
}
