//! What is left of a caller's bursts now, by the same arithmetic as the XDP program's.

use std::time::Duration;

use ipnet::IpNet;
use packetwatch_abi::{Caller, Limit};

use super::windows::Moment;
use crate::rules::{Rule, RuleSet, Trigger};

/// How a caller stands with a rule that limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst<'r> {
    pub rule: &'r Rule,
    limit: Limit,
    debt: u64,
}

impl Burst<'_> {
    /// Bytes of the smallest frame on Ethernet, without its check sequence.
    const SMALLEST_FRAME: u64 = 60;

    /// What may pass at once: connections, packets or bytes.
    pub fn left(&self) -> u64 {
        self.limit.left(self.debt).min(self.rule.burst)
    }

    /// Whether so much passes at once: of a rule over bytes those of a frame, else 1.
    pub fn passes(&self, amount: u64) -> bool {
        self.debt + self.limit.of(amount) <= self.limit.depth
    }

    /// The next packet, or call, is dropped, whatever its size.
    pub fn is_spent(&self) -> bool {
        let least = match self.rule.trigger {
            Trigger::Bytes(_) => Self::SMALLEST_FRAME,
            _ => 1,
        };
        !self.passes(least)
    }

    /// How long until nothing is owed: until then, who forgets the caller gives it the burst anew.
    pub fn paid_in(&self) -> Duration {
        Duration::from_nanos(Limit::paid_in(self.debt))
    }

    /// What is owed, in parts of `whole`, which is the burst.
    pub fn share(&self, whole: u64) -> u64 {
        let share = u128::from(self.debt) * u128::from(whole) / u128::from(self.limit.depth.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// The rules that limit this unit, and what is left of their bursts.
///
/// Other than windows, a debt outlives the end of a ban. Of other rules' the program makes nothing.
pub fn bursts<'r>(
    unit: IpNet,
    caller: &Caller,
    rules: &'r RuleSet,
    moment: Moment,
) -> Vec<Burst<'r>> {
    let is_void = caller.generation != moment.generation;
    let by_this = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| !rule.bans())
        .filter(|(_, rule)| rule.unit(unit.addr(), moment.shared_len) == unit);
    let burst = |(index, rule): (usize, &'r Rule)| {
        let limit = Limit::new(rule.trigger.count(), rule.burst);
        // The first word of its windows, which such a rule has no other use for.
        let word = if is_void { 0 } else { caller.windows[index][0] };
        let debt = limit.debt(word, moment.now);
        Burst { rule, limit, debt }
    };
    by_this.map(burst).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::windows::tests::caller;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000 * SECOND;
    const MOMENT: Moment = Moment {
        now: NOW,
        generation: 1,
        ended: 0,
        shared_len: 0,
    };

    fn rules() -> RuleSet {
        let cap = Rule {
            burst: 1000,
            ..Rule::limit("cap", Trigger::Packets(10))
        };
        RuleSet::validate(vec![Rule::new("scan", Trigger::DistinctPorts(10)), cap]).unwrap()
    }

    #[test]
    fn what_is_owed_is_told_until_it_is_paid() {
        let (rules, unit) = (rules(), "198.51.100.7/32".parse().unwrap());
        let mut caller = caller();
        let limit = Limit::new(10, 1000);
        let mut word = 0;
        for _ in 0..1000 {
            word = limit.after(word, NOW, limit.of(1)).unwrap();
        }
        caller.windows[1][0] = word;
        let told = |caller: &Caller, now, ended| {
            let moment = Moment {
                now,
                ended,
                ..MOMENT
            };
            let [burst] = bursts(unit, caller, &rules, moment)[..] else {
                panic!("one rule limits");
            };
            (burst.left(), burst.is_spent(), burst.paid_in().as_secs())
        };
        assert_eq!(told(&caller, NOW, 0), (0, true, 100));
        // A ban that has ended since changes nothing of it.
        assert_eq!(told(&caller, NOW + SECOND, NOW + 1), (10, false, 99));
        assert_eq!(told(&caller, NOW + 101 * SECOND, 0), (1000, false, 0));
        caller.generation = 0;
        assert_eq!(told(&caller, NOW, 0), (1000, false, 0));
    }

    #[test]
    fn a_rule_limits_its_unit_alone() {
        let rules = rules();
        let of = |unit: &str| bursts(unit.parse().unwrap(), &caller(), &rules, MOMENT).len();
        assert_eq!((of("2001:db8::/64"), of("2001:db8::1/128")), (1, 0));
    }
}
