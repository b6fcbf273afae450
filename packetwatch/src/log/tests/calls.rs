use packetwatch_abi::{Call, Prefix, Reason};
use time::macros::datetime;

use super::{line_of, lines_of};
use crate::log::{LogFormat, call, suppressed};

fn some_call(source: Prefix, destination: [u32; 4], reason: Reason, observed: u32) -> Call {
    Call {
        at: 0,
        source,
        destination,
        source_port: 40_000,
        destination_port: 22,
        ifindex: 2,
        reason: reason as u32,
        observed,
        _pad: [0; 2],
    }
}

fn v4(octets: [u8; 4]) -> u32 {
    u32::from_ne_bytes(octets)
}

#[test]
fn a_call_is_a_connection_line() {
    let source = Prefix::address_v4(v4([198, 51, 100, 7]));
    let dropped = some_call(source, [v4([192, 0, 2, 1]), 0, 0, 0], Reason::Threshold, 0);
    let line = line_of(|| call(&dropped, "eth0", datetime!(2024-02-29 23:59:59.000_001 UTC)));
    let expected = serde_json::json!({
        "@timestamp": "2024-02-29T23:59:59.000001Z",
        "log.level": "info",
        "message": "call from 198.51.100.7 to port 22: drop",
        "ecs.version": "8.17.0",
        "event.action": "connection",
        "event.kind": "event",
        "event.category": ["network"],
        "event.type": ["connection", "denied"],
        "source.ip": "198.51.100.7",
        "source.port": 40_000,
        "destination.ip": "192.0.2.1",
        "destination.port": 22,
        "network.transport": "tcp",
        "network.type": "ipv4",
        "observer.ingress.interface.name": "eth0",
        "packetwatch.verdict": "drop",
        "packetwatch.reason": "threshold",
    });
    assert_eq!(line, expected);
}

#[test]
fn a_drop_that_was_only_observed_is_an_allowed_connection() {
    let words = |last: u8| {
        let mut octets = [0u8; 16];
        octets[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        octets[15] = last;
        std::array::from_fn(|i| u32::from_ne_bytes(octets[i * 4..i * 4 + 4].try_into().unwrap()))
    };
    let observed = some_call(Prefix::address_v6(words(1)), words(2), Reason::Ban, 1);
    let line = line_of(|| call(&observed, "eth0", datetime!(2024-01-01 0:00 UTC)));
    assert_eq!(line["source.ip"], "2001:db8::1");
    assert_eq!(line["destination.ip"], "2001:db8::2");
    assert_eq!(line["network.type"], "ipv6");
    assert_eq!(line["packetwatch.verdict"], "observed");
    assert_eq!(line["packetwatch.reason"], "ban");
    assert_eq!(
        line["event.type"],
        serde_json::json!(["connection", "allowed"])
    );
}

#[test]
fn suppressed_calls_are_told_when_there_are_any() {
    assert_eq!(lines_of(LogFormat::Json, || suppressed(0)).len(), 0);
    let line = line_of(|| suppressed(12));
    assert_eq!(line["event.action"], "connections-suppressed");
    assert_eq!(line["packetwatch.suppressed"], 12);
}
