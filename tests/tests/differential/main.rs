//! The real bytecode against the plain reference: generated and mutated packets, and sequences of
//! them with lists, bans, rules and time changing in between.
//!
//! `DIFFERENTIAL_SEED=N` replays a run (a failure names the seed of its sequence) and
//! `DIFFERENTIAL_PACKETS=N` sets how many packets are judged. A failure is shrunk and printed as
//! Rust, to be pasted into `regressions`. The names have no `PACKETWATCH_` in front, because a
//! daemon that another test starts would refuse them as unknown keys.

mod counters;
mod generate;
mod mutate;
mod regressions;
mod rig;
mod shrink;
mod step;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use packetwatch_abi::Reason;
use packetwatch_tests::{environment::number, random::Random};

use rig::{Care, Rig};

/// A million and some: 20 s of one core, at 20 us a packet of which the program takes one or two.
const PACKETS: u64 = 1_050_000;

/// Below this many packets some reasons may not have come up.
const ENOUGH_FOR_EACH_REASON: u64 = 100_000;

#[test]
#[ignore = "needs root: loads the XDP program"]
fn program_and_reference_agree() {
    let seed = number("DIFFERENTIAL_SEED").unwrap_or_else(|| {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        since_1970.as_millis() as u64
    });
    let packets = number("DIFFERENTIAL_PACKETS").unwrap_or(PACKETS);
    println!("DIFFERENTIAL_SEED={seed} DIFFERENTIAL_PACKETS={packets}");

    let started = Instant::now();
    let mut rig = Rig::new();
    let mut sequence = seed;
    while rig.packets() < packets {
        let steps = generate::sequence(&mut Random::new(sequence));
        if let Err(mismatch) = rig.run(&steps, Care::AtIntervals) {
            let judged = rig.packets();
            let elapsed = started.elapsed();
            println!("{mismatch}");
            println!("found after {judged} packets and {elapsed:.1?}; shrinking");
            let (steps, mismatch) = shrink::shrink(&mut rig, steps);
            panic!(
                "program and reference disagree, DIFFERENTIAL_SEED={sequence}:\n{mismatch}\n{}",
                step::as_test(&steps)
            );
        }
        sequence = sequence.wrapping_add(1);
    }
    let sequences = sequence.wrapping_sub(seed);
    println!(
        "{} packets in {sequences} sequences agreed in {:.1?}: {:?}",
        rig.packets(),
        started.elapsed(),
        rig.reasons()
    );
    if packets >= ENOUGH_FOR_EACH_REASON {
        // No rule of the generator limits: `verdict/limits.rs` says what such a rule lets pass.
        for reason in Reason::ALL
            .iter()
            .filter(|reason| **reason != Reason::Limit)
        {
            assert!(
                rig.reasons().contains_key(reason.as_str()),
                "no packet was judged {reason:?}: the generator misses a part of the program"
            );
        }
    }
}
