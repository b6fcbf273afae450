//! Who no rule bans: the allowed and protected prefixes once more, apart from the rest of the lists.
//!
//! While a million entries are put in memory and made into what the kernel is told, the state is
//! locked for some hundred milliseconds. The rule loop, which judges in less than ten, asks here:
//! this lock is held for few entries at a time, and a million allowed prefixes are made ready before
//! it is taken.

use std::sync::{
    RwLock,
    atomic::{AtomicBool, Ordering},
};

use ipnet::IpNet;

use super::prefix_map::PrefixMap;

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
