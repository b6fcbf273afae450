//! Where everything is measured: one host with a link for each contestant, all filters in place.
//!
//! ```text
//!  sender ── pw0  packetwatch, the real daemon with its default configuration
//!  sender ── pw1  xdp-filter
//!  sender ── pw2  nftables
//!  sender ── pw3  a program that drops at once: what no filter can beat
//! ```
//!
//! Nothing is attached or detached between rounds, so that contestants can take turns.

use std::{net::IpAddr, os::fd::OwnedFd, thread, time::Duration};

use anyhow::{Result, ensure};
use nix::net::if_::if_nametoindex;
use packetwatch_tests::{
    Daemon, Frame, Frames, Lan, Segment, intruder,
    packet::{DESTINATION_OPTIONS, HOP_BY_HOP, QINQ, SYN},
    programs::Program,
};

use crate::peers;

/// Sources of which each filter drops everything. Neither is of a segment: a source has no need to.
const BANNED: [&str; 2] = ["198.19.1.1", "2001:db8:bad::1"];
/// On our deny list; the peers have one list.
const DENIED: [&str; 2] = ["198.19.2.1", "2001:db8:def::1"];
/// On no list.
const GOOD: [&str; 2] = ["198.19.3.1", "2001:db8:900d::1"];
const DESTINATION: [&str; 2] = ["198.18.0.1", "2001:db8::1"];

/// Calls of different ports that the default rule `port-scan` lets pass; the next makes a ban.
pub(crate) const FREE_PORTS: u16 = 10;

/// The shortest an Ethernet frame can be, without its check sequence.
const SHORTEST: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Banned,
    Denied,
    Good,
}

/// What stands between Ethernet and UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    V4,
    V6,
    Vlan,
    QinQ,
    Extensions,
}

impl Shape {
    pub(crate) const ALL: [Self; 5] =
        [Self::V4, Self::V6, Self::Vlan, Self::QinQ, Self::Extensions];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::Vlan => "IPv4, VLAN tag",
            Self::QinQ => "IPv4, two tags (QinQ)",
            Self::Extensions => "IPv6, two extension headers",
        }
    }

    /// The shortest UDP packet of this shape.
    pub(crate) fn frame(self, source: Source) -> Vec<u8> {
        let row = usize::from(matches!(self, Self::V6 | Self::Extensions));
        let source = match source {
            Source::Banned => BANNED[row],
            Source::Denied => DENIED[row],
            Source::Good => GOOD[row],
        };
        let frame = Frame::new().ip(address(source), address(DESTINATION[row]));
        let frame = match self {
            Self::V4 | Self::V6 => frame,
            Self::Vlan => frame.vlan(5),
            Self::QinQ => frame.tag(QINQ, 5).vlan(6),
            Self::Extensions => frame
                .extension(HOP_BY_HOP, 1)
                .extension(DESTINATION_OPTIONS, 1),
        };
        let mut frame = frame.udp(40_000, 53).build();
        frame.resize(frame.len().max(SHORTEST), 0);
        frame
    }
}

pub(crate) struct Scene {
    // In the order of their end: the filters before the links they stand on.
    pub(crate) daemon: Daemon,
    pub(crate) xdp_filter: peers::XdpFilter,
    /// the link of the program that drops at once
    _empty: OwnedFd,
    pub(crate) lan: Lan,
}

impl Scene {
    /// Makes the namespaces and starts the filters; nobody is on a list yet.
    pub(crate) fn new() -> Result<Self> {
        let lan = Lan::with_interfaces(4);
        let xdp_filter = peers::XdpFilter::load(&lan.host, "pw1", &BANNED.map(address))?;
        peers::load_nftables(&lan.host, "pw2", address(BANNED[0]))?;
        let empty = lan.host.run(|| {
            anyhow::Ok(intruder::attach(
                &Program::dropping_all(),
                if_nametoindex("pw3")?,
            )?)
        })?;
        // The loopback interface is where the kernel says a frame of a test run came from.
        let daemon = Daemon::builder(&lan.host)
            .interface("pw0")
            .interface("lo")
            .start();
        ensure!(
            lan.host.run(|| if_nametoindex("pw0")).is_ok(),
            "the daemon took its interface away"
        );
        Ok(Self {
            daemon,
            xdp_filter,
            _empty: empty,
            lan,
        })
    }

    /// Denies one source of each family, and has the rules ban another.
    pub(crate) fn fill_lists(&self) -> Result<()> {
        for denied in DENIED {
            let answer = self.daemon.api("PUT", &format!("/v1/deny/{denied}"), None);
            ensure!(answer.status == 201, "deny {denied}: {}", answer.text());
        }
        let frames = Frames::open(&self.link(0).client, "eth0");
        for (row, banned) in BANNED.into_iter().enumerate() {
            for port in 1..=FREE_PORTS + 1 {
                frames.send(&call(address(banned), address(DESTINATION[row]), port));
            }
            let listed = (0..200).any(|_| {
                thread::sleep(Duration::from_millis(10));
                let path = format!("/v1/bans?contains={banned}");
                let bans = self.daemon.api("GET", &path, None).json();
                bans["entries"]
                    .as_array()
                    .is_some_and(|bans| !bans.is_empty())
            });
            ensure!(listed, "the default rules did not ban {banned}");
        }
        Ok(())
    }

    /// The link of the `n`-th contestant.
    pub(crate) fn link(&self, n: usize) -> &Segment {
        &self.lan.segments[n]
    }
}

/// A SYN, which is what rules count.
pub(crate) fn call(source: IpAddr, destination: IpAddr, port: u16) -> Vec<u8> {
    Frame::new()
        .ip(source, destination)
        .tcp(40_000, port, SYN)
        .build()
}

/// The host's address that calls go to.
pub(crate) fn destination() -> IpAddr {
    address(DESTINATION[0])
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address written above")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_short_as_ethernet_allows() {
        assert_eq!(Shape::V4.frame(Source::Good).len(), 60);
        assert_eq!(Shape::QinQ.frame(Source::Good).len(), 60);
        assert_eq!(Shape::V6.frame(Source::Banned).len(), 14 + 40 + 8);
        assert_eq!(
            Shape::Extensions.frame(Source::Denied).len(),
            14 + 40 + 16 + 8
        );
    }
}
