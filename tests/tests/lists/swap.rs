//! A list that is replaced while packets are under way: each is judged by the old list or by the new
//! one, and never by a mixture.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
};

use ipnet::IpNet;
use packetwatch_abi::{Action, FOREVER, Standing};
use packetwatch_tests::{Kernel, Runner, kernel::net, random::Random, runner};

use super::{Frames, counts, kernel};

/// From one list to the other and back.
const SWAPS: u64 = 100;
/// Prefixes around those that are looked up, so that an index takes a while to be written.
const AROUND: u32 = 5000;

/// What both lists say of a source, though by other entries; and what one of them says.
struct Probe {
    source: IpAddr,
    /// under the first list, under the second
    expected: [Action; 2],
}

fn standing(allow: bool) -> Standing {
    let until = |is| if is { FOREVER } else { 0 };
    Standing {
        allow_until: until(allow),
        deny_until: FOREVER,
        allow_slot: 1,
        deny_slot: 2,
        is_derived: false,
        shared_len: 0,
    }
}

/// One of the two lists: denied, and, inside of what is denied, allowed.
fn list(denied: &[&str], allowed: &[&str], seed: u64) -> Vec<(IpNet, Standing)> {
    let mut random = Random::new(seed);
    let mut nodes = Vec::new();
    for _ in 0..AROUND {
        let low = random.next() as u32;
        // In the /16 and the /32 of the probes, and elsewhere; never over a probe.
        let v4 = IpAddr::from((0xcb00_8000 | (low & 0x7fff)).to_be_bytes());
        nodes.push((IpNet::from(v4), standing(false)));
        let v6 = 0x2001_0db8_00ff << 80 | u128::from(low) << 48;
        let v6 = IpAddr::from(v6.to_be_bytes());
        nodes.push((IpNet::new_assert(v6, 64).trunc(), standing(false)));
        let elsewhere = IpAddr::from((0x0a00_0000 | (low & 0x00ff_ffff)).to_be_bytes());
        nodes.push((IpNet::new_assert(elsewhere, 28).trunc(), standing(false)));
    }
    nodes.extend(denied.iter().map(|prefix| (net(prefix), standing(false))));
    nodes.extend(allowed.iter().map(|prefix| (net(prefix), standing(true))));
    nodes.sort_unstable_by_key(|(prefix, _)| *prefix);
    nodes.dedup_by_key(|(prefix, _)| *prefix);
    nodes
}

fn probes() -> Vec<Probe> {
    use Action::{Drop, Pass};
    let always = |source: &str, action| (source.to_owned(), [action; 2]);
    [
        // Denied by a /24 here and by a /32 there.
        always("203.0.113.77", Drop),
        always("2001:db8:1::77", Drop),
        // Allowed, in a denied network, by a /32 here and by a /24 there.
        always("203.0.114.77", Pass),
        always("2001:db8:2::77", Pass),
        // Beside both, and on no list.
        always("203.0.112.77", Pass),
        always("2001:db8:3::77", Pass),
        // On the first list alone, on the second alone.
        ("203.0.115.1".to_owned(), [Drop, Pass]),
        ("203.0.116.1".to_owned(), [Pass, Drop]),
        ("2001:db8:4::1".to_owned(), [Drop, Pass]),
        ("2001:db8:5::1".to_owned(), [Pass, Drop]),
    ]
    .map(|(source, expected)| Probe {
        source: source.parse().unwrap(),
        expected,
    })
    .into()
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn no_packet_sees_a_mixture_of_two_lists() {
    let first = list(
        &[
            "203.0.113.0/24",
            "203.0.114.0/24",
            "203.0.115.0/24",
            "2001:db8:1::/48",
            "2001:db8:2::/48",
            "2001:db8:4::/48",
        ],
        &["203.0.114.77", "2001:db8:2::77"],
        1,
    );
    let second = list(
        &[
            "203.0.113.77",
            "203.0.116.0/24",
            "2001:db8:1::77",
            "2001:db8:5::/48",
        ],
        &["203.0.114.0/24", "2001:db8:2::/48"],
        2,
    );
    let kernel = kernel();
    kernel.dataplane.replace_standings(&first).unwrap();
    // Even: so many swaps are done. Odd: one is under way.
    let phase = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let rounds = [AtomicU64::new(0), AtomicU64::new(0)];
    let packets = thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|cpu| {
                let (runner, phase, over, round) =
                    (Runner::of(&kernel), &phase, &over, &rounds[cpu]);
                scope.spawn(move || {
                    runner::stay_on(cpu % runner::cpus());
                    look(&runner, phase, over, round)
                })
            })
            .collect();
        let swapped = swap(&kernel, [&first, &second], &phase, &rounds, &workers);
        over.store(true, SeqCst);
        let looked = workers.into_iter().map(|worker| worker.join().unwrap());
        let looked: Vec<u64> = looked.collect();
        swapped.expect("the threads look to the end");
        looked
    });
    // Each was judged by a list, and none was forgotten.
    assert_eq!(
        counts(&kernel).iter().sum::<u64>(),
        packets.iter().sum::<u64>()
    );
}

/// Replaces the list, and waits each time until both threads have looked at it.
fn swap(
    kernel: &Kernel,
    lists: [&[(IpNet, Standing)]; 2],
    phase: &AtomicU64,
    rounds: &[AtomicU64; 2],
    workers: &[thread::ScopedJoinHandle<'_, u64>],
) -> Option<()> {
    for swap in 1..=SWAPS {
        phase.fetch_add(1, SeqCst);
        let next = lists[(swap % 2) as usize];
        kernel.dataplane.replace_standings(next).unwrap();
        phase.fetch_add(1, SeqCst);
        let seen = [0, 1].map(|cpu| rounds[cpu].load(SeqCst));
        let have_looked = || (0..2).all(|cpu| rounds[cpu].load(SeqCst) >= seen[cpu] + 2);
        while !have_looked() {
            if workers.iter().any(|worker| worker.is_finished()) {
                return None;
            }
            thread::yield_now();
        }
    }
    Some(())
}

/// Judges all probes over and over; returns how many packets that were.
fn look(runner: &Runner, phase: &AtomicU64, over: &AtomicBool, round: &AtomicU64) -> u64 {
    let (probes, mut frames) = (probes(), Frames::new());
    let mut packets = 0;
    while !over.load(SeqCst) {
        for Probe { source, expected } in &probes {
            let before = phase.load(SeqCst);
            let action = frames.judge(runner, *source);
            let after = phase.load(SeqCst);
            packets += 1;
            let [first, second] = expected;
            if first == second {
                assert_eq!(action, *first, "{source}, whichever list");
            } else if before == after && before.is_multiple_of(2) {
                let list = (before / 2 % 2) as usize;
                assert_eq!(
                    action,
                    expected[list],
                    "{source}, after {} swaps",
                    before / 2
                );
            }
        }
        round.fetch_add(1, SeqCst);
    }
    packets
}
