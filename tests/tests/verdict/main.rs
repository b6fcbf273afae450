//! Verdict tables: the real bytecode in the real kernel, one packet at a time by
//! `BPF_PROG_TEST_RUN`, with the clock in the test's hand.

mod bounds;
mod chain;
mod events;
mod explained;
mod holes;
mod limits;
mod load;
mod order;
mod parse;
mod trial;
mod units;
mod windows;

use std::net::IpAddr;

use packetwatch::rules::{Rule, Trigger};
use packetwatch_tests::{Frame, packet::SYN};

/// The protected host, and somebody who calls, in each family.
const HOST: [&str; 2] = ["198.18.0.1", "2001:db8::1"];
const CALLER: [&str; 2] = ["198.18.0.16", "2001:db8::10"];
/// What the caller is counted as, with the default units.
const UNIT: [&str; 2] = ["198.18.0.16/32", "2001:db8::/64"];

fn addr(text: &str) -> IpAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is no address"))
}

/// A packet from `source` to the host, without a transport.
fn from(source: &str) -> Frame {
    let source = addr(source);
    Frame::new().ip(source, addr(HOST[usize::from(source.is_ipv6())]))
}

/// A call from `source` to `port`.
fn call(source: &str, port: u16) -> Vec<u8> {
    from(source).tcp(40_000, port, SYN).build()
}

fn rule(name: &str, trigger: Trigger) -> Rule {
    Rule::new(name, trigger)
}

/// Both families.
const FAMILIES: [usize; 2] = [0, 1];
