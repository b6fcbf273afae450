//! How exactly a limit passes its rate: one source on two CPUs, in real time.

use std::{
    net::IpAddr,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use packetwatch::rules::{Rule, Trigger};
use packetwatch_tests::{Frame, Kernel, Runner, runner};
use serde::{Deserialize, Serialize};

use crate::exact::passes;

/// Packets a second.
const RATE: u64 = 10_000;
/// More than what a sender that does not get its CPU for a moment is behind.
const BURST: u64 = 500;
/// Ten times the rate, by all CPUs together.
const OFFERED: u64 = 10 * RATE;
const CPUS: usize = 2;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Limited {
    pub(crate) cpus: usize,
    /// from the first packet to the last
    pub(crate) seconds: f64,
    /// packets a second, that the rule lets pass, and that came
    pub(crate) rate: u64,
    pub(crate) offered: f64,
    pub(crate) passed: u64,
    /// of what the rate and its burst amount to in that time
    pub(crate) off_percent: f64,
}

/// # Errors
/// The machine has one CPU, on which nothing can go wrong.
pub(crate) fn measure(seconds: u64) -> Result<Limited> {
    ensure!(
        runner::cpus() >= CPUS,
        "needs {CPUS} CPUs; this process may use {}",
        runner::cpus()
    );
    let kernel = Kernel::in_real_time(vec![Rule {
        burst: BURST,
        ..Rule::limit("cap", Trigger::Packets(RATE))
    }]);
    let source = IpAddr::from([11, 0, 0, 9]);
    let frame = Frame::new().ip(source, [198, 18, 0, 1].into());
    let frame = frame.udp(40_000, 53).build();
    let each = OFFERED / CPUS as u64;
    let barrier = Barrier::new(CPUS);
    let start = Instant::now();
    thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (barrier, frame, runner) = (&barrier, &frame, Runner::of(&kernel));
            scope.spawn(move || {
                runner::stay_on(cpu);
                barrier.wait();
                send(&runner, frame, each, Duration::from_secs(seconds));
            });
        }
    });
    let took = start.elapsed().as_secs_f64();
    let passed = passes(&kernel)?;
    let due = BURST as f64 + RATE as f64 * took;
    Ok(Limited {
        cpus: CPUS,
        seconds: took,
        rate: RATE,
        offered: (each * seconds * CPUS as u64) as f64 / took,
        passed,
        off_percent: (passed as f64 / due - 1.0).abs() * 100.0,
    })
}

/// Runs `each` packets a second, evenly over the time.
fn send(runner: &Runner, frame: &[u8], each: u64, over: Duration) {
    let start = Instant::now();
    for n in 0..each * over.as_secs() {
        runner.run(frame, 1);
        let due = Duration::from_secs_f64(n as f64 / each as f64);
        // In steps of what a sleep lasts at least.
        if let Some(early) = due.checked_sub(start.elapsed())
            && early > Duration::from_millis(1)
        {
            thread::sleep(early);
        }
    }
}
