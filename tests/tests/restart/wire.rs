//! Frames on a link, and which of them the filter lets through.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use packetwatch_tests::packet::SYN;
use packetwatch_tests::{Family, Frame, Frames, Netns, Segment};

use crate::scene::PROMPT;

/// Frames that a packet socket has room for until they are read.
const AT_ONCE: usize = 50;
/// Nobody lists, bans or counts it.
const MARK: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 254);

/// A link of the host, both ends: what comes in on one and is not dropped is seen on the other.
pub(crate) struct Wire {
    client: Frames,
    host: Frames,
    to: IpAddr,
}

impl Wire {
    pub(crate) fn of(host: &Netns, segment: &Segment) -> Self {
        Self {
            client: Frames::open(&segment.client, "eth0"),
            host: Frames::open(host, &segment.interface),
            to: segment.host(Family::V4),
        }
    }

    /// How many of these datagrams, or with `calls` of these calls, the filter lets pass, by source.
    pub(crate) fn passed(&self, sources: &[Ipv4Addr], calls: bool) -> BTreeMap<Ipv4Addr, u64> {
        let mut passed = BTreeMap::new();
        for some in sources.chunks(AT_ONCE) {
            for source in some {
                self.send(*source, calls);
            }
            self.send(MARK, false);
            while let Some(source) = self.next().filter(|source| *source != MARK) {
                *passed.entry(source).or_default() += 1;
            }
        }
        passed
    }

    fn send(&self, source: Ipv4Addr, calls: bool) {
        let frame = Frame::new().ip(source.into(), self.to);
        let frame = match calls {
            true => frame.tcp(40_000, 80, SYN),
            false => frame.udp(40_000, 9),
        };
        self.client.send(&frame.build());
    }

    /// The source of the next frame that has come through.
    fn next(&self) -> Option<Ipv4Addr> {
        loop {
            let frame = self.host.receive(PROMPT).expect("the mark comes through");
            let source: Option<[u8; 4]> = frame.get(26..30)?.try_into().ok();
            let source = source.map(Ipv4Addr::from)?;
            let is_of_here = frame[12..14] == [8, 0] && IpAddr::from(source) != self.to;
            if is_of_here {
                return Some(source);
            }
        }
    }
}
