//! The reference's parser on any bytes: it never panics, and what it says of a frame can be seen
//! in the frame. `make fuzz` runs it.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::{Corpus, fuzz_target};
use packetwatch_abi::Reason;

// The file alone: the tests' crate would bring the daemon and its BPF tool chain along.
#[path = "../../tests/src/reference/parse.rs"]
mod parse;

use parse::{Packet, Parsed, parse};

/// What the kernel hands to a program at least.
const SHORTEST: usize = 14;

fuzz_target!(|input: &[u8]| -> Corpus {
    // The first two bytes say how much of the frame is linear; most often all of it.
    let Some((&[high, low], frame)) = input.split_first_chunk() else {
        return Corpus::Reject;
    };
    if frame.len() < SHORTEST {
        return Corpus::Reject;
    }
    let linear = usize::from(u16::from_be_bytes([high, low])).max(SHORTEST);
    match parse(frame, linear) {
        Parsed::Packet(packet) => check(&packet, frame, linear),
        Parsed::Unjudged(reason) => assert!(
            matches!(
                reason,
                Reason::Malformed
                    | Reason::NotIp
                    | Reason::Arp
                    | Reason::NeighbourDiscovery
                    | Reason::TooManyTags
            ),
            "{reason:?} takes a source"
        ),
    }
    Corpus::Keep
});

fn check(packet: &Packet, frame: &[u8], linear: usize) {
    let seen = &frame[..linear.min(frame.len())];
    let octets = match packet.source {
        IpAddr::V4(source) => source.octets().to_vec(),
        IpAddr::V6(source) => source.octets().to_vec(),
    };
    assert!(
        seen[packet.source_at..].starts_with(&octets),
        "the source is in the frame"
    );
    assert_eq!(packet.source.is_ipv4(), packet.destination.is_ipv4());
    assert!(!(packet.call && packet.malformed), "a call is whole enough");
    for port in [packet.source_port, packet.destination_port] {
        let port = port.to_be_bytes();
        assert!(port == [0, 0] || seen.windows(2).any(|pair| pair == port));
    }
    // The source is known from the IP header on, whatever the rest is cut to.
    let header = packet.source_at + 2 * octets.len();
    let Parsed::Packet(cut) = parse(&seen[..header], header) else {
        panic!("without its payload it has no source");
    };
    assert_eq!(
        (cut.source, cut.destination),
        (packet.source, packet.destination)
    );
}
