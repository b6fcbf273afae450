//! IPv4 and IPv6 headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::transport::checksum;
use super::{AUTHENTICATION, FRAGMENT, IPV4, IPV6};

const HOP_LIMIT: u8 = 64;

/// Identification of every fragment: those of one test belong together.
const IDENTIFICATION: u16 = 0x5057;

/// For experiments (RFC 4727); its two high bits say that who does not know it skips it.
const SKIPPED_OPTION: u8 = 0x1e;

/// What stands between Ethernet and transport.
#[derive(Clone, Debug)]
pub(super) struct Network {
    addresses: Addresses,
    hop_limit: u8,
    /// Instead of the transport's own number.
    protocol: Option<u8>,
}

#[derive(Clone, Debug)]
enum Addresses {
    V4 {
        source: Ipv4Addr,
        destination: Ipv4Addr,
        /// Bytes of options.
        options: usize,
        /// Flags and offset, as in the header.
        fragment: u16,
    },
    V6 {
        source: Ipv6Addr,
        destination: Ipv6Addr,
        extensions: Vec<Extension>,
    },
}

/// An IPv6 extension header without its next-header byte.
#[derive(Clone, Debug)]
pub(super) struct Extension {
    kind: u8,
    body: Vec<u8>,
}

impl Extension {
    /// Of `units` times 8 bytes, full of options where options are what it holds.
    pub(super) fn of_units(kind: u8, units: u8) -> Self {
        assert!(units > 0, "an extension header has at least 8 bytes");
        let length = usize::from(units) * 8;
        let mut body = vec![0; length - 1];
        body[0] = match kind {
            // RFC 4302: in units of 4 bytes, less 2.
            AUTHENTICATION => units * 2 - 2,
            _ => units - 1,
        };
        // Linux refuses more than 7 bytes of padding, so the room is filled with options that a receiver
        // skips: one in the 6 bytes of the first unit, one in each unit behind it.
        body[1..3].copy_from_slice(&[SKIPPED_OPTION, 4]);
        for unit in body[7..].chunks_mut(8) {
            unit[..2].copy_from_slice(&[SKIPPED_OPTION, 6]);
        }
        Self { kind, body }
    }

    fn fragment(offset: u16, more: bool) -> Self {
        let mut body = vec![0];
        body.extend((offset << 3 | u16::from(more)).to_be_bytes());
        body.extend(u32::from(IDENTIFICATION).to_be_bytes());
        Self {
            kind: FRAGMENT,
            body,
        }
    }
}

impl Network {
    pub(super) fn between(source: IpAddr, destination: IpAddr) -> Self {
        let addresses = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::V4 {
                source,
                destination,
                options: 0,
                fragment: 0,
            },
            (IpAddr::V6(source), IpAddr::V6(destination)) => Addresses::V6 {
                source,
                destination,
                extensions: Vec::new(),
            },
            _ => panic!("{source} and {destination} are of two families"),
        };
        Self {
            addresses,
            hop_limit: HOP_LIMIT,
            protocol: None,
        }
    }

    pub(super) fn set_options(&mut self, length: usize) {
        assert!(
            length.is_multiple_of(4) && length <= 40,
            "{length} bytes of IPv4 options"
        );
        match &mut self.addresses {
            Addresses::V4 { options, .. } => *options = length,
            Addresses::V6 { .. } => panic!("IPv6 has extension headers, not options"),
        }
    }

    pub(super) fn extend(&mut self, extension: Extension) {
        match &mut self.addresses {
            Addresses::V6 { extensions, .. } => extensions.push(extension),
            Addresses::V4 { .. } => panic!("IPv4 has options, not extension headers"),
        }
    }

    pub(super) fn set_fragment(&mut self, offset: u16, more: bool) {
        assert!(offset < 1 << 13, "fragment offset {offset} has 13 bits");
        match &mut self.addresses {
            Addresses::V4 { fragment, .. } => *fragment = offset | u16::from(more) << 13,
            Addresses::V6 { extensions, .. } => {
                extensions.push(Extension::fragment(offset, more));
            }
        }
    }

    pub(super) fn set_hop_limit(&mut self, hops: u8) {
        self.hop_limit = hops;
    }

    pub(super) fn set_protocol(&mut self, protocol: u8) {
        self.protocol = Some(protocol);
    }

    pub(super) fn is_ipv6(&self) -> bool {
        matches!(self.addresses, Addresses::V6 { .. })
    }

    pub(super) fn ethertype(&self) -> u16 {
        if self.is_ipv6() { IPV6 } else { IPV4 }
    }

    /// The pseudo header that transport checksums begin with.
    pub(super) fn pseudo_header(&self, protocol: u8, length: usize) -> Vec<u8> {
        let length = u32::try_from(length).expect("a segment is shorter than 4 GiB");
        let mut header = match &self.addresses {
            Addresses::V4 {
                source,
                destination,
                ..
            } => [source.octets(), destination.octets()].concat(),
            Addresses::V6 {
                source,
                destination,
                ..
            } => [source.octets(), destination.octets()].concat(),
        };
        header.extend(length.to_be_bytes());
        // IPv6's form; in IPv4's the same words stand in another order, with the same sum.
        header.extend([0, 0, 0, protocol]);
        header
    }

    /// Header and segment.
    pub(super) fn packet(&self, protocol: u8, segment: &[u8]) -> Vec<u8> {
        let protocol = self.protocol.unwrap_or(protocol);
        let mut packet = match &self.addresses {
            Addresses::V4 {
                source,
                destination,
                options,
                fragment,
            } => {
                let length = 20 + options;
                let mut header = vec![0x40 | (length / 4) as u8, 0];
                header.extend(packet_length(length + segment.len()).to_be_bytes());
                header.extend(IDENTIFICATION.to_be_bytes());
                header.extend(fragment.to_be_bytes());
                header.extend([self.hop_limit, protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.resize(length, 1);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                header
            }
            Addresses::V6 {
                source,
                destination,
                extensions,
            } => {
                // Each header names the kind of the one behind it; the last names the protocol.
                let kinds = extensions.iter().map(|extension| extension.kind);
                let mut next = kinds.chain([protocol]);
                let chain: usize = extensions.iter().map(|e| 1 + e.body.len()).sum();
                let mut header = vec![0x60, 0, 0, 0];
                header.extend(packet_length(chain + segment.len()).to_be_bytes());
                header.extend(next.next());
                header.push(self.hop_limit);
                header.extend(source.octets());
                header.extend(destination.octets());
                for extension in extensions {
                    header.extend(next.next());
                    header.extend(&extension.body);
                }
                header
            }
        };
        packet.extend(segment);
        packet
    }
}

fn packet_length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("a packet has less than 64 KiB")
}
