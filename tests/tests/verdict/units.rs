//! What is counted and banned as one.

use std::time::Duration;

use ipnet::IpNet;
use packetwatch::{
    dataplane::prefix,
    rules::{Rule, Trigger},
};
use packetwatch_abi::{
    Reason::{Allow, Ban, Pass, Threshold},
    Standing,
};
use packetwatch_tests::{Kernel, kernel::net};

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
        let single = net(monitor).to_string();
        assert_eq!(
            kernel.caller(&single).calls,
            100,
            "allowed callers are still counted"
        );
        assert_eq!(kernel.offences(), []);
    }
}

/// For the unit, one source would be banned alone for what the others do.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn who_shares_a_unit_with_an_allowed_address_is_counted_by_single_address() {
    let wide = Rule {
        prefix_v4: 24,
        prefix_v6: 48,
        ..rule("wide", Trigger::Connections(6))
    };
    let scan = rule("scan", Trigger::DistinctPorts(3));
    let mut kernel = Kernel::with_rules(vec![scan, wide]);
    // Addresses of one /24 or /48, the first two of one /64; the longest unit that holds an allowed address;
    // whether the /64 is counted as one still.
    for ([a, b, c], shared_len, is_64_one) in [
        (
            ["198.18.5.1", "198.18.5.2", "198.18.5.3"],
            "198.18.5.0/24",
            false,
        ),
        (
            ["2001:db8:5::1", "2001:db8:5::2", "2001:db8:5:1::3"],
            "2001:db8:5::/64",
            false,
        ),
        (
            ["2001:db8:6::1", "2001:db8:6::2", "2001:db8:6:1::3"],
            "2001:db8:6::/48",
            true,
        ),
    ] {
        let shared_len = net(shared_len);
        let standing = Standing {
            shared_len: shared_len.prefix_len(),
            ..Standing::default()
        };
        kernel.stand(shared_len, Some(standing));
        for port in [1, 2, 1, 2, 1, 2] {
            assert_eq!(kernel.reason(&call(a, port)), Pass, "{shared_len}");
        }
        assert_eq!(
            kernel.reason(&call(a, 1)),
            Threshold,
            "{shared_len}: its own six"
        );
        assert_eq!(kernel.reason(&call(b, 4)), Pass, "{shared_len}");
        let reason = kernel.reason(&call(b, 5));
        assert_eq!(
            reason,
            if is_64_one { Threshold } else { Pass },
            "{shared_len}"
        );
        assert_eq!(
            kernel.reason(&call(c, 4)),
            Pass,
            "{shared_len}: the others' calls are not its own"
        );
        assert_eq!(
            kernel.caller(&net(a).to_string()).calls,
            7,
            "{shared_len}: met once"
        );
        let units: Vec<IpNet> = kernel.offences().iter().map(|o| prefix(&o.unit)).collect();
        let mut blamed = vec![net(a)];
        blamed.extend(is_64_one.then(|| net("2001:db8:6::/64")));
        assert_eq!(units, blamed, "{shared_len}");
    }
    assert!(!kernel.is_counted("198.18.5.0/24") && !kernel.is_counted("2001:db8:6::/48"));
    assert!(
        kernel.is_counted("2001:db8:5::/48"),
        "of the /48 around the /64, who is not in that"
    );
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
