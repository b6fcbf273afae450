//! What a frame shows of its sender: IEEE 802.1Q tags, RFC 791, RFC 8200 and what follows them.
//!
//! Nothing here but the standard library and the reasons, so that a fuzzer can take it in alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packetwatch_abi::Reason;

/// A frame, as far as the verdict is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// judged by its source
    Packet(Packet),
    /// decided without looking at a source
    Unjudged(Reason),
}

/// What stands in the outermost IP header and behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// where in the frame the source address stands
    pub source_at: usize,
    /// TCP's or UDP's, 0 where the packet does not show them
    pub source_port: u16,
    pub destination_port: u16,
    /// a new connection, or what may hide one
    pub call: bool,
    /// ends before a field that is needed
    pub malformed: bool,
}

const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const MAX_TAGS: usize = 4;
const MAX_EXTENSIONS: usize = 8;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
/// RFC 7045: hop-by-hop, routing, fragment, authentication, destination, mobility, HIP, shim6.
const EXTENSIONS: [u8; 8] = [0, 43, FRAGMENT, AUTHENTICATION, 60, 135, 139, 140];

/// Parses a frame of which the first `linear` bytes can be read; the rest of a longer one (a jumbo
/// frame) is known to exist and not seen.
pub fn parse(frame: &[u8], linear: usize) -> Parsed {
    let seen = &frame[..linear.min(frame.len())];
    let jumbo = seen.len() < frame.len();
    let mut at = 12;
    for _ in 0..=MAX_TAGS {
        let Some(ether_type) = word(seen, at) else {
            return Parsed::Unjudged(Reason::Malformed);
        };
        at += 2;
        if TAGS.contains(&ether_type) {
            at += 2;
            continue;
        }
        let packet = match ether_type {
            0x0800 => ipv4(seen, at),
            0x86dd => ipv6(seen, at, jumbo),
            0x0806 => Err(Reason::Arp),
            _ => Err(Reason::NotIp),
        };
        return packet.map_or_else(Parsed::Unjudged, Parsed::Packet);
    }
    Parsed::Unjudged(Reason::TooManyTags)
}

fn ipv4(seen: &[u8], at: usize) -> Result<Packet, Reason> {
    let header = seen.get(at..at + 20).ok_or(Reason::Malformed)?;
    if header[0] >> 4 != 4 {
        return Err(Reason::Malformed);
    }
    let address = |at: usize| Ipv4Addr::from([0, 1, 2, 3].map(|byte| header[at + byte]));
    let mut packet = Packet::between(address(12).into(), address(16).into(), at + 12);
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_len < 20 || total_len < header_len {
        packet.malformed = true;
        return Ok(packet);
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let more_fragments = fragment & 0x2000 != 0;
    if fragment & 0x1fff == 0 {
        // What lies behind the total length is Ethernet's padding.
        let end = seen.len().min(at + total_len);
        let segment = seen.get(at + header_len..end).unwrap_or(&[]);
        packet.transport(header[9], segment, more_fragments);
    }
    Ok(packet)
}

fn ipv6(seen: &[u8], at: usize, jumbo: bool) -> Result<Packet, Reason> {
    let header = seen.get(at..at + 40).ok_or(Reason::Malformed)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let (mut next, hop_limit) = (header[6], header[7]);
    if next == ICMPV6 && hop_limit == 255 && matches!(seen.get(at + 40), Some(133..=137)) {
        return Err(Reason::NeighbourDiscovery);
    }
    let address = |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|b| header[at + b]));
    let mut packet = Packet::between(address(8).into(), address(24).into(), at + 8);
    // RFC 2675: 0 stands for a length in an option; the packet ends where the frame does.
    let end = match usize::from(u16::from_be_bytes([header[4], header[5]])) {
        0 => seen.len(),
        payload_len => seen.len().min(at + 40 + payload_len),
    };
    let mut rest = &seen[at + 40..end];
    let mut more_fragments = false;
    for _ in 0..MAX_EXTENSIONS {
        if !EXTENSIONS.contains(&next) {
            break;
        }
        // The first four bytes decide how it goes on.
        let Some(&[following, len, offset_high, offset_low]) = rest.first_chunk() else {
            // A chain that goes on in the next fragment, or unseen, may end in a call.
            packet.call = more_fragments || jumbo;
            packet.malformed = !packet.call;
            return Ok(packet);
        };
        let len = usize::from(len);
        let len = match next {
            FRAGMENT => {
                let field = u16::from_be_bytes([offset_high, offset_low]);
                if field >> 3 != 0 {
                    return Ok(packet);
                }
                more_fragments |= field & 1 != 0;
                8
            }
            // RFC 4302 counts words of four bytes and leaves two out.
            AUTHENTICATION => (len + 2) * 4,
            _ => (len + 1) * 8,
        };
        rest = rest.get(len..).unwrap_or(&[]);
        next = following;
    }
    if EXTENSIONS.contains(&next) {
        packet.call = true;
        return Ok(packet);
    }
    packet.transport(next, rest, more_fragments);
    if next == TCP && packet.malformed && (more_fragments || jumbo) {
        packet.malformed = false;
        packet.call = true;
    }
    Ok(packet)
}

impl Packet {
    fn between(source: IpAddr, destination: IpAddr, source_at: usize) -> Self {
        Self {
            source,
            destination,
            source_at,
            source_port: 0,
            destination_port: 0,
            call: false,
            malformed: false,
        }
    }

    /// Reads the segment of a whole packet or of a first fragment.
    fn transport(&mut self, protocol: u8, segment: &[u8], more_fragments: bool) {
        if protocol != TCP && protocol != UDP {
            return;
        }
        let (Some(source), Some(destination)) = (word(segment, 0), word(segment, 2)) else {
            self.malformed = true;
            return;
        };
        (self.source_port, self.destination_port) = (source, destination);
        if protocol == UDP {
            return;
        }
        match segment.get(13) {
            Some(flags) => self.call = flags & 0x02 != 0 && flags & 0x10 == 0,
            None if more_fragments => self.call = true,
            None => self.malformed = true,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}
