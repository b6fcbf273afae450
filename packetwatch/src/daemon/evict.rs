//! Which callers go when the sweep makes room. The program removes none.
//!
//! Those that hold nothing go: silent for longer than any window reaches, not banned, and with nothing
//! owed to a limit, whose burst they would have anew. Where room is short, some go that a window or a
//! limit still holds something of: those silent for a moment that have used up least of any rule, and
//! none that is halfway to a threshold. Their counts begin anew, so their ban may come late by less
//! than half of N. Those that owe a limit longest stay, a quarter of the table and no more: who would
//! have one of them forgotten must send from as many sources that owe as long.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use ipnet::IpNet;
use packetwatch_abi::Caller;

use crate::{
    api::{
        bursts::{Burst, bursts},
        windows::{Count, Moment, counts},
    },
    rules::RuleSet,
};

/// Callers that a sweep gives up, beside those that hold nothing.
const AT_ONCE: usize = 8192;
/// Nanoseconds from the beginning of a round: who was seen beyond was seen by nobody, but written by
/// somebody else, and would be kept for as long. Reading a full table takes a tenth of a second.
const AHEAD: u64 = 60_000_000_000;
/// Who called within this time is not given up.
const SILENT: Duration = Duration::from_secs(2);

/// One round of the sweep: offered each caller, it keeps those that may go.
pub(super) struct Eviction<'r> {
    rules: &'r RuleSet,
    moment: Moment,
    /// callers silent for longer hold nothing in a window
    keep: Duration,
    /// entries to be given up if they can be, least used up first
    short_of: usize,
    /// places of those that owe longest
    debtors: usize,
    idle: Vec<Candidate>,
    /// the greatest on top
    spare: BinaryHeap<(Standing, Candidate)>,
    /// who owes, and how long; the shortest on top
    owing: BinaryHeap<Reverse<(Duration, Standing, Candidate)>>,
}

/// How much forgetting a caller would give away, least first: what it has [`used_up`], and of those that
/// no rule holds anything of, their packets.
type Standing = (u64, u64);

/// A caller that may go, if it has been silent since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) unit: IpNet,
    pub(super) last_seen: u64,
}

impl<'r> Eviction<'r> {
    /// `crowd`: entries beyond those that there should be, of the `capacity` that there is room for.
    pub(super) fn new(
        rules: &'r RuleSet,
        moment: Moment,
        keep: Duration,
        crowd: u64,
        capacity: u32,
    ) -> Self {
        let short_of = usize::try_from(crowd).map_or(AT_ONCE, |crowd| crowd.min(AT_ONCE));
        Self {
            rules,
            moment,
            keep,
            short_of,
            debtors: capacity as usize / 4,
            idle: Vec::new(),
            spare: BinaryHeap::new(),
            owing: BinaryHeap::new(),
        }
    }

    pub(super) fn offer(&mut self, unit: IpNet, caller: &Caller) {
        let last_seen = caller.last_seen;
        let candidate = Candidate { unit, last_seen };
        if last_seen > self.moment.now.saturating_add(AHEAD) {
            self.idle.push(candidate);
            return;
        }
        let silent = Duration::from_nanos(self.moment.now.saturating_sub(last_seen));
        let may_be_spare = self.short_of > 0 && silent > SILENT;
        if silent <= self.keep && !may_be_spare {
            return;
        }
        let bursts = bursts(unit, caller, self.rules, self.moment);
        let owes = bursts.iter().map(Burst::paid_in).max().unwrap_or_default();
        if silent > self.keep && owes.is_zero() {
            self.idle.push(candidate);
            return;
        }
        let counts = counts(unit, caller, self.rules, self.moment);
        if !may_be_spare || is_near(caller, &counts) {
            return;
        }
        let standing = (used_up(&counts, &bursts), caller.packets);
        if owes.is_zero() {
            self.spare(standing, candidate);
        } else {
            self.owing.push(Reverse((owes, standing, candidate)));
        }
        if self.owing.len() > self.debtors
            && let Some(Reverse((_, standing, candidate))) = self.owing.pop()
        {
            self.spare(standing, candidate);
        }
    }

    fn spare(&mut self, standing: Standing, candidate: Candidate) {
        self.spare.push((standing, candidate));
        if self.spare.len() > self.short_of {
            self.spare.pop();
        }
    }

    /// Those that hold nothing, and those that are given up: as many as are missing.
    pub(super) fn chosen(self) -> (Vec<Candidate>, Vec<Candidate>) {
        let mut spare = self.spare.into_sorted_vec();
        spare.truncate(self.short_of.saturating_sub(self.idle.len()));
        let spare = spare.into_iter().map(|(_, candidate)| candidate);
        (self.idle, spare.collect())
    }
}

/// Halfway to a threshold, or beyond one and not judged yet.
fn is_near(caller: &Caller, counts: &[Count<'_>]) -> bool {
    caller.since.is_before(caller.offended_at)
        || counts
            .iter()
            .any(|count| count.counted >= count.rule.trigger.count().div_ceil(2))
}

/// Of the rule that it has used up most of: how much, in parts of a whole that tell one packet of the
/// greatest N.
fn used_up(counts: &[Count<'_>], bursts: &[Burst<'_>]) -> u64 {
    const WHOLE: u64 = 1 << 48;
    let of_windows = counts.iter().map(|count| count.share(WHOLE));
    let of_bursts = bursts.iter().map(|burst| burst.share(WHOLE));
    of_windows.chain(of_bursts).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use packetwatch_abi::{Bucket, Limit, PortSeen, place};

    use super::*;
    use crate::{
        api::windows::tests::caller,
        rules::{Rule, Trigger},
    };

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000 * SECOND;
    const MOMENT: Moment = Moment {
        now: NOW,
        generation: 1,
        ended: 0,
    };

    fn unit(host: u8) -> IpNet {
        IpNet::from(std::net::IpAddr::from([198, 18, 0, host]))
    }

    fn silent(seconds: u64, packets: u64) -> Caller {
        Caller {
            last_seen: NOW - seconds * SECOND,
            packets,
            ..caller()
        }
    }

    fn hosts(candidates: Vec<Candidate>) -> Vec<IpNet> {
        candidates
            .into_iter()
            .map(|candidate| candidate.unit)
            .collect()
    }

    fn rules() -> RuleSet {
        RuleSet::validate(vec![Rule::new("scan", Trigger::DistinctPorts(10))]).unwrap()
    }

    fn round(crowd: u64, callers: &[(u8, Caller)]) -> (Vec<IpNet>, Vec<IpNet>) {
        round_of(&rules(), crowd, callers)
    }

    /// Of a table of twelve places.
    fn round_of(rules: &RuleSet, crowd: u64, callers: &[(u8, Caller)]) -> (Vec<IpNet>, Vec<IpNet>) {
        let keep = rules.longest_within();
        let mut eviction = Eviction::new(rules, MOMENT, keep, crowd, 12);
        for (host, caller) in callers {
            eviction.offer(unit(*host), caller);
        }
        let (idle, spare) = eviction.chosen();
        (hosts(idle), hosts(spare))
    }

    #[test]
    fn where_there_is_room_those_go_that_hold_nothing() {
        let callers = [(1, silent(61, 9)), (2, silent(60, 1)), (3, silent(0, 1))];
        assert_eq!(round(0, &callers), (vec![unit(1)], vec![]));
    }

    #[test]
    fn who_was_seen_in_times_to_come_goes() {
        let seen = |ahead| Caller {
            last_seen: NOW + ahead,
            ..caller()
        };
        let callers = [
            (1, seen(AHEAD)),
            (2, seen(AHEAD + 1)),
            (3, seen(u64::MAX - NOW)),
        ];
        assert_eq!(round(0, &callers), (vec![unit(2), unit(3)], vec![]));
    }

    #[test]
    fn where_room_is_short_the_silent_ones_that_did_least_go_first() {
        let callers = [
            (1, silent(9, 5)),
            (2, silent(9, 1)),
            (3, silent(9, 3)),
            (4, silent(1, 0)),
        ];
        assert_eq!(round(2, &callers).1, [unit(2), unit(3)]);
        assert_eq!(round(9, &callers).1, [unit(2), unit(3), unit(1)]);
        let with_idle = [(1, silent(99, 5)), (2, silent(9, 1)), (3, silent(9, 3))];
        assert_eq!(round(2, &with_idle), (vec![unit(1)], vec![unit(2)]));
    }

    #[test]
    fn what_rules_look_at_tells_who_did_least() {
        let rules = RuleSet::validate(vec![
            Rule::new("calls", Trigger::Connections(100)),
            Rule::new("volume", Trigger::Packets((1 << 39) - 1)),
        ]);
        let rules = rules.unwrap();
        // All within the last bucket but one.
        let counted = |calls: u64, packets: u64| {
            let mut caller = silent(9, packets);
            caller.calls = calls;
            let epoch = caller.since.epoch(NOW - 9 * SECOND, 60 * SECOND / 8);
            for (rule, count) in [calls, packets].into_iter().enumerate() {
                caller.windows[rule][place(epoch)] = Bucket::new(epoch, count).0;
            }
            caller
        };
        // Without a call, yet nearer to a rule; and a call of a hundred is more than many packets.
        let callers = [
            (1, counted(0, 1 << 37)),
            (2, counted(20, 20)),
            (3, counted(1, 1)),
        ];
        assert_eq!(round_of(&rules, 1, &callers).1, [unit(3)]);
        assert_eq!(round_of(&rules, 9, &callers).1, [unit(3), unit(2), unit(1)]);
        let few = [(1, counted(0, 2)), (2, counted(0, 1))];
        assert_eq!(round_of(&rules, 1, &few).1, [unit(2)]);
    }

    #[test]
    fn who_is_halfway_to_a_threshold_or_beyond_one_stays() {
        let ports = |count: u16| {
            let mut caller = silent(9, 1);
            (1..=count).for_each(|port| {
                caller.ports[usize::from(port)] = PortSeen::new(NOW - 9 * SECOND, port).0;
            });
            caller
        };
        let mut offender = silent(9, 1);
        offender.offended_at = NOW - 9 * SECOND;
        let callers = [(4, ports(4)), (5, ports(5)), (6, offender)];
        assert_eq!(round(9, &callers).1, [unit(4)]);
    }

    /// A rule that alone has windows of a second, whatever its burst.
    fn limiting() -> RuleSet {
        let cap = Rule {
            burst: 1000,
            ..Rule::limit("cap", Trigger::Packets(10))
        };
        RuleSet::validate(vec![cap]).unwrap()
    }

    /// Silent for a while, and what passed before is paid for in so many seconds.
    fn owing(seconds: u64) -> Caller {
        let limit = Limit::new(10, 1000);
        let mut caller = silent(9, 1);
        let now = NOW + seconds * SECOND - SECOND / 10;
        caller.windows[0][0] = limit.after(0, now, limit.of(1)).unwrap();
        caller
    }

    #[test]
    fn who_owes_a_limit_is_neither_idle_nor_spare_until_it_is_paid() {
        let rules = limiting();
        let callers = [(1, owing(90)), (2, silent(9, 1)), (3, owing(1))];
        assert_eq!(round_of(&rules, 0, &callers), (vec![unit(2)], vec![]));
        assert_eq!(round_of(&rules, 9, &callers), (vec![unit(2)], vec![]));
        let mut paid = owing(0);
        assert_eq!(round_of(&rules, 0, &[(1, paid)]).0, [unit(1)]);
        paid = owing(90);
        paid.generation = 0;
        assert_eq!(
            round_of(&rules, 0, &[(1, paid)]).0,
            [unit(1)],
            "other rules"
        );
    }

    #[test]
    fn a_quarter_of_the_table_is_for_those_that_owe_longest() {
        let rules = limiting();
        let callers: Vec<_> = (1..=6).map(|n| (n, owing(10 * u64::from(n)))).collect();
        assert_eq!(round_of(&rules, 0, &callers), (vec![], vec![]));
        let longest = &callers[3..];
        assert_eq!(round_of(&rules, 9, longest), (vec![], vec![]));
        let order = [unit(1), unit(2), unit(3)];
        assert_eq!(round_of(&rules, 9, &callers).1, order);
        let backwards: Vec<_> = callers.iter().rev().copied().collect();
        assert_eq!(round_of(&rules, 9, &backwards).1, order);
    }

    #[test]
    fn a_round_gives_up_a_bounded_number() {
        let rules = rules();
        let mut eviction = Eviction::new(&rules, MOMENT, Duration::from_secs(60), u64::MAX, 12);
        for host in 0..2 * AT_ONCE as u32 {
            let unit = IpNet::from(std::net::IpAddr::from((host + (1 << 28)).to_be_bytes()));
            eviction.offer(unit, &silent(9, 1));
        }
        assert_eq!(eviction.chosen().1.len(), AT_ONCE);
    }
}
