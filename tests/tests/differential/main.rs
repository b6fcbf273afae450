//! The real bytecode against the plain reference: generated and mutated packets, and sequences of
//! them with lists, bans, rules and time changing in between.
//!
//! `DIFFERENTIAL_SEED=N` replays a run (`make test` tells its seed at the end, a failure that of its
//! sequence) and `DIFFERENTIAL_PACKETS=N` sets how many packets are judged. A failure is shrunk and
//! printed as Rust, to be pasted into `regressions`. The names have no `PACKETWATCH_` in front,
//! because a daemon that another test starts would refuse them as unknown keys.

mod counters;
mod generate;
mod mutate;
mod regressions;
mod rig;
mod shrink;
mod step;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    thread::{self, ScopedJoinHandle},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use packetwatch_abi::Reason;
use packetwatch_tests::{environment::number, random::Random, tell};

use rig::{Care, Rig};

/// A million and some: 50 s of one core, and minutes of waiting.
const PACKETS: u64 = 1_050_000;

/// To replace the lists waits for the kernel, some 20 ms, in which another sequence may run. Each has a
/// program and maps of its own.
const WORKERS: usize = 6;

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
    let run = Run {
        next: AtomicU64::new(seed),
        left: AtomicI64::new(packets as i64),
    };
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    let workers = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| run.work())).collect();
        workers.into_iter().map(ScopedJoinHandle::join).collect()
    });
    let workers: Vec<thread::Result<_>> = workers;
    let mut failures = Vec::new();
    for worker in workers {
        match worker.expect("it does not panic") {
            Ok(judged) => judged.into_iter().for_each(|(reason, count)| {
                *reasons.entry(reason).or_default() += count;
            }),
            Err(failure) => failures.push(failure),
        }
    }
    // That of the lowest seed: where a run begins with a failure's seed, it is the same failure.
    if let Some((_, failure)) = failures.into_iter().min() {
        panic!("{failure}");
    }
    println!("in {:.1?}: {reasons:?}", started.elapsed());
    tell(&format!(
        "DIFFERENTIAL_SEED={seed}: {} packets in {} sequences agreed",
        reasons.values().sum::<u64>(),
        run.next.into_inner().wrapping_sub(seed),
    ));
    if packets >= ENOUGH_FOR_EACH_REASON {
        for reason in Reason::ALL {
            assert!(
                reasons.contains_key(reason.as_str()),
                "no packet was judged {reason:?}: the generator misses a part of the program"
            );
        }
    }
}

/// What the workers share.
struct Run {
    /// the seed of the next sequence
    next: AtomicU64,
    /// packets still to be judged
    left: AtomicI64,
}

impl Run {
    /// Judges sequences until there are enough. Returns how many packets by reason.
    ///
    /// # Errors
    /// The seed of a sequence, and what disagreed in it, as a test.
    fn work(&self) -> Result<BTreeMap<&'static str, u64>, (u64, String)> {
        let mut rig = Rig::new();
        while self.left.load(Ordering::Relaxed) > 0 {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let steps = generate::sequence(&mut Random::new(seed));
            let before = rig.packets();
            if let Err(mismatch) = rig.run(&steps, Care::AtIntervals) {
                self.left.store(0, Ordering::Relaxed);
                println!("{mismatch}; shrinking");
                let (steps, mismatch) = shrink::shrink(&mut rig, steps);
                let test = step::as_test(&steps);
                let failure = format!(
                    "program and reference disagree, DIFFERENTIAL_SEED={seed}:\n{mismatch}\n{test}"
                );
                return Err((seed, failure));
            }
            let judged = (rig.packets() - before) as i64;
            self.left.fetch_sub(judged, Ordering::Relaxed);
        }
        Ok(rig.reasons().clone())
    }
}
