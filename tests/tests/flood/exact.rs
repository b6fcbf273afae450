//! One source on two CPUs at once, at the speed that the kernel runs the program at.

use std::{net::IpAddr, sync::Barrier, thread, time::Duration};

use packetwatch::rules::{Rule, Trigger};
use packetwatch_abi::{Action, Fault, MAX_INTERFACES, Reason};
use packetwatch_tests::{Kernel, Runner, runner};

use super::call;

const WITHIN: Duration = Duration::from_secs(8);

fn rule(name: &str, trigger: Trigger, unit: u8) -> Rule {
    Rule {
        within: WITHIN,
        prefix_v4: unit,
        ..Rule::new(name, trigger)
    }
}

/// A source for each round, each in a /24 of its own.
fn source(round: u32) -> IpAddr {
    IpAddr::from((0x0b00_0009 + (round << 8)).to_be_bytes())
}

fn passed(kernel: &Kernel) -> u64 {
    let outcomes = kernel.dataplane.outcomes_in(MAX_INTERFACES as u32).unwrap();
    let (_, _, tally) = outcomes
        .into_iter()
        .find(|(reason, observed, _)| (*reason, *observed) == (Reason::Pass, false))
        .unwrap();
    tally.packets
}

/// Has two threads on two CPUs do the same at the same time, in each of `rounds`, and asserts that
/// `expected` packets passed in each.
fn in_rounds(
    rounds: u32,
    expected: u64,
    kernel: &Kernel,
    work: impl Fn(&Runner, u32, usize) + Sync,
) {
    let passed = passed_in_rounds(rounds, kernel, |_| {}, work);
    let rounds = passed.into_iter().enumerate();
    let others: Vec<_> = rounds.filter(|(_, passed)| *passed != expected).collect();
    assert_eq!(others, [], "rounds in which not {expected} passed");
}

/// The same; returns how many passed in each round. `before` is called before each of them.
fn passed_in_rounds(
    rounds: u32,
    kernel: &Kernel,
    before: impl Fn(u32),
    work: impl Fn(&Runner, u32, usize) + Sync,
) -> Vec<u64> {
    let barrier = Barrier::new(3);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (barrier, work) = (&barrier, &work);
            let runner = Runner::of(kernel);
            scope.spawn(move || {
                runner::stay_on(thread % runner::cpus());
                for round in 0..rounds {
                    barrier.wait();
                    work(&runner, round, thread);
                    barrier.wait();
                }
            });
        }
        let mut last = passed(kernel);
        let rounds = (0..rounds).map(|round| {
            before(round);
            barrier.wait();
            barrier.wait();
            let now = passed(kernel);
            now - std::mem::replace(&mut last, now)
        });
        rounds.collect()
    })
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn exactly_n_calls_or_packets_pass_on_two_cpus() {
    // Many rounds of a few, where the last place is fought over each time; and at full speed, with
    // so many that both run at once, whoever is let in first.
    for (rounds, n, runs, repeat) in [(400, 40, 60, 1), (5, 300_000, 1, 400_000)] {
        for trigger in [Trigger::Connections(n), Trigger::Packets(n)] {
            let kernel = Kernel::with_rules(vec![rule("rule", trigger, 32)]);
            in_rounds(rounds, n, &kernel, |runner, round, _| {
                let frame = call(source(round), 80);
                for _ in 0..runs {
                    runner.run(&frame, repeat);
                }
            });
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn exactly_n_pass_while_the_clock_goes_from_bucket_to_bucket() {
    let mut kernel = Kernel::with_rules(vec![rule("calls", Trigger::Connections(1200), 32)]);
    let start = kernel.now();
    let mut before = passed(&kernel);
    for round in 0..100u64 {
        // On a boundary, and over it and five more while they run; no window forgets meanwhile.
        kernel.set_now(start + (round + 1) * 10 * WITHIN.as_nanos() as u64);
        let now = kernel.now() - kernel.now() % 1_000_000_000;
        thread::scope(|scope| {
            let calls: Vec<_> = (0..2)
                .map(|cpu| {
                    let runner = Runner::of(&kernel);
                    scope.spawn(move || {
                        runner::stay_on(cpu % runner::cpus());
                        let frame = call(source(round as u32), 80);
                        for _ in 0..1500 {
                            runner.run(&frame, 1);
                        }
                    })
                })
                .collect();
            let kernel = &kernel;
            scope.spawn(move || {
                for eighth in 0..6 {
                    let now = now + eighth * 1_000_000_000;
                    kernel.dataplane.set_clock(now).unwrap();
                    thread::sleep(Duration::from_micros(100));
                }
            });
            calls.into_iter().for_each(|call| call.join().unwrap());
        });
        let now = passed(&kernel);
        assert_eq!(now - before, 1200, "round {round}");
        before = now;
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn exactly_n_ports_pass_on_two_cpus() {
    const ROUNDS: u32 = 3000;
    for n in [1, 3, 10, 64] {
        let kernel = Kernel::with_rules(vec![rule("scan", Trigger::DistinctPorts(n), 32)]);
        in_rounds(ROUNDS / 4, n, &kernel, |runner, round, thread| {
            // Every other port each, then all of them once more: what could not be noted for
            // the other's sake has another chance.
            let ports = (0..2 * n as u16 + 20).map(|port| 2 * port + thread as u16);
            for port in ports {
                runner.run(&call(source(round), port), 1);
            }
        });
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn rules_of_two_units_agree_on_two_cpus() {
    // Each is the first to be full in some rounds; what one refuses, the other has not counted.
    let rules = vec![
        rule("network", Trigger::Connections(30), 24),
        rule("ports", Trigger::DistinctPorts(10), 32),
        rule("calls", Trigger::Connections(25), 32),
    ];
    let kernel = Kernel::with_rules(rules);
    let neighbour = |round| {
        let IpAddr::V4(address) = source(round) else {
            unreachable!("IPv4 here");
        };
        IpAddr::from((address.to_bits() + 1).to_be_bytes())
    };
    in_rounds(1000, 30, &kernel, |runner, round, thread| {
        let from = if thread == 0 {
            source(round)
        } else {
            neighbour(round)
        };
        for n in 0..40 {
            runner.run(&call(source(round), 1 + n % 3), 1);
            runner.run(&call(from, 1 + n % 3), 1);
        }
    });
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_end_of_a_ban_is_one_beginning_for_all_cpus() {
    let mut kernel = Kernel::with_rules(vec![rule("calls", Trigger::Connections(40), 32)]);
    let frame = call(source(0), 80);
    let mut before = passed(&kernel);
    for round in 0..200 {
        thread::scope(|scope| {
            for cpu in 0..2 {
                let (runner, frame) = (Runner::of(&kernel), &frame);
                scope.spawn(move || {
                    runner::stay_on(cpu % runner::cpus());
                    for _ in 0..60 {
                        runner.run(frame, 1);
                    }
                });
            }
        });
        let now = passed(&kernel);
        assert_eq!(now - before, 40, "round {round}");
        before = now;
        kernel.ban(&source(0).to_string(), Duration::from_millis(10));
        kernel.advance(Duration::from_millis(10));
    }
    let faults = kernel.dataplane.faults().unwrap();
    println!("{:?}", faults[Fault::Contended as usize]);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_new_source_is_entered_once_by_two_cpus() {
    let kernel = Kernel::with_rules(vec![rule("calls", Trigger::Connections(8), 32)]);
    in_rounds(5000, 8, &kernel, |runner, round, _| {
        for _ in 0..8 {
            assert!(matches!(
                runner.run(&call(source(round), 80), 1),
                Action::Pass | Action::Drop
            ));
        }
    });
    assert_eq!(
        kernel.dataplane.admission_counts().unwrap().first_sight,
        5000
    );
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_limit_is_one_for_two_cpus() {
    // 10 000 a second, offered 100 000 for ten seconds, the clock in ticks of 4 ms.
    const TICK: Duration = Duration::from_millis(4);
    let limit = Rule {
        burst: 100,
        ..Rule::limit("cap", Trigger::Packets(10_000))
    };
    let kernel = Kernel::with_rules(vec![limit]);
    let start = kernel.now();
    let tick = |round: u32| {
        let now = start + u64::from(round) * TICK.as_nanos() as u64;
        kernel.dataplane.set_clock(now).unwrap();
    };
    let frame = call(source(0), 80);
    let passed = passed_in_rounds(2_500, &kernel, tick, |runner, _, _| {
        runner.run(&frame, 200);
    });
    assert_eq!(passed[0], 100);
    let others: Vec<_> = passed[1..].iter().filter(|passed| **passed != 40).collect();
    assert!(others.is_empty(), "not the 40 of a tick, but {others:?}");
}
