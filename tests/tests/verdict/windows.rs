//! Thresholds and sliding windows.

use std::time::Duration;

use packetwatch::rules::{Rule, Trigger};
use packetwatch_abi::Reason::{self, Pass, Threshold};
use packetwatch_tests::{Kernel, packet::*};

use super::{CALLER, FAMILIES, UNIT, call, from, rule};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn within(trigger: Trigger, within: Duration) -> Vec<Rule> {
    vec![Rule {
        within,
        ..rule("rule", trigger)
    }]
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_nth_port_passes_and_the_next_call_does_not_whatever_its_port() {
    for family in FAMILIES {
        for n in [1, 3, 10, 64] {
            let kernel = Kernel::with_rules(within(Trigger::DistinctPorts(n), MINUTE));
            for port in 1..=n as u16 {
                assert_eq!(
                    kernel.reason(&call(CALLER[family], port)),
                    Pass,
                    "port {port} of {n}"
                );
            }
            for port in [1, n as u16, 9999] {
                assert_eq!(
                    kernel.reason(&call(CALLER[family], port)),
                    Threshold,
                    "{port} of {n}"
                );
            }
            // What is open already goes on.
            let open = from(CALLER[family]).tcp(40_000, 1, ACK).build();
            assert_eq!(kernel.reason(&open), Pass);
            assert_eq!(kernel.caller(UNIT[family]).dropped, 3);
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn one_port_hammered_is_no_scan() {
    for family in FAMILIES {
        let kernel = Kernel::with_rules(within(Trigger::DistinctPorts(3), MINUTE));
        for _ in 0..200 {
            assert_eq!(kernel.reason(&call(CALLER[family], 80)), Pass);
            assert_eq!(kernel.reason(&call(CALLER[family], 443)), Pass);
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn ports_of_udp_and_of_open_connections_do_not_count() {
    let kernel = Kernel::with_rules(within(Trigger::DistinctPorts(3), MINUTE));
    for port in 1..50 {
        assert_eq!(kernel.reason(&from(CALLER[0]).udp(53, port).build()), Pass);
        assert_eq!(
            kernel.reason(&from(CALLER[0]).tcp(1, port, ACK).build()),
            Pass
        );
    }
    assert_eq!(kernel.reason(&call(CALLER[0], 80)), Pass);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn ports_slide_out_of_the_window_one_by_one() {
    for family in FAMILIES {
        let mut kernel = Kernel::with_rules(within(Trigger::DistinctPorts(3), MINUTE));
        for port in 1..=3 {
            assert_eq!(kernel.reason(&call(CALLER[family], port)), Pass);
            kernel.advance(Duration::from_secs(10));
        }
        assert_eq!(kernel.reason(&call(CALLER[family], 4)), Threshold);
        // Port 1 was called 60 s ago, to the step of 65.5 us that a slot keeps.
        kernel.advance(Duration::from_secs(30) - Duration::from_micros(200));
        assert_eq!(kernel.reason(&call(CALLER[family], 4)), Threshold);
        kernel.advance(Duration::from_micros(400));
        assert_eq!(kernel.reason(&call(CALLER[family], 4)), Pass);
        assert_eq!(kernel.reason(&call(CALLER[family], 5)), Threshold);
        // Port 2 leaves ten seconds later.
        kernel.advance(Duration::from_secs(10));
        assert_eq!(kernel.reason(&call(CALLER[family], 5)), Pass);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_slow_scan_passes_for_ever() {
    let mut kernel = Kernel::with_rules(within(Trigger::DistinctPorts(3), SECOND));
    for port in 1..500 {
        assert_eq!(kernel.reason(&call(CALLER[0], port)), Pass);
        kernel.advance(Duration::from_millis(501));
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_dropped_call_is_counted_by_no_window() {
    // Or a scanner that goes on would keep itself out for ever, after the daemon's end too.
    let mut kernel = Kernel::with_rules(within(Trigger::Connections(3), SECOND * 8));
    for _ in 0..3 {
        assert_eq!(kernel.reason(&call(CALLER[0], 80)), Pass);
    }
    let mut dropped = 0;
    while dropped <= 81 && kernel.reason(&call(CALLER[0], 80)) == Threshold {
        kernel.advance(Duration::from_millis(100));
        dropped += 1;
    }
    assert!(
        (70..=81).contains(&dropped),
        "the window rolled after {dropped} tenths of a second"
    );
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn connections_count_every_call_retransmissions_too() {
    for family in FAMILIES {
        let kernel = Kernel::with_rules(within(Trigger::Connections(5), MINUTE));
        let same = call(CALLER[family], 80);
        for _ in 0..5 {
            assert_eq!(kernel.reason(&same), Pass);
        }
        assert_eq!(kernel.reason(&same), Threshold);
        assert_eq!(kernel.reason(&from(CALLER[family]).udp(1, 2).build()), Pass);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn packets_count_every_packet_and_drop_the_first_beyond() {
    for family in FAMILIES {
        let kernel = Kernel::with_rules(within(Trigger::Packets(4), MINUTE));
        let source = CALLER[family];
        let frames = [
            from(source).udp(1, 2).build(),
            from(source).tcp(80, 40_000, SYN | ACK).build(),
            from(source).icmp(0, 0).build(),
            from(source).fragment(5, false).payload([0; 9]).build(),
        ];
        for frame in &frames {
            assert_eq!(kernel.reason(frame), Pass);
        }
        for frame in &frames {
            assert_eq!(kernel.reason(frame), Threshold);
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn bytes_pass_until_they_are_reached() {
    for family in FAMILIES {
        let frame = from(CALLER[family]).udp(1, 2).payload([0; 86]).build();
        let kernel = Kernel::with_rules(within(Trigger::Bytes(3 * frame.len() as u64), MINUTE));
        for _ in 0..3 {
            assert_eq!(kernel.reason(&frame), Pass);
        }
        assert_eq!(kernel.reason(&frame), Threshold);
        let kernel = Kernel::with_rules(within(Trigger::Bytes(2 * frame.len() as u64 + 1), MINUTE));
        for _ in 0..3 {
            assert_eq!(
                kernel.reason(&frame),
                Pass,
                "the packet that reaches N still passes"
            );
        }
        assert_eq!(kernel.reason(&frame), Threshold);
    }
}

/// A window of T = 8 s, so that a bucket is a second; N = 4.
struct Eighths {
    kernel: Kernel,
    tried: u16,
}

impl Eighths {
    /// Whether four calls, the last `span` after the first, are an offence when the first comes at
    /// `phase` of a bucket.
    fn offend(&mut self, span: Duration, phase: Duration) -> bool {
        let aligned = 100_000_000_000_000;
        self.tried += 1;
        let source = format!("198.18.{}.{}", self.tried / 250, self.tried % 250);
        for at in [Duration::ZERO, span / 3, span / 2, span] {
            self.kernel
                .set_now(aligned + (phase + at).as_nanos() as u64);
            assert_eq!(self.kernel.reason(&call(&source, 80)), Pass);
        }
        self.kernel.reason(&call(&source, 80)) == Threshold
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn never_without_n_in_some_t_and_always_with_n_in_seven_eighths() {
    let kernel = Kernel::with_rules(within(Trigger::Connections(4), SECOND * 8));
    let mut window = Eighths { kernel, tried: 0 };
    let instant = Duration::from_nanos(1);
    for sixteenth in 0..16 {
        let phase = SECOND * sixteenth / 16;
        assert!(
            window.offend(SECOND * 7, phase),
            "N within 7/8 T, at {phase:?}"
        );
        assert!(
            window.offend(SECOND * 3, phase),
            "N within 3/8 T, at {phase:?}"
        );
        assert!(
            !window.offend(SECOND * 8 + instant, phase),
            "N within more than T, at {phase:?}"
        );
        assert!(
            !window.offend(SECOND * 20, phase),
            "N within 20/8 T, at {phase:?}"
        );
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_first_of_several_rules_that_is_reached_decides() {
    let mut kernel = Kernel::with_rules(vec![
        Rule {
            within: MINUTE,
            ..rule("ports", Trigger::DistinctPorts(50))
        },
        Rule {
            within: MINUTE,
            ..rule("calls", Trigger::Connections(5))
        },
        Rule {
            within: MINUTE,
            ..rule("packets", Trigger::Packets(9))
        },
    ]);
    for _ in 0..5 {
        assert_eq!(kernel.reason(&call(CALLER[0], 80)), Pass);
    }
    assert_eq!(kernel.reason(&call(CALLER[0], 80)), Threshold);
    let offences = kernel.offences();
    assert_eq!(offences.len(), 1);
    assert_eq!(offences[0].rule, 1);
    let udp = from(CALLER[0]).udp(1, 2).build();
    for _ in 0..4 {
        assert_eq!(
            kernel.reason(&udp),
            Pass,
            "the dropped call counts for no rule"
        );
    }
    assert_eq!(kernel.reason(&udp), Threshold);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn windows_of_different_rules_do_not_mix() {
    let mut kernel = Kernel::with_rules(vec![
        Rule {
            within: SECOND,
            ..rule("burst", Trigger::Connections(3))
        },
        Rule {
            within: MINUTE,
            ..rule("steady", Trigger::Connections(6))
        },
    ]);
    for round in 0..2 {
        for _ in 0..3 {
            assert_eq!(kernel.reason(&call(CALLER[0], 80)), Pass, "round {round}");
        }
        assert_eq!(kernel.reason(&call(CALLER[0], 80)), Threshold);
        kernel.advance(SECOND * 2);
    }
    assert_eq!(
        kernel.reason(&call(CALLER[0], 80)),
        Threshold,
        "six within the minute"
    );
    let rules: Vec<u32> = kernel
        .offences()
        .iter()
        .map(|offence| offence.rule)
        .collect();
    assert_eq!(rules, [0, 0, 1]);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_end_of_a_ban_clears_the_windows() {
    for family in FAMILIES {
        for trigger in [
            Trigger::Connections(3),
            Trigger::DistinctPorts(3),
            Trigger::Packets(3),
        ] {
            let mut kernel = Kernel::with_rules(within(trigger, MINUTE));
            let fill = |kernel: &Kernel| {
                for port in 1..=3 {
                    assert_eq!(
                        kernel.reason(&call(CALLER[family], port)),
                        Pass,
                        "{trigger:?}"
                    );
                }
                assert_eq!(
                    kernel.reason(&call(CALLER[family], 4)),
                    Threshold,
                    "{trigger:?}"
                );
            };
            fill(&kernel);
            // A ban shorter than the window: without the clearing, the fourth call would be
            // an offence at once.
            kernel.ban(UNIT[family], SECOND);
            assert_eq!(kernel.reason(&call(CALLER[family], 1)), Reason::Ban);
            kernel.advance(SECOND * 2);
            fill(&kernel);
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn other_rules_start_from_nothing() {
    // At the very time of the last call, too, within a step that ports are not told apart in.
    for wait in [Duration::ZERO, SECOND] {
        let mut kernel = Kernel::with_rules(within(Trigger::Connections(100), MINUTE));
        for port in 1..=50 {
            assert_eq!(kernel.reason(&call(CALLER[0], port)), Pass);
        }
        kernel.advance(wait);
        kernel.set_rules(within(Trigger::DistinctPorts(3), MINUTE));
        for port in 51..=53 {
            assert_eq!(kernel.reason(&call(CALLER[0], port)), Pass, "{wait:?}");
        }
        assert_eq!(kernel.reason(&call(CALLER[0], 54)), Threshold);
        assert_eq!(
            kernel.caller(UNIT[0]).calls,
            54,
            "what was counted for people stays"
        );
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_host_that_has_just_started_accuses_nobody() {
    // Empty port slots were "called" at time 0, less than a window ago.
    let mut kernel =
        Kernel::with_rules(within(Trigger::DistinctPorts(3), Duration::from_secs(3600)));
    kernel.set_now(5_000_000_000);
    for port in 1..=3 {
        assert_eq!(kernel.reason(&call(CALLER[0], port)), Pass);
    }
    assert_eq!(kernel.reason(&call(CALLER[0], 4)), Threshold);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_source_silent_for_long_is_not_judged_by_its_past() {
    let mut kernel = Kernel::with_rules(within(Trigger::Connections(3), SECOND));
    for _ in 0..3 {
        assert_eq!(kernel.reason(&call(CALLER[0], 80)), Pass);
    }
    // Every multiple of the ring of buckets, and what lies beside it.
    for eighths in [8, 9, 15, 16, 64, 8 << 10] {
        kernel.advance(SECOND * eighths / 8);
        for _ in 0..3 {
            assert_eq!(
                kernel.reason(&call(CALLER[0], 80)),
                Pass,
                "after {eighths} eighths"
            );
        }
        assert_eq!(kernel.reason(&call(CALLER[0], 80)), Threshold);
    }
}
