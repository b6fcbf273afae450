//! TCP and UDP ports, and what makes a call.

use super::{Packet, cursor::Cursor};

pub const TCP: u8 = 6;
const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

#[derive(Clone, Copy)]
pub enum Fragment {
    /// not fragmented
    Whole,
    /// the first of several: the flags may be in the next
    First,
}

const FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

#[inline(always)]
pub fn parse(cursor: &Cursor, packet: &mut Packet, protocol: u8, fragment: Fragment) {
    if protocol != TCP && protocol != UDP {
        return;
    }
    let Some([source, destination]) = cursor.peek::<[u16; 2]>() else {
        packet.malformed = true;
        return;
    };
    packet.source_port = u16::from_be(source);
    packet.destination_port = u16::from_be(destination);
    if protocol != TCP {
        return;
    }
    match (cursor.peek_at::<u8>(FLAGS), fragment) {
        (Some(flags), _) => packet.call = flags & (SYN | ACK) == SYN,
        (None, Fragment::First) => packet.call = true,
        (None, Fragment::Whole) => packet.malformed = true,
    }
}
