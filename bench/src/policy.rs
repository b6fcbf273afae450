//! What a good packet pays for rules, and for interfaces.

use std::{os::fd::AsFd as _, time::Duration};

use anyhow::Result;
use packetwatch::rules::{Rule, Trigger};
use packetwatch_tests::Kernel;

use crate::{
    curve::{Contestant, Curve, Packets, Program, Turn, take_turns},
    family::{Family, call},
    lists,
    prefixes::FLOOD,
    reel::Reel,
};

/// Sources of a flood.
const SOURCES: u32 = 1_000_000;

/// Rules of every kind and of both units, none of which is ever reached.
fn rules(count: usize) -> Vec<Rule> {
    const NEVER: u64 = (1 << 31) - 1;
    let triggers = [
        Trigger::DistinctPorts(64),
        Trigger::Connections(NEVER),
        Trigger::Packets(NEVER),
        Trigger::Bytes(NEVER << 8),
    ];
    let rule = |n: usize| Rule {
        within: Duration::from_secs(10 * (n as u64 + 1)),
        // The second four count networks.
        prefix_v4: if n < triggers.len() { 32 } else { 24 },
        prefix_v6: if n < triggers.len() { 64 } else { 48 },
        ..Rule::new(format!("rule-{n}"), triggers[n % triggers.len()])
    };
    (0..count).map(rule).collect()
}

/// Measures with 0 to `most` rules: one source that has an entry, and a flood of others.
///
/// # Errors
/// The kernel refuses a program or a map, or a good packet was dropped.
pub(crate) fn measure_rules(most: usize, rounds: usize, repeat: u32) -> Result<Curve> {
    let mut kernels = Vec::new();
    let mut turns = Vec::new();
    for family in Family::ALL {
        let one = Reel::new(family, lists::distinct(family, 1))?;
        let flood = Reel::new(family, lists::distinct(family, SOURCES))?;
        for count in 0..=most {
            for (packets, reel) in [(Packets::One, &one), (Packets::Flood, &flood)] {
                let mut kernel = Kernel::with_rules(rules(count));
                kernel.set_call_budget(0);
                if packets == Packets::Flood {
                    kernel.dataplane.set_admission(FLOOD)?;
                }
                let program = kernel.dataplane.program()?;
                turns.push(Turn {
                    family,
                    contestant: Contestant::Packetwatch,
                    packets,
                    at: count as u64,
                    program: Program::Reel(reel.in_front_of(program.as_fd())?),
                    frame: call(family),
                });
                kernels.push(kernel);
            }
        }
    }
    take_turns(&mut kernels, &turns, (rounds, repeat))
}

/// Measures with 1 to `most` interfaces, of which the last is the one that the packet comes in on.
///
/// # Errors
/// As [`measure_rules`].
pub(crate) fn measure_interfaces(most: usize, rounds: usize, repeat: u32) -> Result<Curve> {
    let mut kernels = Vec::new();
    let mut turns = Vec::new();
    for family in Family::ALL {
        for count in 1..=most {
            // A test run comes in on the loopback interface, number 1 of every namespace.
            let others = 2..=count as u32;
            let mut kernel = Kernel::with_rules(rules(2));
            kernel.set_call_budget(0);
            kernel.set_interfaces(&others.chain([1]).collect::<Vec<_>>());
            turns.push(Turn {
                family,
                contestant: Contestant::Packetwatch,
                packets: Packets::One,
                at: count as u64,
                program: Program::Alone(kernel.dataplane.program()?),
                frame: call(family),
            });
            kernels.push(kernel);
        }
    }
    take_turns(&mut kernels, &turns, (rounds, repeat))
}

#[cfg(test)]
mod tests {
    use packetwatch::rules::RuleSet;
    use packetwatch_abi::{MAX_RULES, Reason};

    use super::*;
    use crate::curve::Line;

    #[test]
    fn all_rules_are_within_their_bounds() {
        RuleSet::validate(rules(MAX_RULES)).unwrap();
    }

    #[test]
    #[ignore = "needs root: loads XDP programs"]
    fn a_packet_is_counted_for_the_last_interface() {
        let mut kernel = Kernel::new();
        kernel.set_interfaces(&[3, 2, 1]);
        kernel
            .dataplane
            .probe(&call(Family::V4), 1)
            .expect("run the program");
        let passed = |slot| {
            let outcomes = kernel.dataplane.outcomes_in(slot).unwrap();
            let of = outcomes.iter().find(|(reason, ..)| *reason == Reason::Pass);
            of.map(|(_, _, tally)| tally.packets)
        };
        assert_eq!([0, 1, 2].map(passed), [Some(0), Some(0), Some(1)]);
    }

    #[test]
    #[ignore = "needs root: loads XDP programs"]
    fn every_number_of_rules_and_interfaces_is_measured() {
        let places = |curve: &Curve| -> Vec<Vec<u64>> {
            let of = |line: &Line| line.points.iter().map(|point| point.at).collect();
            curve.lines.iter().map(of).collect()
        };
        let curve = measure_rules(2, 1, 1000).unwrap();
        assert_eq!(places(&curve), [[0, 1, 2]; 4]);
        let curve = measure_interfaces(3, 1, 1000).unwrap();
        assert_eq!(places(&curve), [[1, 2, 3]; 2]);
    }
}
