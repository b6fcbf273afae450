//! Every way through the parser.

use packetwatch_abi::Reason;
use packetwatch_tests::{Frame, Kernel, kernel::net, packet::*};

use super::{CALLER, FAMILIES, HOST, UNIT, addr, call, from};

/// What one packet does to a caller that was not seen before: calls counted.
fn calls(kernel: &Kernel, frame: &[u8], source: &str, unit: &str) -> u64 {
    kernel.dataplane.forget_caller(net(unit)).unwrap();
    let reason = kernel.reason(frame);
    assert_eq!(reason, Reason::Pass, "from {source}");
    let caller = kernel.caller(unit);
    assert_eq!((caller.packets, caller.bytes), (1, frame.len() as u64));
    caller.calls
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_call_is_a_syn_without_ack() {
    let kernel = Kernel::new();
    for family in FAMILIES {
        let table = [
            (SYN, 1),
            (SYN | ACK, 0),
            (ACK, 0),
            (RST, 0),
            (FIN | ACK, 0),
            (0, 0),
            (SYN | FIN, 1),
            (SYN | RST, 1),
            (SYN | PSH | URG, 1),
            (FIN | PSH | URG, 0),
        ];
        for (flags, expected) in table {
            let frame = from(CALLER[family]).tcp(40_000, 80, flags).build();
            let seen = calls(&kernel, &frame, CALLER[family], UNIT[family]);
            assert_eq!(seen, expected, "flags {flags:#04x} from {}", CALLER[family]);
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn udp_icmp_and_other_protocols_are_counted_as_packets() {
    let kernel = Kernel::new();
    for family in FAMILIES {
        let source = CALLER[family];
        let frames = [
            from(source).udp(53, 53).build(),
            from(source).icmp(8, 0).build(),
            from(source).protocol(GRE).payload([0; 32]).build(),
            from(source).protocol(IP_IN_IP).payload([0x45; 40]).build(),
            from(source).protocol(132).payload([0; 12]).build(),
            from(source).protocol(NO_NEXT_HEADER).build(),
        ];
        for frame in frames {
            assert_eq!(calls(&kernel, &frame, source, UNIT[family]), 0);
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn up_to_four_vlan_tags_are_looked_through() {
    for family in FAMILIES {
        let kernel = Kernel::new();
        for tags in 0..=4 {
            for ethertype in [VLAN, QINQ, 0x9100] {
                let frame =
                    (0..tags).fold(from(CALLER[family]), |frame, tag| frame.tag(ethertype, tag));
                let reason = kernel.reason(&frame.tcp(1, 80, SYN).build());
                assert_eq!(reason, Reason::Pass, "{tags} tags of {ethertype:#x}");
            }
        }
        assert_eq!(kernel.caller(UNIT[family]).calls, 15);
        let five = (0..5).fold(from(CALLER[family]), |frame, tag| frame.vlan(tag));
        assert_eq!(
            kernel.reason(&five.tcp(1, 80, SYN).build()),
            Reason::TooManyTags
        );
        let mixed = from(CALLER[family])
            .tag(QINQ, 1)
            .vlan(2)
            .tcp(1, 80, SYN)
            .build();
        assert_eq!(kernel.reason(&mixed), Reason::Pass);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_is_not_ip_passes_and_is_counted() {
    let kernel = Kernel::new();
    let table = [
        (ARP, Reason::Arp),
        (0x8847, Reason::NotIp), // MPLS
        (0x8864, Reason::NotIp), // PPPoE session
        (0x88cc, Reason::NotIp), // LLDP
        (0x0026, Reason::NotIp), // a length: 802.3 with LLC
    ];
    for (ethertype, reason) in table {
        let frame = Frame::new().ethertype(ethertype).payload([0; 46]).build();
        assert_eq!(kernel.reason(&frame), reason, "{ethertype:#06x}");
        let tagged = Frame::new()
            .vlan(7)
            .ethertype(ethertype)
            .payload([0; 46])
            .build();
        assert_eq!(
            kernel.reason(&tagged),
            reason,
            "{ethertype:#06x} behind a tag"
        );
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn ipv4_options_of_any_length_are_stepped_over() {
    let kernel = Kernel::new();
    for length in (0..=40).step_by(4) {
        let frame = from(CALLER[0]).options(length).tcp(1, 80, SYN).build();
        assert_eq!(
            calls(&kernel, &frame, CALLER[0], UNIT[0]),
            1,
            "{length} bytes of options"
        );
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn up_to_eight_extension_headers_are_followed() {
    let kernel = Kernel::new();
    for kind in [
        HOP_BY_HOP,
        ROUTING,
        DESTINATION_OPTIONS,
        AUTHENTICATION,
        135,
        139,
        140,
    ] {
        for count in 0..=8 {
            for units in [1, 2, 5] {
                let frame =
                    (0..count).fold(from(CALLER[1]), |frame, _| frame.extension(kind, units));
                let syn = frame.clone().tcp(1, 80, SYN).build();
                let seen = calls(&kernel, &syn, CALLER[1], UNIT[1]);
                assert_eq!(seen, 1, "{count} headers of kind {kind} and {units} units");
                let ack = frame.tcp(1, 80, ACK).build();
                assert_eq!(
                    calls(&kernel, &ack, CALLER[1], UNIT[1]),
                    0,
                    "the flags are read behind them"
                );
            }
        }
    }
    let mixed = [
        HOP_BY_HOP,
        DESTINATION_OPTIONS,
        ROUTING,
        AUTHENTICATION,
        DESTINATION_OPTIONS,
    ];
    let frame = mixed
        .iter()
        .fold(from(CALLER[1]), |frame, kind| frame.extension(*kind, 2));
    assert_eq!(
        calls(&kernel, &frame.tcp(1, 80, SYN).build(), CALLER[1], UNIT[1]),
        1
    );
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn behind_more_than_eight_extension_headers_a_call_is_assumed() {
    let mut kernel = Kernel::new();
    let frame = (0..9).fold(from(CALLER[1]), |frame, _| {
        frame.extension(DESTINATION_OPTIONS, 1)
    });
    assert_eq!(kernel.reason(&frame.tcp(1, 80, SYN).build()), Reason::Pass);
    assert_eq!(kernel.caller(UNIT[1]).calls, 1);
    let call = kernel.events.calls.poll().expect("a call is reported");
    assert_eq!(call.destination_port, 0);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn fragments() {
    let kernel = Kernel::new();
    for family in FAMILIES {
        let source = CALLER[family];
        let whole = |offset, more| from(source).fragment(offset, more);
        // The first one shows the flags.
        let first = whole(0, true).tcp(1, 80, SYN).payload([0; 8]).build();
        assert_eq!(calls(&kernel, &first, source, UNIT[family]), 1);
        let first = whole(0, true).tcp(1, 80, ACK).payload([0; 8]).build();
        assert_eq!(calls(&kernel, &first, source, UNIT[family]), 0);
        // Eight bytes show the port and not the flags: it may be a call, whatever comes next.
        let eight = [0x9c, 0x40, 0x00, 0x50, 0, 0, 0, 1];
        let tiny = whole(0, true).protocol(TCP).payload(eight).build();
        assert_eq!(calls(&kernel, &tiny, source, UNIT[family]), 1);
        // The same bytes further on are payload.
        for offset in [1, 185, 8191] {
            let later = whole(offset, true).protocol(TCP).payload(eight).build();
            assert_eq!(
                calls(&kernel, &later, source, UNIT[family]),
                0,
                "offset {offset}"
            );
            let last = whole(offset, false)
                .protocol(TCP)
                .payload([0xff; 40])
                .build();
            assert_eq!(
                calls(&kernel, &last, source, UNIT[family]),
                0,
                "offset {offset}"
            );
        }
        // A fragment header with nothing more to come is a whole packet.
        let atomic = whole(0, false).tcp(1, 80, SYN).build();
        assert_eq!(calls(&kernel, &atomic, source, UNIT[family]), 1);
        let udp = whole(0, true).udp(53, 53).payload([0; 8]).build();
        assert_eq!(calls(&kernel, &udp, source, UNIT[family]), 0);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_tiny_fragment_is_not_read_into_its_padding() {
    let kernel = Kernel::new();
    // 14 + 20 + 8 bytes, padded to the 60 that Ethernet sends at least: the flags of the TCP header
    // would lie in the padding.
    let eight = [0x9c, 0x40, 0x00, 0x50, 0, 0, 0, 1];
    let mut frame = from(CALLER[0])
        .fragment(0, true)
        .protocol(TCP)
        .payload(eight)
        .build();
    frame.resize(60, 0);
    assert_eq!(calls(&kernel, &frame, CALLER[0], UNIT[0]), 1);
    // Nor does padding make a call of what is none.
    let mut ack = from(CALLER[0]).udp(1, 2).build();
    ack.resize(60, SYN);
    assert_eq!(calls(&kernel, &ack, CALLER[0], UNIT[0]), 0);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_is_shorter_than_its_headers_say_is_malformed() {
    let kernel = Kernel::new();
    for family in FAMILIES {
        let whole = call(CALLER[family], 80);
        let network = 14 + [20, 40][family];
        for length in 14..whole.len() {
            kernel.dataplane.forget_caller(net(UNIT[family])).unwrap();
            let frame = &whole[..length];
            let reason = kernel.reason(frame);
            // The flags are the 14th byte of the TCP header; nothing beyond them is needed.
            let expected = if length < network + 14 {
                Reason::Malformed
            } else {
                Reason::Pass
            };
            assert_eq!(reason, expected, "{length} bytes");
            assert_eq!(
                kernel.is_counted(UNIT[family]),
                length >= network,
                "{length} bytes"
            );
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn headers_that_contradict_themselves_are_malformed() {
    let kernel = Kernel::new();
    let broken = |family: usize, at: usize, value: u8| {
        let mut frame = call(CALLER[family], 80);
        frame[14 + at] = value;
        frame
    };
    // IPv4: version 6, a header of 16 bytes, a total length within the header
    assert_eq!(kernel.reason(&broken(0, 0, 0x65)), Reason::Malformed);
    assert_eq!(kernel.reason(&broken(0, 0, 0x44)), Reason::Malformed);
    let mut short = broken(0, 2, 0);
    short[17] = 19;
    assert_eq!(kernel.reason(&short), Reason::Malformed);
    // IPv6: version 4
    assert_eq!(kernel.reason(&broken(1, 0, 0x45)), Reason::Malformed);
    // An extension header that reaches beyond the packet
    let mut beyond = from(CALLER[1])
        .extension(DESTINATION_OPTIONS, 1)
        .tcp(1, 80, SYN)
        .build();
    beyond[14 + 40 + 1] = 255;
    assert_eq!(kernel.reason(&beyond), Reason::Malformed);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn an_extension_header_that_a_first_fragment_hides_counts_as_a_call() {
    let kernel = Kernel::new();
    // The fragment ends inside the chain of headers: what follows may be a SYN.
    let frame = from(CALLER[1])
        .fragment(0, true)
        .protocol(DESTINATION_OPTIONS)
        .build();
    assert_eq!(kernel.reason(&frame), Reason::Pass);
    assert_eq!(kernel.caller(UNIT[1]).calls, 1);
    // Or inside the last of them, which says what follows: sixteen bytes, of which eight are here.
    let cut = |protocol| {
        let options = [protocol, 1, 1, 12, 0, 0, 0, 0];
        let frame = from(CALLER[1]).fragment(0, true);
        let frame = frame.protocol(DESTINATION_OPTIONS).payload(options);
        frame.build()
    };
    assert_eq!(calls(&kernel, &cut(TCP), CALLER[1], UNIT[1]), 1);
    assert_eq!(kernel.reason(&cut(UDP)), Reason::Malformed);
    assert_eq!(kernel.caller(UNIT[1]).calls, 1, "of no call's protocol");
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn neighbour_discovery_passes_on_its_own_link_alone() {
    let kernel = Kernel::new();
    kernel.deny("2001:db8::/32");
    let discovery = |kind, hops| {
        from(CALLER[1])
            .hop_limit(hops)
            .icmp(kind, 0)
            .payload([0; 16])
    };
    for kind in 133..=137 {
        let frame = discovery(kind, 255).build();
        assert_eq!(
            kernel.reason(&frame),
            Reason::NeighbourDiscovery,
            "type {kind}"
        );
        // A router on the way would have lowered it.
        let routed = discovery(kind, 254).build();
        assert_eq!(kernel.reason(&routed), Reason::Deny, "type {kind}");
        let wrapped = discovery(kind, 255).extension(HOP_BY_HOP, 1).build();
        assert_eq!(kernel.reason(&wrapped), Reason::Deny, "type {kind}");
    }
    for kind in [128, 132, 138] {
        assert_eq!(
            kernel.reason(&discovery(kind, 255).build()),
            Reason::Deny,
            "type {kind}"
        );
    }
    let udp = from(CALLER[1]).hop_limit(255).udp(135, 135).build();
    assert_eq!(kernel.reason(&udp), Reason::Deny);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_tunnel_is_judged_by_its_outer_header() {
    let kernel = Kernel::new();
    kernel.deny("198.18.0.16");
    for inner in [0, 1] {
        let inside = Frame::new()
            .ip(addr("198.18.0.99"), addr(HOST[0]))
            .tcp(1, 80, SYN);
        let outer = from(CALLER[inner])
            .protocol(IP_IN_IP)
            .payload(inside.packet());
        let expected = [Reason::Deny, Reason::Pass][inner];
        assert_eq!(kernel.reason(&outer.build()), expected);
    }
    assert!(!kernel.is_counted("198.18.0.99/32"));
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_mapped_source_in_ipv6_is_not_the_ipv4_address() {
    // Nobody may get an IPv4 host banned by writing its address into an IPv6 header.
    let kernel = Kernel::new();
    kernel.deny("198.18.0.16");
    assert_eq!(kernel.reason(&call("::ffff:198.18.0.16", 80)), Reason::Pass);
    kernel.deny("::/0");
    assert_eq!(kernel.reason(&call("198.18.0.17", 80)), Reason::Pass);
}
