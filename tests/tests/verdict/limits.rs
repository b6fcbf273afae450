//! Rules that limit.

use std::time::Duration;

use packetwatch::rules::{Rule, Trigger};
use packetwatch_abi::{
    MAX_INTERFACES,
    Reason::{Limit, Pass, Threshold},
};
use packetwatch_tests::{Kernel, packet::*};

use super::{CALLER, FAMILIES, UNIT, call, from, rule};

const SECOND: Duration = Duration::from_secs(1);
/// The kernel's coarsest.
const TICK: Duration = Duration::from_millis(10);

fn limit(trigger: Trigger, burst: u64) -> Rule {
    Rule {
        burst,
        ..Rule::limit("cap", trigger)
    }
}

/// The `n`-th address of what the caller is counted as.
fn address(family: usize, n: usize) -> String {
    match family {
        0 => CALLER[0].to_owned(),
        _ => format!("2001:db8::{:x}", 0x10 + n),
    }
}

/// Of one source, each from another address of it, as far as it has several.
fn datagrams(family: usize, payload: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..0xff00).map(move |n| datagram(&address(family, n), payload))
}

fn datagram(source: &str, payload: usize) -> Vec<u8> {
    from(source).udp(53, 53).payload(vec![0; payload]).build()
}

fn passed(kernel: &Kernel) -> u64 {
    let outcomes = kernel.dataplane.outcomes_in(MAX_INTERFACES as u32);
    let outcomes = outcomes.unwrap().into_iter();
    let of_pass = outcomes.filter(|(reason, ..)| *reason == Pass);
    of_pass.map(|(.., tally)| tally.packets).sum()
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_burst_passes_and_then_one_at_a_time_at_the_rate() {
    for family in FAMILIES {
        let mut kernel = Kernel::with_rules(vec![limit(Trigger::Packets(100), 5)]);
        let mut frames = datagrams(family, 10);
        let mut next = |kernel: &Kernel| kernel.reason(&frames.next().unwrap());
        for n in 1..=5 {
            assert_eq!(next(&kernel), Pass, "packet {n}");
        }
        for _ in 0..3 {
            assert_eq!(next(&kernel), Limit);
        }
        assert_eq!(kernel.caller(UNIT[family]).dropped, 3);
        for _ in 0..200 {
            kernel.advance(Duration::from_millis(10) + Duration::from_nanos(1));
            assert_eq!(next(&kernel), Pass);
            assert_eq!(next(&kernel), Limit);
        }
        // What is saved up in a pause is the burst, however long it was.
        kernel.advance(SECOND * 3600);
        for _ in 0..5 {
            assert_eq!(next(&kernel), Pass);
        }
        assert_eq!(next(&kernel), Limit);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn from_one_a_second_to_a_million_the_rate_passes() {
    for (rate, burst, seconds) in [(1, 1, 10), (1_000, 10, 10), (1_000_000, 10_000, 5)] {
        for family in FAMILIES {
            let mut kernel = Kernel::with_rules(vec![limit(Trigger::Packets(rate), burst)]);
            // Twice the rate, by the kernel's coarsest clock.
            let each = (rate / 50).max(1) as u32;
            for frame in datagrams(family, 10).take(seconds as usize * 100) {
                kernel.dataplane.probe(&frame, each).unwrap();
                kernel.advance(TICK);
            }
            let passed = passed(&kernel);
            let all = rate * seconds;
            let (least, most) = (all * 98 / 100, all + burst);
            assert!((least..=most).contains(&passed), "{rate}: {passed}");
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn bytes_count_by_the_frame_and_calls_alone_by_calls() {
    for family in FAMILIES {
        let mut kernel = Kernel::with_rules(vec![limit(Trigger::Bytes(100_000), 65_535)]);
        let len = datagram(CALLER[family], 1_000).len();
        let passed = |kernel: &Kernel| {
            let frames = datagrams(family, 1_000).take(100);
            frames.filter(|frame| kernel.reason(frame) == Pass).count()
        };
        assert_eq!(passed(&kernel), 65_535 / len);
        kernel.advance(SECOND / 10);
        assert_eq!(passed(&kernel), (10_000 + 65_535 % len) / len);

        let kernel = Kernel::with_rules(vec![limit(Trigger::Connections(10), 2)]);
        for (n, port) in [80, 81].into_iter().enumerate() {
            assert_eq!(kernel.reason(&call(&address(family, n), port)), Pass);
        }
        assert_eq!(kernel.reason(&call(&address(family, 2), 82)), Limit);
        let open = from(CALLER[family]).tcp(40_000, 80, ACK).build();
        assert_eq!(kernel.reason(&open), Pass);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_limit_bans_nobody_spares_the_allowed_and_counts_each_source_by_itself() {
    let sources = [
        ["198.18.0.99", "198.18.0.17"],
        ["2001:db8::99", "2001:db8:0:1::10"],
    ];
    for (family, [allowed, other]) in FAMILIES.into_iter().zip(sources) {
        let mut kernel = Kernel::with_rules(vec![limit(Trigger::Packets(1), 1)]);
        kernel.allow(allowed);
        for _ in 0..20 {
            assert_ne!(kernel.reason(&datagram(allowed, 10)), Limit);
        }
        assert_eq!(kernel.reason(&datagram(CALLER[family], 10)), Pass);
        assert_eq!(kernel.reason(&datagram(&address(family, 1), 10)), Limit);
        assert_eq!(kernel.reason(&datagram(other, 10)), Pass);
        assert_eq!(kernel.offences().len(), 0);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn observe_mode_tells_what_a_limit_would_drop_and_passes_it() {
    for family in FAMILIES {
        let mut kernel = Kernel::with_rules(vec![limit(Trigger::Packets(1), 1)]);
        kernel.observe(true);
        assert_eq!(kernel.reason(&datagram(CALLER[family], 10)), Pass);
        let beyond = kernel.judge(&datagram(&address(family, 1), 10));
        assert_eq!((beyond.reason, beyond.observed), (Limit, true));
        assert_eq!(beyond.action, packetwatch_abi::Action::Pass);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn observe_mode_bans_and_counts_as_enforcing_would() {
    for family in FAMILIES {
        let ban = rule("ban", Trigger::Packets(10));
        let mut kernel = Kernel::with_rules(vec![ban, limit(Trigger::Packets(1), 4)]);
        kernel.observe(true);
        for frame in datagrams(family, 10).take(100) {
            kernel.judge(&frame);
        }
        assert_eq!(
            kernel.offences().len(),
            0,
            "what a limit drops is in no window"
        );
        assert_eq!(kernel.caller(UNIT[family]).dropped, 96);

        // Beyond both: dropped once, by the threshold, which costs no limit.
        let ban = rule("ban", Trigger::Packets(2));
        kernel.set_rules(vec![ban, limit(Trigger::Packets(1), 4)]);
        kernel.advance(SECOND * 120);
        let before = kernel.caller(UNIT[family]).dropped;
        for frame in datagrams(family, 10).take(20) {
            kernel.judge(&frame);
        }
        assert_eq!(kernel.caller(UNIT[family]).dropped - before, 18);
        assert!(!kernel.offences().is_empty());
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_a_limit_drops_is_in_no_window_and_what_a_threshold_drops_costs_no_limit() {
    let ban = Rule {
        within: SECOND * 3600,
        ..rule("ban", Trigger::Packets(10))
    };
    for family in FAMILIES {
        let kernel = Kernel::with_rules(vec![ban.clone(), limit(Trigger::Packets(1), 4)]);
        let mut frames = datagrams(family, 10);
        let mut next = |kernel: &Kernel| kernel.reason(&frames.next().unwrap());
        for _ in 0..4 {
            assert_eq!(next(&kernel), Pass);
        }
        for _ in 0..100 {
            assert_eq!(next(&kernel), Limit);
        }

        let rules = vec![limit(Trigger::Packets(100), 12), ban.clone()];
        let mut kernel = Kernel::with_rules(rules);
        for _ in 0..10 {
            assert_eq!(next(&kernel), Pass);
        }
        for _ in 0..50 {
            assert_eq!(next(&kernel), Threshold);
        }
        kernel.set_rules(vec![limit(Trigger::Packets(100), 12)]);
        assert_eq!(next(&kernel), Pass);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn limits_of_two_units_both_hold_and_neither_pays_for_the_other() {
    let wide = Rule {
        prefix_v4: 24,
        prefix_v6: 48,
        ..limit(Trigger::Packets(100), 6)
    };
    let narrow = Rule {
        name: "narrow".to_owned(),
        ..limit(Trigger::Packets(100), 4)
    };
    let sources: [fn(usize, usize) -> String; 2] = [
        |network, _| format!("198.18.0.{}", 16 + network),
        |network, n| format!("2001:db8:0:{network}::{:x}", 0x10 + n),
    ];
    for source in sources {
        let kernel = Kernel::with_rules(vec![narrow.clone(), wide.clone()]);
        let passed = [0, 1, 2].map(|network| {
            let frames = (0..20).map(|n| datagram(&source(network, n), 10));
            frames.filter(|frame| kernel.reason(frame) == Pass).count()
        });
        // The second finds what the first, by its own limit, left of the network's.
        assert_eq!(passed, [4, 2, 0]);
    }
}
