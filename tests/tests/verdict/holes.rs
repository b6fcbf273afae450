//! Holes found in other filters, each by name: what got round their bans, or turned them on the
//! innocent. Both families, one test a hole.

use std::time::Duration;

use packetwatch::rules::{Rule, Trigger};
use packetwatch_abi::{FOREVER, Reason};
use packetwatch_tests::{Frame, Kernel, packet::*};

use super::{CALLER, FAMILIES, UNIT, call, from, rule};

/// A kernel in which the caller is banned.
fn banned(family: usize) -> Kernel {
    let kernel = Kernel::new();
    kernel
        .dataplane
        .ban(UNIT[family].parse().unwrap(), FOREVER)
        .unwrap();
    kernel
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_vlan_tag_does_not_get_round_a_ban() {
    for family in FAMILIES {
        for ethertype in [VLAN, QINQ, 0x9100] {
            for tags in 1..=4 {
                let frame =
                    (0..tags).fold(from(CALLER[family]), |frame, _| frame.tag(ethertype, 0));
                let frame = frame.tcp(1, 80, SYN).build();
                assert_eq!(banned(family).reason(&frame), Reason::Ban, "{tags} tags");
            }
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn another_protocol_does_not_get_round_a_ban() {
    for family in FAMILIES {
        let kernel = banned(family);
        for protocol in (0..=255).filter(|protocol| ![TCP, UDP].contains(protocol)) {
            let frame = from(CALLER[family])
                .protocol(protocol)
                .payload([0; 64])
                .build();
            assert_eq!(kernel.reason(&frame), Reason::Ban, "protocol {protocol}");
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn an_extension_header_or_option_does_not_get_round_a_ban() {
    let kernel = banned(1);
    for kind in [
        HOP_BY_HOP,
        ROUTING,
        DESTINATION_OPTIONS,
        AUTHENTICATION,
        135,
        139,
        140,
        253,
    ] {
        for count in [1, 2, 8, 9, 20] {
            let frame = (0..count).fold(from(CALLER[1]), |frame, _| frame.extension(kind, 1));
            let frame = frame.tcp(1, 80, SYN).build();
            assert_eq!(kernel.reason(&frame), Reason::Ban, "{count} of kind {kind}");
        }
    }
    let kernel = banned(0);
    for length in [4, 20, 40] {
        let frame = from(CALLER[0]).options(length).tcp(1, 80, SYN).build();
        assert_eq!(kernel.reason(&frame), Reason::Ban);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn icmp_does_not_get_round_a_ban() {
    for family in FAMILIES {
        let kernel = banned(family);
        for kind in [0, 3, 8, 128, 129] {
            let frame = from(CALLER[family]).icmp(kind, 0).build();
            assert_eq!(kernel.reason(&frame), Reason::Ban, "type {kind}");
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_truncated_packet_does_not_get_round_a_ban() {
    for family in FAMILIES {
        let kernel = banned(family);
        let whole = call(CALLER[family], 80);
        let readable = 14 + [20, 40][family];
        for length in readable..=whole.len() {
            assert_eq!(
                kernel.reason(&whole[..length]),
                Reason::Ban,
                "{length} bytes"
            );
        }
        // Without a source there is nobody to judge; Linux has no use for it either.
        assert_eq!(kernel.reason(&whole[..readable - 1]), Reason::Malformed);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_fragment_does_not_get_round_a_ban() {
    for family in FAMILIES {
        let kernel = banned(family);
        for (offset, more) in [(0, true), (1, true), (1, false), (185, false)] {
            let frame = from(CALLER[family])
                .fragment(offset, more)
                .payload([0; 8])
                .build();
            assert_eq!(kernel.reason(&frame), Reason::Ban, "offset {offset}");
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_payload_of_a_later_fragment_is_not_read_as_ports() {
    for family in FAMILIES {
        let kernel = Kernel::with_rules(vec![rule("scan", Trigger::DistinctPorts(3))]);
        for port in 0u8..50 {
            // It looks like the SYN of a scan.
            let payload = [
                0x9c, 0x40, 0, port, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0, 0, 0, 0, 0, 0,
            ];
            let frame = from(CALLER[family])
                .fragment(185, false)
                .protocol(TCP)
                .payload(payload);
            assert_eq!(kernel.reason(&frame.build()), Reason::Pass);
        }
        assert_eq!(kernel.caller(UNIT[family]).calls, 0);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_flood_of_other_sources_evicts_no_ban_and_no_list_entry() {
    let kernel = Kernel::new();
    for family in FAMILIES {
        kernel
            .dataplane
            .ban(UNIT[family].parse().unwrap(), FOREVER)
            .unwrap();
    }
    kernel.deny("198.18.99.0/24");
    kernel.allow("198.18.98.0/24");
    // Twice as many as there is room for.
    for source in 0..65_536u32 {
        let [.., high, low] = source.to_be_bytes();
        let frame = call(&format!("198.19.{high}.{low}"), 80);
        kernel.dataplane.probe(&frame, 1).unwrap();
    }
    for family in FAMILIES {
        assert_eq!(kernel.reason(&call(CALLER[family], 80)), Reason::Ban);
    }
    assert_eq!(kernel.reason(&call("198.18.99.1", 80)), Reason::Deny);
    assert_eq!(kernel.reason(&call("198.18.98.1", 80)), Reason::Allow);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_low_rate_loses_no_fraction_at_a_bucket_s_edge() {
    // One call every 1.1 s against 7 in 8 s: seven of them lie in 6.6 s, so the eighth never passes.
    let mut kernel = Kernel::with_rules(vec![Rule {
        within: Duration::from_secs(8),
        ..rule("calls", Trigger::Connections(7))
    }]);
    for _ in 0..7 {
        assert_eq!(kernel.reason(&call(CALLER[0], 80)), Reason::Pass);
        kernel.advance(Duration::from_millis(1100));
    }
    kernel.advance(Duration::from_millis(0));
    let last = kernel.reason(&call(CALLER[0], 80));
    // 7.7 s after the first: between 7/8 T and T either is right; within 7/8 T only one is.
    assert!(matches!(last, Reason::Threshold | Reason::Pass));
    let mut kernel = Kernel::with_rules(vec![Rule {
        within: Duration::from_secs(8),
        ..rule("calls", Trigger::Connections(7))
    }]);
    for _ in 0..7 {
        assert_eq!(kernel.reason(&call(CALLER[0], 80)), Reason::Pass);
        kernel.advance(Duration::from_millis(999));
    }
    assert_eq!(kernel.reason(&call(CALLER[0], 80)), Reason::Threshold);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn two_ipv6_sources_never_share_a_count() {
    // Sources whose words add up, or fold by XOR, to the same value.
    let single = Rule {
        prefix_v6: 128,
        ..rule("calls", Trigger::Connections(1))
    };
    let kernel = Kernel::with_rules(vec![single]);
    let twins = [
        "2001:db8::1:0:0",
        "2001:db8::1:0",
        "2001:db8::1",
        "2001:db8:1::",
        "2001:db9::",
    ];
    for source in twins {
        assert_eq!(kernel.reason(&call(source, 80)), Reason::Pass, "{source}");
    }
    for source in twins {
        assert_eq!(
            kernel.reason(&call(source, 80)),
            Reason::Threshold,
            "{source}"
        );
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_prefix_drops_all_its_addresses_not_only_the_first() {
    for (prefix, inside, outside) in [
        (
            "198.18.4.0/22",
            ["198.18.4.0", "198.18.7.255", "198.18.5.9"],
            "198.18.8.0",
        ),
        (
            "2001:db8:4::/46",
            ["2001:db8:4::", "2001:db8:7:ffff::1", "2001:db8:5::"],
            "2001:db8:8::",
        ),
    ] {
        let kernel = Kernel::new();
        kernel.deny(prefix);
        for source in inside {
            assert_eq!(
                kernel.reason(&call(source, 80)),
                Reason::Deny,
                "{source} in {prefix}"
            );
        }
        assert_eq!(
            kernel.reason(&call(outside, 80)),
            Reason::Pass,
            "{outside} beside {prefix}"
        );
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn arp_and_neighbour_discovery_survive_a_deny_of_everything() {
    let kernel = Kernel::new();
    kernel.deny("0.0.0.0/0");
    kernel.deny("::/0");
    let arp = Frame::new().ethertype(ARP).payload([0; 28]).build();
    assert_eq!(kernel.reason(&arp), Reason::Arp);
    let solicitation = from(CALLER[1])
        .hop_limit(255)
        .icmp(135, 0)
        .payload([0; 16])
        .build();
    assert_eq!(kernel.reason(&solicitation), Reason::NeighbourDiscovery);
}
