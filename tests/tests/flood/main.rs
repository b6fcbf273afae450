//! More sources than there is room for, on purpose: whose counts survive, who is found among them,
//! and that N is N on however many CPUs a source comes.

mod admission;
mod crowd;
mod daemon;
mod debts;
mod exact;
mod sweep;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packetwatch_tests::{Daemon, Frame, packet::SYN};

const HOST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

fn call(source: IpAddr, port: u16) -> Vec<u8> {
    let host = HOST[usize::from(source.is_ipv6())];
    Frame::new().ip(source, host).tcp(40_000, port, SYN).build()
}

/// The `n`-th of sixteen million sources that nobody has an address of.
fn spoofed(n: u32) -> IpAddr {
    // An odd factor: each n below 2^24 has an address of its own, in no order.
    let scattered = n.wrapping_mul(0x9e37_79b1) & 0x00ff_ffff;
    IpAddr::from((0x0a00_0000u32 | scattered).to_be_bytes())
}

/// The `n`-th of sixteen million that are by turns such a source and an address in a /64 of its own, in
/// 2001:db8:8000::/33.
fn spoofed_in_both(n: u32) -> IpAddr {
    let (half, is_v6) = (n / 2, n % 2 == 1);
    if !is_v6 {
        return spoofed(half);
    }
    let network = 0x2001_0db8_8000_0000 | u64::from(half.wrapping_mul(0x9e37_79b1) & 0x7fff_ffff);
    let interface = u64::from(half).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    IpAddr::from(Ipv6Addr::from_bits(
        u128::from(network) << 64 | u128::from(interface),
    ))
}

/// Changes the source of a frame of the same family. The program does not look at checksums.
fn readdress(frame: &mut [u8], source: IpAddr) {
    const HEADER: usize = 14;
    let is_v6 = frame[HEADER] >> 4 == 6;
    assert_eq!(is_v6, source.is_ipv6(), "{source} does not fit");
    match source {
        IpAddr::V4(v4) => frame[HEADER + 12..][..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => frame[HEADER + 8..][..16].copy_from_slice(&v6.octets()),
    }
}

/// Whom the daemon itself forgets, and admits by another threshold, is nobody else's doing.
#[track_caller]
fn assert_nothing_reconciled(daemon: &Daemon) {
    let mut lines = daemon.lines();
    lines.retain(|line| line["event.action"] == "reconciled");
    assert!(lines.is_empty(), "{lines:?}");
}
