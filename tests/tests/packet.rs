//! The frame builder against the formats' documents, byte by byte.

use std::net::IpAddr;

use packetwatch_tests::Frame;
use packetwatch_tests::packet::{
    AUTHENTICATION, DESTINATION_OPTIONS, HOP_BY_HOP, IP_IN_IP, QINQ, SYN, TCP,
};

fn ends(family: u8) -> (IpAddr, IpAddr) {
    let (source, destination) = match family {
        4 => ("198.18.0.16", "198.18.0.1"),
        _ => ("2001:db8::10", "2001:db8::1"),
    };
    (source.parse().unwrap(), destination.parse().unwrap())
}

fn frame(family: u8) -> Frame {
    let (source, destination) = ends(family);
    Frame::new().ip(source, destination)
}

#[test]
fn tags_stand_between_the_addresses_and_the_ethertype() {
    let bytes = frame(4).tag(QINQ, 7).vlan(5).tcp(1, 2, SYN).build();
    assert_eq!(bytes[12..22], [0x88, 0xa8, 0, 7, 0x81, 0, 0, 5, 0x08, 0x00]);
    assert_eq!(bytes[22], 0x45);
    assert_eq!(bytes.len(), 14 + 8 + 20 + 20);
}

#[test]
fn ipv4_options_lengthen_the_header() {
    let packet = frame(4).options(40).tcp(40_000, 8086, SYN).packet();
    assert_eq!(packet[0], 0x4f);
    assert_eq!(packet[2..4], 80_u16.to_be_bytes());
    assert_eq!(packet[20..60], [1; 40]);
    assert_eq!(packet[60..64], [0x9c, 0x40, 0x1f, 0x96]);
    assert_eq!(packet[73], SYN);
}

#[test]
fn an_ipv4_fragment_carries_offset_and_flag() {
    let first = frame(4).fragment(0, true).tcp(1, 2, SYN).packet();
    assert_eq!(first[6..8], [0x20, 0]);
    let last = frame(4).fragment(0x1fff, false).protocol(TCP).packet();
    assert_eq!(last[6..8], [0x1f, 0xff]);
    assert_eq!((last[9], last.len()), (TCP, 20));
}

#[test]
fn ipv6_extension_headers_form_a_chain() {
    let packet = frame(6)
        .extension(HOP_BY_HOP, 1)
        .extension(AUTHENTICATION, 3)
        .fragment(3, true)
        .extension(DESTINATION_OPTIONS, 2)
        .tcp(1, 2, SYN)
        .packet();
    assert_eq!(packet[4..6], (8 + 24 + 8 + 16 + 20_u16).to_be_bytes());
    assert_eq!(packet[6], HOP_BY_HOP);
    assert_eq!(packet[40..42], [AUTHENTICATION, 0]);
    // RFC 4302 counts words of 4 bytes and leaves two out.
    assert_eq!(packet[48..50], [44, 4]);
    assert_eq!(packet[72..76], [DESTINATION_OPTIONS, 0, 0, 3 << 3 | 1]);
    assert_eq!(packet[80..82], [TCP, 1]);
    assert_eq!(packet[96..100], [0, 1, 0, 2]);
}

#[test]
fn icmp_has_the_number_of_its_family() {
    assert_eq!(frame(4).icmp(8, 0).packet()[9], 1);
    let solicitation = frame(6).hop_limit(255).icmp(135, 0).packet();
    assert_eq!(solicitation[6..8], [58, 255]);
}

#[test]
fn every_checksum_sums_to_all_ones() {
    for payload in [&b""[..], b"odd", b"even"] {
        for family in [4, 6] {
            for packet in [
                frame(family).tcp(1, 2, SYN).payload(payload).packet(),
                frame(family).udp(1, 2).payload(payload).packet(),
            ] {
                let (header, addresses) = if family == 4 {
                    (20, 12..20)
                } else {
                    (40, 8..40)
                };
                let protocol = if family == 4 { packet[9] } else { packet[6] };
                let length = u32::try_from(packet.len() - header).unwrap();
                let mut words = packet[addresses].to_vec();
                words.extend(length.to_be_bytes());
                words.extend([0, 0, 0, protocol]);
                words.extend(&packet[header..]);
                assert_eq!(sum(&words), 0xffff, "{packet:x?}");
                if family == 4 {
                    assert_eq!(sum(&packet[..20]), 0xffff);
                }
            }
        }
    }
    assert_eq!(sum(&frame(4).icmp(8, 0).packet()[20..]), 0xffff);
}

#[test]
fn a_tunnel_carries_a_whole_packet() {
    let inner = frame(4).tcp(1, 2, SYN).packet();
    let outer = frame(4).protocol(IP_IN_IP).payload(inner.clone()).packet();
    assert_eq!(outer[9], IP_IN_IP);
    assert_eq!(outer[20..], inner);
}

#[test]
fn a_truncated_frame_still_claims_its_length() {
    let bytes = frame(4).tcp(1, 2, SYN).truncated(40).build();
    assert_eq!(bytes.len(), 40);
    assert_eq!(bytes[16..18], 40_u16.to_be_bytes());
}

#[test]
fn a_frame_need_not_carry_ip() {
    let bytes = Frame::new().ethertype(0x0806).payload([7; 28]).build();
    assert_eq!(bytes[12..14], [0x08, 0x06]);
    assert_eq!(bytes[14..], [7; 28]);
}

/// One's complement sum of the words.
fn sum(bytes: &[u8]) -> u32 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) * 256 + pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
