//! More sources than there is room for, on purpose: whose counts survive, who is found among them,
//! and that N is N on however many CPUs a source comes.

mod admission;
mod crowd;
mod daemon;
mod debts;
mod exact;
mod sweep;

use std::net::{IpAddr, Ipv4Addr};

use packetwatch_tests::{Daemon, Frame, packet::SYN};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));

fn call(source: IpAddr, port: u16) -> Vec<u8> {
    Frame::new().ip(source, HOST).tcp(40_000, port, SYN).build()
}

/// The `n`-th of sixteen million sources that nobody has an address of.
fn spoofed(n: u32) -> IpAddr {
    // An odd factor: each n below 2^24 has an address of its own, in no order.
    let scattered = n.wrapping_mul(0x9e37_79b1) & 0x00ff_ffff;
    IpAddr::from((0x0a00_0000u32 | scattered).to_be_bytes())
}

/// Changes the source of a frame made by [`call`]. The program does not look at checksums.
fn readdress(frame: &mut [u8], source: IpAddr) {
    let IpAddr::V4(source) = source else {
        panic!("{source} does not fit");
    };
    const SOURCE: usize = 14 + 12;
    frame[SOURCE..SOURCE + 4].copy_from_slice(&source.octets());
}

/// Whom the daemon itself forgets, and admits by another threshold, is nobody else's doing.
#[track_caller]
fn assert_nothing_reconciled(daemon: &Daemon) {
    let mut lines = daemon.lines();
    lines.retain(|line| line["event.action"] == "reconciled");
    assert!(lines.is_empty(), "{lines:?}");
}
