//! Frames made by hand, a header at a time and in any wrong way a test asks for.
//!
//! ```
//! use packetwatch_tests::packet::{Frame, SYN};
//!
//! let source = "198.18.0.16".parse().unwrap();
//! let destination = "198.18.0.1".parse().unwrap();
//! let frame = Frame::new()
//!     .vlan(5)
//!     .ip(source, destination)
//!     .options(8)
//!     .tcp(40_000, 8086, SYN)
//!     .build();
//! assert_eq!(frame.len(), 14 + 4 + 28 + 20);
//! ```
//!
//! Lengths and checksums are right unless a test overrides them, so that a kernel answers the frame.

mod network;
mod transport;

use std::net::IpAddr;

use network::{Extension, Network};
use transport::Transport;

/// TCP flags.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;

/// EtherTypes.
pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const VLAN: u16 = 0x8100;
pub const IPV6: u16 = 0x86dd;
pub const QINQ: u16 = 0x88a8;

/// IP protocol numbers, IPv6 extension headers among them.
pub const HOP_BY_HOP: u8 = 0;
pub const ICMP: u8 = 1;
pub const IP_IN_IP: u8 = 4;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const IPV6_IN_IP: u8 = 41;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const GRE: u8 = 47;
pub const AUTHENTICATION: u8 = 51;
pub const ICMPV6: u8 = 58;
pub const NO_NEXT_HEADER: u8 = 59;
pub const DESTINATION_OPTIONS: u8 = 60;

/// Addresses of no real card: locally administered.
const DESTINATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame under construction. Each method sets or adds one thing; their order matters only among tags
/// and among extension headers.
#[derive(Clone, Debug)]
pub struct Frame {
    destination: [u8; 6],
    source: [u8; 6],
    /// Outermost first: the tag's own EtherType, and its VLAN.
    tags: Vec<(u16, u16)>,
    /// Instead of the EtherType that the network layer has.
    ethertype: Option<u16>,
    network: Option<Network>,
    transport: Transport,
    payload: Vec<u8>,
    /// Bytes of the finished frame that are kept.
    cut: usize,
}

impl Frame {
    /// An Ethernet header with nothing behind it.
    pub fn new() -> Self {
        Self {
            destination: DESTINATION_MAC,
            source: SOURCE_MAC,
            tags: Vec::new(),
            ethertype: None,
            network: None,
            transport: Transport::None,
            payload: Vec::new(),
            cut: usize::MAX,
        }
    }

    /// Hardware addresses, for a frame that a kernel is to take in.
    pub fn mac(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        self.source = source;
        self.destination = destination;
        self
    }

    /// Adds an 802.1Q tag inside those there are.
    pub fn vlan(self, id: u16) -> Self {
        self.tag(VLAN, id)
    }

    /// Adds a tag with an EtherType of its own, such as [`QINQ`].
    pub fn tag(mut self, ethertype: u16, id: u16) -> Self {
        self.tags.push((ethertype, id));
        self
    }

    /// Replaces the EtherType, which is otherwise that of the addresses, or 0 without any.
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.ethertype = Some(ethertype);
        self
    }

    /// An IPv4 or an IPv6 header, as the addresses are; panics when they differ in family.
    pub fn ip(mut self, source: IpAddr, destination: IpAddr) -> Self {
        self.network = Some(Network::between(source, destination));
        self
    }

    /// Adds `length` bytes of IPv4 options (no-operation), a multiple of 4 up to 40.
    pub fn options(mut self, length: usize) -> Self {
        self.ip_header().set_options(length);
        self
    }

    /// Adds an IPv6 extension header of `units` times 8 bytes, at least 1.
    pub fn extension(mut self, kind: u8, units: u8) -> Self {
        self.ip_header().extend(Extension::of_units(kind, units));
        self
    }

    /// Makes the packet a fragment: `offset` in units of 8 bytes, and whether more follow. In IPv6 this
    /// adds a fragment header behind the extension headers there are. The transport header is there
    /// still; a later fragment that shall have none is one with a payload alone.
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.ip_header().set_fragment(offset, more);
        self
    }

    /// The IPv4 time to live or the IPv6 hop limit, otherwise 64.
    pub fn hop_limit(mut self, hops: u8) -> Self {
        self.ip_header().set_hop_limit(hops);
        self
    }

    /// Replaces the protocol number that ends the chain of headers, which is otherwise that of the
    /// transport.
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.ip_header().set_protocol(protocol);
        self
    }

    /// A TCP header without options.
    pub fn tcp(mut self, source_port: u16, destination_port: u16, flags: u8) -> Self {
        self.transport = Transport::Tcp {
            source_port,
            destination_port,
            flags,
        };
        self
    }

    /// A UDP header.
    pub fn udp(mut self, source_port: u16, destination_port: u16) -> Self {
        self.transport = Transport::Udp {
            source_port,
            destination_port,
        };
        self
    }

    /// An ICMP or, behind an IPv6 header, an ICMPv6 header with four zero bytes of its own.
    pub fn icmp(mut self, kind: u8, code: u8) -> Self {
        self.transport = Transport::Icmp { kind, code };
        self
    }

    /// What follows the last header.
    pub fn payload(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.payload = bytes.into();
        self
    }

    /// Keeps the first `length` bytes of the frame; the headers go on claiming the rest.
    pub fn truncated(mut self, length: usize) -> Self {
        self.cut = length;
        self
    }

    /// The frame, Ethernet header first.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = [self.destination, self.source].concat();
        for (ethertype, id) in &self.tags {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        let carried = self.network.as_ref().map_or(0, Network::ethertype);
        frame.extend(self.ethertype.unwrap_or(carried).to_be_bytes());
        frame.extend(self.packet());
        frame.truncate(self.cut);
        frame
    }

    /// The packet without its Ethernet header and tags: the payload of a tunnel.
    pub fn packet(&self) -> Vec<u8> {
        match &self.network {
            Some(network) => {
                let segment = self.transport.segment(Some(network), &self.payload);
                network.packet(self.transport.protocol(network), &segment)
            }
            None => self.transport.segment(None, &self.payload),
        }
    }

    fn ip_header(&mut self) -> &mut Network {
        self.network
            .as_mut()
            .expect("call ip() before what belongs to its header")
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}
