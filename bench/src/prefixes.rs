//! What a good packet pays for a deny list, by its length; beside it the kernel's longest-match trie.
//!
//! Every packet is a call and fully counted, as under a flood of so many sources: in the sketch.

use std::os::fd::AsFd as _;

use anyhow::Result;
use ipnet::IpNet;
use packetwatch::rules::{Rule, Trigger};
use packetwatch_abi::{Admission, FOREVER, NO_SLOT, Standing};
use packetwatch_tests::Kernel;

use crate::{
    curve::{Contestant, Curve, Packets, Program, Turn, take_turns},
    family::{Family, call},
    lists,
    reel::Reel,
    references::{Trie, nothing},
};

/// Sources that come from anywhere.
const SOURCES: usize = 1 << 20;

/// Whose threshold is high and whose places are few: hardly anybody gets an entry.
pub(crate) const FLOOD: Admission = Admission {
    threshold: 64,
    places: 512,
};

/// Measures lists of the lengths `counts`.
///
/// # Errors
/// The kernel refuses a program or a map, or a good packet was dropped.
pub(crate) fn measure(counts: &[usize], rounds: usize, repeat: u32) -> Result<Curve> {
    let mut kernels = Vec::new();
    let mut tries = Vec::new();
    let mut turns = Vec::new();
    let harness = nothing()?;
    for family in Family::ALL {
        let nearby = Reel::new(family, lists::nearby(family).into_iter())?;
        for &count in counts {
            let listed = lists::denied(family, count);
            let good = lists::outside(&listed, family, SOURCES);
            let anywhere = Reel::new(family, good.into_iter())?;
            let kernel = counting()?;
            deny(&kernel, &listed)?;
            let ours = kernel.dataplane.program()?;
            let trie = Trie::of(family, &listed)?;
            for (packets, reel) in [(Packets::Anywhere, &anywhere), (Packets::Nearby, &nearby)] {
                for (contestant, program) in [
                    (Contestant::Packetwatch, &ours),
                    (Contestant::Trie, &trie.program),
                    (Contestant::Harness, &harness),
                ] {
                    // It is the same for every list.
                    let is_harness = contestant == Contestant::Harness;
                    if is_harness && packets == Packets::Nearby {
                        continue;
                    }
                    turns.push(Turn {
                        family,
                        contestant,
                        packets,
                        at: count as u64,
                        program: Program::Reel(reel.in_front_of(program.as_fd())?),
                        frame: call(family),
                    });
                }
            }
            kernels.push(kernel);
            tries.push(trie);
        }
    }
    take_turns(&mut kernels, &turns, (rounds, repeat))
}

/// The program with the rules of a default configuration, under a flood; the N are not reached here.
pub(crate) fn counting() -> Result<Kernel> {
    let mut kernel = Kernel::with_rules(vec![
        Rule::new("ports", Trigger::DistinctPorts(64)),
        Rule::new("calls", Trigger::Connections((1 << 31) - 1)),
    ]);
    kernel.set_call_budget(0);
    kernel.dataplane.set_admission(FLOOD)?;
    Ok(kernel)
}

fn deny(kernel: &Kernel, listed: &[IpNet]) -> Result<()> {
    let standing = Standing {
        deny_until: FOREVER,
        allow_slot: NO_SLOT,
        deny_slot: NO_SLOT,
        ..Standing::default()
    };
    let nodes: Vec<_> = listed.iter().map(|prefix| (*prefix, standing)).collect();
    Ok(kernel.dataplane.replace_standings(&nodes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root: loads XDP programs"]
    fn good_sources_pass_beside_every_list() {
        let curve = measure(&[0, 1, 100], 1, 10_000).unwrap();
        assert_eq!(curve.lines.len(), 2 * (2 * 2 + 1));
        for line in &curve.lines {
            let places: Vec<u64> = line.points.iter().map(|point| point.at).collect();
            assert_eq!(places, [0, 1, 100], "{line:?}");
        }
    }

    #[test]
    #[ignore = "needs root: loads XDP programs"]
    fn a_listed_source_among_them_is_not_taken_for_a_good_one() {
        let mut kernel = counting().unwrap();
        let listed = lists::denied(Family::V4, 40);
        deny(&kernel, &listed).unwrap();
        let sources = [listed[0].addr(), lists::nearby(Family::V4)[0]];
        let reel = Reel::new(Family::V4, sources.into_iter()).unwrap();
        let program = kernel.dataplane.program().unwrap();
        let turn = Turn {
            family: Family::V4,
            contestant: Contestant::Packetwatch,
            packets: Packets::Nearby,
            at: 40,
            program: Program::Reel(reel.in_front_of(program.as_fd()).unwrap()),
            frame: call(Family::V4),
        };
        // The last of them is good; the first is told by the counters.
        let kernels = std::slice::from_mut(&mut kernel);
        let error = take_turns(kernels, &[turn], (1, 10)).unwrap_err();
        assert!(error.to_string().contains("were dropped: deny"), "{error}");
    }
}
