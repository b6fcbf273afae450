//! Kernel and lists compared, and the kernel's maps mended: they are a projection of the lists, and
//! whatever else is in them somebody else has put there.
//!
//! A comparison first goes without a lock, so that neither bans nor API writes wait for it. What
//! differs then may be a write that is under way: it is looked at again with the writers kept out,
//! and counted only if it differs still.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Lists, projection::Projection, sweep::Reach};
use crate::dataplane::{self, Differences};

/// Bans that are looked at again before others may be set: microseconds each.
const BANS_AT_ONCE: usize = 256;

/// In the order of mending: a full map has to have room for what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Foreign,
    Changed,
    Missing,
}

impl Lists {
    /// Whether the allow and deny lists in the kernel are still what was written, as far as sums
    /// tell: much cheaper than [`Lists::reconcile_entries`].
    pub fn entries_are_as_written(&self) -> bool {
        let maps = &self.0.shared.maps;
        // An error is the comparison's to tell.
        maps.standings_as_written() && maps.lists_in_force().unwrap_or(false)
    }

    /// Whether the bans in the kernel are still what was written: much cheaper than
    /// [`Lists::reconcile_bans`].
    pub fn bans_are_as_written(&self) -> bool {
        // An error is the comparison's to tell.
        self.0.shared.maps.bans_as_written().unwrap_or(false)
    }

    /// Compares the allow and deny lists with what the kernel judges by.
    ///
    /// # Errors
    /// The map cannot be read or written; what was found is found again the next time.
    pub fn reconcile_entries(&self) -> Result<Differences, dataplane::Error> {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let expected = Projection::standings(&shared.state(), now);
        let suspects = shared.maps.compare_standings(&expected)?;
        drop(expected);
        if suspects.is_empty() && shared.maps.lists_in_force()? {
            return Ok(Differences::default());
        }
        // An entry that has ended stands in the kernel until the sweep, which may be a second away.
        let _writer = shared.journal_without_ended(Reach::All);
        let now = shared.clock.monotonic_ns();
        let expected = Projection::standings(&shared.state(), now);
        let mut differences = shared.maps.compare_standings(&expected)?;
        if !shared.maps.lists_in_force()? {
            // Another table, whatever it holds.
            differences.changed += 1;
        }
        if !differences.is_empty() {
            shared.maps.replace_standings(&expected)?;
        }
        Ok(differences)
    }

    /// Compares the bans, spent ones too, with those in the kernel.
    ///
    /// # Errors
    /// The map cannot be read or written; what was found is found again the next time.
    pub fn reconcile_bans(&self) -> Result<Differences, dataplane::Error> {
        let shared = &self.0.shared;
        // What is no ban cannot be ours, so that no writer is to be kept out.
        let mut differences = shared.maps.remove_stray_bans()?;
        let expected = shared.bans().deadlines();
        let each = |visit: &mut dyn FnMut(IpNet, u64)| shared.maps.each_ban(visit);
        let suspects = compare(&expected, each)?;
        let mut suspects: Vec<(Kind, IpNet)> = suspects
            .into_iter()
            .map(|(prefix, kind)| (kind, prefix))
            .collect();
        suspects.sort_unstable();
        for some in suspects.chunks(BANS_AT_ONCE) {
            let bans = shared.bans();
            for (_, prefix) in some {
                let there = shared.maps.ban_of(*prefix)?.map(|ban| ban.until);
                match (bans.deadline(*prefix), there) {
                    (Some(until), None) => {
                        shared.maps.ban(*prefix, until)?;
                        differences.missing(*prefix);
                    }
                    (Some(until), Some(other)) if until != other => {
                        shared.maps.ban(*prefix, until)?;
                        differences.changed(*prefix);
                    }
                    (None, Some(_)) => {
                        shared.maps.remove_ban(*prefix)?;
                        differences.foreign(*prefix);
                    }
                    _ => {}
                }
            }
        }
        for prefix in shared.maps.mend_ban_filter() {
            differences.missing(prefix);
        }
        Ok(differences)
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
