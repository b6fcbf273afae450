//! How many calls pass beyond the N-th: one source on two CPUs, as fast as the kernel runs the program.

use std::{net::IpAddr, sync::Barrier, thread, time::Duration};

use anyhow::{Result, ensure};
use packetwatch::rules::{Rule, Trigger};
use packetwatch_abi::{MAX_INTERFACES, Reason};
use packetwatch_tests::{Frame, Kernel, Runner, packet::SYN, runner};
use serde::{Deserialize, Serialize};

/// The N of the rule.
const LIMIT: u64 = 300_000;
/// Calls of each CPU: more than N together, and each alone.
const CALLS: u32 = 400_000;
const CPUS: usize = 2;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exactness {
    pub(crate) rounds: usize,
    pub(crate) cpus: usize,
    /// calls that pass, by the rule
    pub(crate) limit: u64,
    /// in the worst round
    pub(crate) passed_beyond: u64,
    /// calls that should have passed and did not, in the worst round
    pub(crate) short_of: u64,
}

/// # Errors
/// The machine has one CPU, on which nothing can go wrong.
pub(crate) fn measure(rounds: usize) -> Result<Exactness> {
    ensure!(
        runner::cpus() >= CPUS,
        "needs {CPUS} CPUs; this process may use {}",
        runner::cpus()
    );
    let rule = Rule {
        within: Duration::from_secs(8),
        ..Rule::new("calls", Trigger::Connections(LIMIT))
    };
    let kernel = Kernel::with_rules(vec![rule]);
    let mut passed = Vec::new();
    for round in 0..rounds {
        let before = passes(&kernel)?;
        let barrier = Barrier::new(CPUS);
        thread::scope(|scope| {
            for cpu in 0..CPUS {
                let (barrier, runner) = (&barrier, Runner::of(&kernel));
                let frame = call(round as u8);
                scope.spawn(move || {
                    runner::stay_on(cpu);
                    barrier.wait();
                    runner.run(&frame, CALLS);
                });
            }
        });
        passed.push(passes(&kernel)? - before);
    }
    let worst = |beyond: fn(u64) -> u64| passed.iter().copied().map(beyond).max().unwrap_or(0);
    Ok(Exactness {
        rounds,
        cpus: CPUS,
        limit: LIMIT,
        passed_beyond: worst(|passed| passed.saturating_sub(LIMIT)),
        short_of: worst(|passed| LIMIT.saturating_sub(passed)),
    })
}

/// Each round has a source of its own.
fn call(round: u8) -> Vec<u8> {
    let source = IpAddr::from([11, 0, round, 9]);
    let frame = Frame::new().ip(source, [198, 18, 0, 1].into());
    frame.tcp(40_000, 80, SYN).build()
}

/// Packets that passed.
pub(crate) fn passes(kernel: &Kernel) -> Result<u64> {
    let outcomes = kernel.dataplane.outcomes_in(MAX_INTERFACES as u32)?;
    let passes = outcomes
        .into_iter()
        .filter(|(reason, observed, _)| *reason == Reason::Pass && !observed);
    Ok(passes.map(|(_, _, tally)| tally.packets).sum())
}
