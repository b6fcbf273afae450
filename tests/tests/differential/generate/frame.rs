//! One frame: mostly calls, and among the others every header that the parser knows or not.

use std::net::IpAddr;

use packetwatch_tests::{Frame, packet::*, random::Random};

const DESTINATION: [&str; 2] = ["198.18.0.1", "2001:db8::1"];

/// HIP, mobility and shim6, and what is no extension header though it looks like one.
const EXTENSIONS: [u8; 10] = [
    HOP_BY_HOP,
    ROUTING,
    DESTINATION_OPTIONS,
    AUTHENTICATION,
    135,
    139,
    140,
    253,
    50,
    FRAGMENT,
];

const FLAGS: [u8; 8] = [SYN, SYN, SYN | ACK, ACK, RST, FIN | ACK, SYN | FIN, 0];

pub(super) fn frame(random: &mut Random, sources: &[IpAddr], ports: u64) -> Vec<u8> {
    let source = *random.of(sources);
    let port = random.below(ports) as u16;
    match random.below(100) {
        0..50 => between(source).tcp(40_000, port, SYN).build(),
        50..58 => between(source)
            .tcp(40_000, port, *random.of(&FLAGS))
            .build(),
        58..62 => between(source)
            .udp(40_000, port)
            .payload(payload(random))
            .build(),
        62..65 => not_ip(random),
        _ => odd(random, source, port),
    }
}

fn between(source: IpAddr) -> Frame {
    let destination = DESTINATION[usize::from(source.is_ipv6())];
    Frame::new().ip(source, destination.parse().expect("an address"))
}

fn not_ip(random: &mut Random) -> Vec<u8> {
    let ethertype = *random.of(&[ARP, 0x8847, 0x8864, 0x88cc, 0x0026, VLAN, IPV4, IPV6]);
    let frame = tagged(random, Frame::new()).ethertype(ethertype);
    let len = random.below(60);
    frame.payload(random.bytes(len)).build()
}

fn tagged(random: &mut Random, frame: Frame) -> Frame {
    let tags = if random.percent(30) {
        random.between(1, 6)
    } else {
        0
    };
    (0..tags).fold(frame, |frame, _| {
        frame.tag(*random.of(&[VLAN, QINQ, 0x9100]), 5)
    })
}

fn odd(random: &mut Random, source: IpAddr, port: u16) -> Vec<u8> {
    let mut frame = tagged(random, between(source));
    if random.percent(30) {
        frame = frame.hop_limit(255);
    }
    if source.is_ipv4() {
        if random.percent(40) {
            frame = frame.options(4 * random.below(11) as usize);
        }
        if random.percent(30) {
            frame = fragmented(random, frame);
        }
    } else if random.percent(60) {
        for _ in 0..*random.of(&[1, 1, 2, 3, 7, 8, 9, 12]) {
            frame = match *random.of(&EXTENSIONS) {
                FRAGMENT => fragmented(random, frame),
                kind => {
                    // Those of a kilobyte take a chain beyond a frame's linear part.
                    let units = if random.percent(5) {
                        120
                    } else {
                        random.between(1, 4)
                    };
                    frame.extension(kind, units as u8)
                }
            };
        }
    }
    let frame = transport(random, frame, port).payload(payload(random));
    let mut bytes = frame.build();
    if random.percent(20) {
        // Ethernet's padding, which looks like anything.
        bytes.extend(random.bytes(40));
    }
    bytes
}

fn fragmented(random: &mut Random, frame: Frame) -> Frame {
    let offset = *random.of(&[0, 0, 0, 1, 2, 185, 0x0fff, 0x1000, 0x1fff]);
    frame.fragment(offset, random.percent(60))
}

fn transport(random: &mut Random, frame: Frame, port: u16) -> Frame {
    match random.below(10) {
        0..4 => frame.tcp(40_000, port, *random.of(&FLAGS)),
        4 => frame.udp(40_000, port),
        // Neighbour discovery among them.
        5 | 6 => frame.icmp(*random.of(&[0, 8, 128, 132, 133, 135, 137, 138]), 0),
        7 => frame.protocol(*random.of(&[GRE, IP_IN_IP, IPV6_IN_IP, NO_NEXT_HEADER, 132])),
        // The payload alone: a transport header that is too short, or none.
        _ => frame.protocol(*random.of(&[TCP, TCP, UDP, ICMPV6])),
    }
}

/// Short as a rule; at times another packet, or more than a page.
fn payload(random: &mut Random) -> Vec<u8> {
    match random.below(100) {
        0..60 => {
            let len = random.below(24);
            random.bytes(len)
        }
        60..80 => Vec::new(),
        80..98 => {
            let inner = *random.of(&[DESTINATION[0], DESTINATION[1]]);
            let inner = inner.parse().expect("an address");
            between(inner).tcp(1, 2, SYN).packet()
        }
        _ => vec![SYN; random.between(1000, 9000) as usize],
    }
}
