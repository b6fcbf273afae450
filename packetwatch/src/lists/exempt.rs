//! Who no rule bans: the allowed and protected prefixes once more, apart from the rest of the lists.
//!
//! While a million entries are put in memory and made into what the kernel is told, the state is
//! locked for some hundred milliseconds. The rule loop, which judges in less than ten, asks here:
//! this lock is held for few entries at a time, and a million allowed prefixes are made ready before
//! it is taken.

use std::{
    collections::BTreeSet,
    sync::{
        RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use ipnet::IpNet;

use super::{prefix_map::PrefixMap, units::UnitLengths};

/// More changes than these are made on a copy, while the rule loop goes by what was.
const IN_PLACE: usize = 1000;

/// When a prefix is exempt, in CLOCK_MONOTONIC nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exemption {
    /// until then by an entry that was written
    pub(super) until: u64,
    /// from then on by its protection, which a forced deny suspends
    pub(super) from: u64,
}

impl Exemption {
    fn is_live(&self, now: u64) -> bool {
        now < self.until || self.from <= now
    }
}

#[derive(Debug, Default)]
pub(super) struct Exempt {
    /// that the rules have; taken before the prefixes
    units: RwLock<UnitLengths>,
    prefixes: RwLock<PrefixMap<Exemption>>,
    is_allow_on_trial: AtomicBool,
}

impl Exempt {
    /// Whether the prefix lies in an exempt one, or is one.
    pub(super) fn covers(&self, prefix: IpNet, now: u64) -> bool {
        let prefixes = self.prefixes.read().expect("nothing panics here");
        let mut covering = prefixes.covering(prefix);
        covering.any(|(_, exemption)| exemption.is_live(now))
    }

    /// Whether the prefix lies in an exempt one, or one lies in it.
    pub(super) fn touches(&self, prefix: IpNet, now: u64) -> bool {
        let prefixes = self.prefixes.read().expect("nothing panics here");
        let mut near = prefixes.covering(prefix).chain(prefixes.inside(prefix));
        near.any(|(_, exemption)| exemption.is_live(now))
    }

    /// The length of the longest unit around `prefix`, or of itself, that holds an exempt prefix and others:
    /// by it, and by wider ones, nobody is counted. 0 if there is none.
    pub(super) fn shared_len(&self, prefix: IpNet, now: u64) -> u8 {
        let units = self.units.read().expect("nothing panics here");
        self.shared_len_of(&units, prefix, now)
    }

    /// The same by units of these lengths.
    pub(super) fn shared_len_of(&self, units: &UnitLengths, prefix: IpNet, now: u64) -> u8 {
        let mut around = units.around(prefix).rev().peekable();
        if around.peek().is_none() {
            return 0;
        }
        let prefixes = self.prefixes.read().expect("nothing panics here");
        let shared_len = around.find(|unit| is_shared(*unit, &prefixes, now));
        shared_len.map_or(0, |unit| unit.prefix_len())
    }

    /// The units that hold an exempt prefix and others, in order: all of them, or those that a prefix lies
    /// in and those inside it.
    pub(super) fn shared_units(&self, within: Option<IpNet>, now: u64) -> Vec<IpNet> {
        let units = self.units.read().expect("nothing panics here");
        let prefixes = self.prefixes.read().expect("nothing panics here");
        let mut shared: Vec<IpNet> = Vec::new();
        let mut add = |(prefix, exemption): (IpNet, &Exemption)| {
            if exemption.is_live(now) {
                shared.extend(units.wider(prefix));
            }
        };
        match within {
            None => prefixes.iter().for_each(add),
            Some(within) => {
                prefixes.inside(within).for_each(&mut add);
                let around = units.around(within);
                shared.extend(around.filter(|unit| is_shared(*unit, &prefixes, now)));
            }
        }
        shared.sort_unstable();
        shared.dedup();
        shared
    }

    /// The units around these prefixes that no other exempt prefix is inside of: whether they are shared may
    /// change with these.
    pub(super) fn units_of_these_alone(&self, these: &BTreeSet<IpNet>, now: u64) -> Vec<IpNet> {
        let units = self.units.read().expect("nothing panics here");
        let prefixes = self.prefixes.read().expect("nothing panics here");
        let mut around: Vec<IpNet> = these.iter().flat_map(|one| units.wider(*one)).collect();
        around.sort_unstable();
        around.dedup();
        around.retain(|unit| {
            let mut others = prefixes
                .inside(*unit)
                .filter(|(prefix, _)| prefix != unit && !these.contains(prefix));
            !others.any(|(_, exemption)| exemption.is_live(now))
        });
        around
    }

    pub(super) fn counts_by(&self, lengths: &UnitLengths) -> bool {
        *self.units.read().expect("nothing panics here") == *lengths
    }

    /// Returns the former ones.
    pub(super) fn count_by(&self, lengths: UnitLengths) -> UnitLengths {
        let mut units = self.units.write().expect("nothing panics here");
        std::mem::replace(&mut *units, lengths)
    }

    /// Each prefix with what is so from now on. One writer at a time, which holds the state.
    pub(super) fn set(&self, changes: Vec<(IpNet, Option<Exemption>)>) {
        let make = |prefixes: &mut PrefixMap<Exemption>| {
            for (prefix, to) in &changes {
                match to {
                    Some(exemption) => prefixes.insert(*prefix, *exemption),
                    None => prefixes.remove(*prefix),
                };
            }
        };
        if changes.len() <= IN_PLACE {
            return make(&mut self.prefixes.write().expect("nothing panics here"));
        }
        let mut next = self.prefixes.read().expect("nothing panics here").clone();
        make(&mut next);
        // The former is freed after the lock is let go.
        std::mem::swap(
            &mut *self.prefixes.write().expect("nothing panics here"),
            &mut next,
        );
    }

    pub(super) fn set_allow_on_trial(&self, is_on_trial: bool) {
        self.is_allow_on_trial.store(is_on_trial, Ordering::Relaxed);
    }

    /// Whether a change of the allow list waits to be confirmed.
    pub(super) fn is_allow_on_trial(&self) -> bool {
        self.is_allow_on_trial.load(Ordering::Relaxed)
    }
}

/// Whether an exempt prefix lies inside a unit, and does not fill it.
fn is_shared(unit: IpNet, prefixes: &PrefixMap<Exemption>, now: u64) -> bool {
    let mut inside = prefixes.inside(unit);
    inside.any(|(prefix, exemption)| prefix != unit && exemption.is_live(now))
}
