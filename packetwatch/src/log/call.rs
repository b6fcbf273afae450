//! The lines about calls.

use std::net::{IpAddr, Ipv4Addr};

use packetwatch_abi::{Action, Call, Family, Reason};
use time::OffsetDateTime;
use tracing::{info, warn};

use super::EVENT;

/// Writes the `connection` line of a call that came in on `interface` at `at`.
pub fn call(call: &Call, interface: &str, at: OffsetDateTime) {
    let Call {
        at: _,
        source,
        destination,
        source_port,
        destination_port,
        ifindex: _,
        reason,
        observed,
        _pad,
    } = call;
    let Some(reason) = Reason::from_number(*reason) else {
        warn!(
            "a call with the unknown reason {reason}: the program in the kernel is of another build"
        );
        return;
    };
    let verdict = match reason.action() {
        Action::Pass => "pass",
        Action::Drop if *observed != 0 => "observed",
        Action::Drop => "drop",
    };
    let ip_v6 = source.family == Family::V6 as u32;
    let caller = address(ip_v6, source.addr);
    let called = address(ip_v6, *destination);
    info!(
        target: EVENT,
        {
        "@timestamp" = (at.unix_timestamp_nanos() / 1_000) as i64,
        event.action = "connection",
        source.ip = %caller,
        source.port = source_port,
        destination.ip = %called,
        destination.port = destination_port,
        network.transport = "tcp",
        network.type = if ip_v6 { "ipv6" } else { "ipv4" },
        observer.ingress.interface.name = interface,
        packetwatch.verdict = verdict,
        packetwatch.reason = reason.as_str(),
        },
        "call from {caller} to port {destination_port}: {verdict}"
    );
}

/// Writes that `calls` calls of the last second have no line: they were beyond the budget.
/// Nothing if there were none.
pub fn suppressed(calls: u64) {
    if calls > 0 {
        info!(
            target: EVENT,
            { event.action = "connections-suppressed", packetwatch.suppressed = calls },
            "calls without a line, beyond the budget of a second: {calls}"
        );
    }
}

/// From words whose bytes are in network order; IPv4 is the first.
fn address(ip_v6: bool, words: [u32; 4]) -> IpAddr {
    if ip_v6 {
        let mut octets = [0; 16];
        for (to, word) in octets.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::from(octets)
    } else {
        IpAddr::V4(Ipv4Addr::from(words[0].to_ne_bytes()))
    }
}
