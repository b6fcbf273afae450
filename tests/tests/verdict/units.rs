//! What is counted and banned as one.

use std::time::Duration;

use packetwatch::rules::{Rule, Trigger};
use packetwatch_abi::Reason::{Allow, Ban, Pass, Threshold};
use packetwatch_tests::Kernel;

use super::{call, rule};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_whole_64_is_one_caller() {
    let kernel = Kernel::with_rules(vec![rule("scan", Trigger::DistinctPorts(3))]);
    for (host, port) in [
        ("2001:db8:7::1", 1),
        ("2001:db8:7::2", 2),
        ("2001:db8:7::ffff:3", 3),
    ] {
        assert_eq!(kernel.reason(&call(host, port)), Pass);
    }
    assert_eq!(kernel.reason(&call("2001:db8:7::4", 1)), Threshold);
    assert_eq!(
        kernel.reason(&call("2001:db8:7:1::4", 1)),
        Pass,
        "the next network"
    );
    assert_eq!(kernel.caller("2001:db8:7::/64").calls, 4);
    kernel.ban("2001:db8:7::/64", MINUTE);
    assert_eq!(kernel.reason(&call("2001:db8:7:0:9:9:9:9", 1)), Ban);
    assert_eq!(kernel.reason(&call("2001:db8:7:1::4", 1)), Pass);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn two_units_count_side_by_side() {
    let wide = Rule {
        prefix_v4: 24,
        prefix_v6: 48,
        ..rule("wide", Trigger::Connections(6))
    };
    let single = Rule {
        prefix_v6: 128,
        ..rule("single", Trigger::Connections(3))
    };
    let mut kernel = Kernel::with_rules(vec![wide, single]);
    for [a, b, c] in [
        ["198.18.5.1", "198.18.5.2", "198.18.5.3"],
        ["2001:db8:5::1", "2001:db8:5:1::2", "2001:db8:5:ffff::3"],
    ] {
        for _ in 0..3 {
            assert_eq!(kernel.reason(&call(a, 80)), Pass);
        }
        assert_eq!(kernel.reason(&call(a, 80)), Threshold, "its own three");
        for _ in 0..2 {
            assert_eq!(kernel.reason(&call(b, 80)), Pass);
        }
        assert_eq!(kernel.reason(&call(c, 80)), Pass, "the sixth of all");
        assert_eq!(kernel.reason(&call(c, 80)), Threshold);
        let rules: Vec<u32> = kernel
            .offences()
            .iter()
            .map(|offence| offence.rule)
            .collect();
        assert_eq!(rules, [1, 0]);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn link_local_sources_are_counted_by_single_address() {
    let wide = Rule {
        prefix_v4: 24,
        ..rule("scan", Trigger::DistinctPorts(3))
    };
    let kernel = Kernel::with_rules(vec![wide]);
    for [noisy, quiet] in [["fe80::bad", "fe80::1"], ["169.254.1.9", "169.254.1.1"]] {
        for port in 1..=3 {
            assert_eq!(kernel.reason(&call(noisy, port)), Pass);
        }
        assert_eq!(kernel.reason(&call(noisy, 4)), Threshold);
        assert_eq!(
            kernel.reason(&call(quiet, 1)),
            Pass,
            "fe80::/64 is every neighbour at once"
        );
        kernel.ban(noisy, MINUTE);
        assert_eq!(kernel.reason(&call(noisy, 1)), Ban);
        assert_eq!(kernel.reason(&call(quiet, 1)), Pass);
    }
    assert!(!kernel.is_counted("fe80::/64"));
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_an_allowed_source_does_never_counts_against_its_neighbours() {
    let wide = Rule {
        prefix_v4: 24,
        ..rule("scan", Trigger::DistinctPorts(3))
    };
    let mut kernel = Kernel::with_rules(vec![wide]);
    for [monitor, neighbour] in [
        ["198.18.5.1", "198.18.5.2"],
        ["2001:db8:5::1", "2001:db8:5::2"],
    ] {
        kernel.allow(monitor);
        for port in 1..=100 {
            assert_eq!(kernel.reason(&call(monitor, port)), Allow);
        }
        assert_eq!(kernel.reason(&call(neighbour, 1)), Pass);
        let single = packetwatch_tests::kernel::net(monitor).to_string();
        assert_eq!(
            kernel.caller(&single).calls,
            100,
            "allowed callers are still counted"
        );
        assert_eq!(kernel.offences(), []);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_a_source_did_while_it_was_allowed_is_not_held_against_it_later() {
    let triggers = [
        Trigger::DistinctPorts(3),
        Trigger::Connections(3),
        Trigger::Packets(3),
    ];
    for trigger in triggers {
        let mut kernel = Kernel::with_rules(vec![rule("rule", trigger)]);
        kernel.allow("198.18.5.1");
        for port in 1..=100 {
            assert_eq!(kernel.reason(&call("198.18.5.1", port)), Allow);
        }
        kernel.stand("198.18.5.1/32".parse().unwrap(), None);
        kernel.advance(Duration::from_millis(4));
        for port in 1..=3 {
            assert_eq!(
                kernel.reason(&call("198.18.5.1", port)),
                Pass,
                "{trigger:?}"
            );
            kernel.advance(Duration::from_millis(4));
        }
        assert_eq!(
            kernel.reason(&call("198.18.5.1", 4)),
            Threshold,
            "{trigger:?}"
        );
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_ban_of_a_single_address_stands_beside_the_unit() {
    let kernel = Kernel::with_rules(vec![rule("scan", Trigger::DistinctPorts(3))]);
    kernel.ban("2001:db8:7::9", MINUTE);
    assert_eq!(kernel.reason(&call("2001:db8:7::9", 80)), Ban);
    assert_eq!(kernel.reason(&call("2001:db8:7::8", 80)), Pass);
}
