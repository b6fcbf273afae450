//! What the parser says of a frame can be seen in the frame, whatever the frame is.
//!
//! `make fuzz` runs it under libFuzzer, the test below on the inputs that were kept.

use std::net::IpAddr;

use packetwatch_abi::Reason;

use super::parse::{Packet, Parsed, parse};

/// What the kernel hands to a program at least.
const SHORTEST: usize = 14;

/// Whether the input is a frame: two bytes that say how much of it is linear, most often all, and
/// the frame.
///
/// # Panics
/// Where something is said that is not in the frame.
pub fn seen(input: &[u8]) -> bool {
    let Some((&[high, low], frame)) = input.split_first_chunk() else {
        return false;
    };
    if frame.len() < SHORTEST {
        return false;
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
    true
}

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

#[test]
fn of_every_kept_input_no_more_is_said_than_can_be_seen() {
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/parse");
    let files = std::fs::read_dir(kept).expect("the kept inputs");
    let frames = files.filter(|file| {
        let path = file.as_ref().expect("a file").path();
        seen(&std::fs::read(&path).expect("an input"))
    });
    assert!(frames.count() >= 40, "few inputs are kept");
}
