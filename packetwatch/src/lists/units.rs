//! The prefix lengths that rules count by, as far as they count several addresses as one.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Lists, projection::Projection};
use crate::{dataplane, prefix::Family, rules::RuleSet};

/// Of IPv4 and of IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitLengths(pub(super) [BTreeSet<u8>; 2]);

impl Default for UnitLengths {
    /// Those of rules that say nothing of it.
    fn default() -> Self {
        Self::of([&RuleSet::default()])
    }
}

impl UnitLengths {
    /// Of all these rules together: those in force and those that follow a trial.
    pub fn of<'r>(rules: impl IntoIterator<Item = &'r RuleSet> + Clone) -> Self {
        Self(
            [(Family::V4, 32), (Family::V6, 128)].map(|(family, single)| {
                let rules = rules.clone().into_iter();
                let lengths = rules.flat_map(|rules| rules.units(family));
                lengths.filter(|length| *length < single).collect()
            }),
        )
    }

    /// The units that `prefix` lies in or is, the widest first.
    pub(super) fn around(&self, prefix: IpNet) -> impl DoubleEndedIterator<Item = IpNet> {
        let [v4, v6] = &self.0;
        let lengths = match prefix {
            IpNet::V4(_) => v4,
            IpNet::V6(_) => v6,
        };
        lengths
            .range(..=prefix.prefix_len())
            .filter_map(move |length| Some(IpNet::new(prefix.addr(), *length).ok()?.trunc()))
    }

    /// The units that count addresses inside `prefix` together with others beside it.
    pub(super) fn wider(&self, prefix: IpNet) -> impl DoubleEndedIterator<Item = IpNet> {
        self.around(prefix).filter(move |unit| *unit != prefix)
    }
}

impl Lists {
    pub fn counts_by(&self, lengths: &UnitLengths) -> bool {
        self.0.shared.exempt.counts_by(lengths)
    }

    /// Has the program count one by one who shares a unit of such a length with an allowed or protected
    /// address. Waits for writes.
    ///
    /// # Errors
    /// The kernel refuses it: the lengths are the former ones.
    pub fn count_by(&self, lengths: &UnitLengths) -> Result<(), dataplane::Error> {
        let shared = &self.0.shared;
        let _writer = shared.journal();
        let now = shared.clock.monotonic_ns();
        let (former, projection) = {
            let state = shared.state();
            let mut shared_units = state.exempt.shared_units(None, now);
            let former = state.exempt.count_by(lengths.clone());
            shared_units.extend(state.exempt.shared_units(None, now));
            (former, Projection::of(&state, shared_units, now))
        };
        let all = || Projection::standings(&shared.state(), now);
        let written = projection.write(&*shared.maps, all);
        if written.is_err() {
            // What of it the kernel has taken is true of those lengths, and whoever asks tries again.
            shared.exempt.count_by(former);
        }
        written
    }

    /// The length of the longest unit around `prefix`, or of itself, that holds an allowed or protected
    /// address and others: by it, and by wider ones, nobody is counted. 0 if there is none. Waits for no
    /// write.
    pub fn shared_len(&self, prefix: IpNet) -> u8 {
        let shared = &self.0.shared;
        shared
            .exempt
            .shared_len(prefix, shared.clock.monotonic_ns())
    }

    /// The same under rules with units of these lengths.
    pub fn shared_len_of(&self, lengths: &UnitLengths, prefix: IpNet) -> u8 {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        shared.exempt.shared_len_of(lengths, prefix, now)
    }
}
