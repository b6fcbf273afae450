//! TCP, UDP, ICMP and ICMPv6 headers, and the checksum they share with IPv4.

use super::network::Network;
use super::{ICMP, ICMPV6, NO_NEXT_HEADER, TCP, UDP};

/// The last header of a packet.
#[derive(Clone, Debug)]
pub(super) enum Transport {
    /// The payload stands behind the network header itself.
    None,
    Tcp {
        source_port: u16,
        destination_port: u16,
        flags: u8,
    },
    Udp {
        source_port: u16,
        destination_port: u16,
    },
    Icmp {
        kind: u8,
        code: u8,
    },
}

impl Transport {
    /// The number that a network header names it by.
    pub(super) fn protocol(&self, network: &Network) -> u8 {
        match self {
            Self::None => NO_NEXT_HEADER,
            Self::Tcp { .. } => TCP,
            Self::Udp { .. } => UDP,
            Self::Icmp { .. } if network.is_ipv6() => ICMPV6,
            Self::Icmp { .. } => ICMP,
        }
    }

    /// Header and payload, with the checksum that the network header asks for.
    pub(super) fn segment(&self, network: Option<&Network>, payload: &[u8]) -> Vec<u8> {
        let (mut segment, checksum_at) = match self {
            Self::None => return payload.to_vec(),
            Self::Tcp {
                source_port,
                destination_port,
                flags,
            } => {
                let mut header = ports(*source_port, *destination_port);
                header.extend([0; 8]);
                // Five words of header; the largest window there is without an option.
                header.extend([5 << 4, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                (header, 16)
            }
            Self::Udp {
                source_port,
                destination_port,
            } => {
                let length = u16::try_from(8 + payload.len()).expect("a datagram fits a packet");
                let mut header = ports(*source_port, *destination_port);
                header.extend(length.to_be_bytes());
                header.extend([0, 0]);
                (header, 6)
            }
            Self::Icmp { kind, code } => (vec![*kind, *code, 0, 0, 0, 0, 0, 0], 2),
        };
        segment.extend(payload);
        let Some(network) = network else {
            return segment;
        };
        let protocol = self.protocol(network);
        // ICMP alone has no pseudo header.
        let mut summed = match protocol {
            ICMP => Vec::new(),
            _ => network.pseudo_header(protocol, segment.len()),
        };
        summed.extend(&segment);
        let sum = match checksum(&summed) {
            // In UDP zero says "no checksum", which IPv6 refuses.
            0 if protocol == UDP => 0xffff,
            sum => sum,
        };
        segment[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

/// The Internet checksum (RFC 1071); the field itself must be zero or right, when the result is zero.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let sum: u64 = bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low)))
        .sum();
    let once = (sum & 0xffff) + (sum >> 16);
    !(((once & 0xffff) + (once >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_rfc_example() {
        // RFC 1071, section 3: the sum is ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&bytes), !0xddf2);
    }

    #[test]
    fn an_odd_last_byte_is_the_high_half_of_a_word() {
        assert_eq!(
            checksum(&[0x12, 0x34, 0x56]),
            checksum(&[0x12, 0x34, 0x56, 0])
        );
    }
}
