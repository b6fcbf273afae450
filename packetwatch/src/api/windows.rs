//! What lies in a caller's windows now, by the same arithmetic as the XDP program's.

use std::time::Duration;

use ipnet::IpNet;
use packetwatch_abi::{BUCKETS, Caller, PortSeen, Since, windowed};

use crate::rules::{Rule, RuleSet, Trigger};

/// The moment that a caller is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// CLOCK_MONOTONIC nanoseconds
    pub now: u64,
    /// of the rules in force
    pub generation: u32,
    /// when the unit's last ban ended, 0 if there is no trace of one
    pub ended: u64,
    /// [`Lists::shared_len`](crate::lists::Lists::shared_len) of the unit
    pub shared_len: u8,
}

/// What a rule counts of a caller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Count<'r> {
    pub rule: &'r Rule,
    pub counted: u64,
}

impl Count<'_> {
    /// N lie in the window already, so that the next one is dropped.
    pub fn is_full(&self) -> bool {
        self.counted >= self.rule.trigger.count()
    }

    /// What lies in the window, in parts of `whole`, which is N.
    pub fn share(&self, whole: u64) -> u64 {
        let share = u128::from(self.counted) * u128::from(whole);
        let share = share / u128::from(self.rule.trigger.count());
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// The rules that count by this unit, and what they have counted; not those that limit, which count
/// nothing.
///
/// The program voids windows of other rules, and from before a ban's end, at the caller's next
/// packet; until then they are passed over here.
pub fn counts<'r>(
    unit: IpNet,
    caller: &Caller,
    rules: &'r RuleSet,
    moment: Moment,
) -> Vec<Count<'r>> {
    let Moment { now, .. } = moment;
    let void = is_void(caller, moment);
    let by_this = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.bans())
        .filter(|(_, rule)| rule.unit(unit.addr(), moment.shared_len) == unit);
    let count = |(index, rule): (usize, &'r Rule)| {
        let counted = match rule.trigger {
            Trigger::DistinctPorts(_) => distinct_ports(caller, rule.within, moment),
            _ if void => 0,
            _ => {
                let bucket = nanoseconds(rule.within) / BUCKETS as u64;
                let window = &caller.windows[index];
                windowed(caller.since.epoch(now, bucket), |place| window[place])
            }
        };
        Count { rule, counted }
    };
    by_this.map(count).collect()
}

/// Different ports that the caller called within this time, and since its counting began.
pub(super) fn distinct_ports(caller: &Caller, within: Duration, moment: Moment) -> u64 {
    let Moment {
        now,
        generation,
        ended,
        shared_len: _,
    } = moment;
    if caller.generation != generation {
        return 0;
    }
    let since = Since(caller.since.at().max(ended));
    let reach = PortSeen::reach(now, since, nanoseconds(within));
    let fresh = caller
        .ports
        .iter()
        .map(|port| PortSeen(*port).fresh(now, reach));
    fresh.sum()
}

/// How far back the ports of a caller are shown: the longest window over ports.
pub(super) fn ports_shown(rules: &RuleSet) -> Duration {
    let over_ports = rules
        .iter()
        .filter(|rule| matches!(rule.trigger, Trigger::DistinctPorts(_)));
    over_ports
        .map(|rule| rule.within)
        .max()
        .unwrap_or(Rule::WITHIN)
}

fn is_void(caller: &Caller, moment: Moment) -> bool {
    caller.generation != moment.generation || caller.since.is_before(moment.ended)
}

fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use packetwatch_abi::{Bucket, MAX_PORTS, MAX_RULES, Prefix};

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000 * SECOND;

    pub(crate) fn caller() -> Caller {
        Caller {
            unit: Prefix::address_v4(0),
            first_seen: SECOND,
            last_seen: NOW,
            calls: 0,
            packets: 0,
            bytes: 0,
            dropped: 0,
            since: Since::default(),
            allowed_at: 0,
            offended_at: 0,
            offender: Prefix::address_v4(0),
            offence_rule: 0,
            generation: 1,
            port_lock: 0,
            windows: [[0; BUCKETS]; MAX_RULES],
            ports: [0; MAX_PORTS],
        }
    }

    fn moment() -> Moment {
        Moment {
            now: NOW,
            generation: 1,
            ended: 0,
            shared_len: 0,
        }
    }

    fn rules() -> RuleSet {
        let connections = Rule {
            prefix_v6: 128,
            within: Duration::from_secs(8),
            ..Rule::new("calls", Trigger::Connections(5))
        };
        RuleSet::validate(vec![
            Rule::new("ports", Trigger::DistinctPorts(2)),
            connections,
        ])
        .unwrap()
    }

    fn counted(caller: &Caller, moment: Moment) -> Vec<u64> {
        let rules = rules();
        let unit = "198.51.100.7/32".parse().unwrap();
        counts(unit, caller, &rules, moment)
            .iter()
            .map(|c| c.counted)
            .collect()
    }

    #[test]
    fn each_rule_sees_its_own_window() {
        let mut caller = caller();
        caller.ports[3] = PortSeen::new(NOW - 59 * SECOND, 22).0;
        caller.ports[9] = PortSeen::new(NOW - 61 * SECOND, 80).0;
        let epoch = NOW / SECOND;
        caller.windows[1][(epoch % 8) as usize] = Bucket::new(epoch, 3).0;
        caller.windows[1][((epoch - 7) % 8) as usize] = Bucket::new(epoch - 7, 2).0;
        assert_eq!(counted(&caller, moment()), [1, 5]);
        let rules = rules();
        let counts = counts(
            "198.51.100.7/32".parse().unwrap(),
            &caller,
            &rules,
            moment(),
        );
        assert_eq!(
            counts.iter().map(Count::is_full).collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn what_was_before_a_ban_ended_or_the_rules_changed_is_void() {
        let mut caller = caller();
        let epoch = NOW / SECOND;
        caller.ports[0] = PortSeen::new(NOW - 2 * SECOND, 22).0;
        caller.windows[1][(epoch % 8) as usize] = Bucket::new(epoch, 3).0;
        let ended = NOW - SECOND;
        assert_eq!(counted(&caller, Moment { ended, ..moment() }), [0, 0]);
        // What began anew counts in buckets of its own.
        caller.since = caller.since.next(ended);
        let epoch = caller.since.epoch(NOW, SECOND);
        caller.windows[1][(epoch % 8) as usize] = Bucket::new(epoch, 3).0;
        assert_eq!(counted(&caller, Moment { ended, ..moment() }), [0, 3]);
        caller.generation = 0;
        assert_eq!(counted(&caller, moment()), [0, 0]);
    }

    #[test]
    fn a_rule_counts_by_its_unit_alone() {
        let rules = rules();
        let names = |unit: &str| {
            let unit = unit.parse().unwrap();
            let counts = counts(unit, &caller(), &rules, moment());
            counts
                .iter()
                .map(|count| count.rule.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("2001:db8::/64"), ["ports"]);
        assert_eq!(names("2001:db8::1/128"), ["calls"]);
        // All of fe80::/64 is every neighbour at once, so each is counted alone.
        assert_eq!(names("fe80::1/128"), ["ports", "calls"]);
        assert_eq!(names("2001:db8::/48"), [""; 0]);
    }
}
