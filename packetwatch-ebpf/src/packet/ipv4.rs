//! IPv4: header of any length, fragments.

use packetwatch_abi::{Prefix, Reason};

use super::{
    Packet,
    cursor::Cursor,
    transport::{self, Fragment},
};

#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    /// One word: behind a field of a byte the compiler reads all the others byte by byte, the source
    /// too.
    version_ihl_tos_len: u32,
    _id: u16,
    fragment: u16,
    _ttl: u8,
    protocol: u8,
    _checksum: u16,
    source: u32,
    destination: u32,
}

impl Header {
    #[inline(always)]
    const fn version(&self) -> u32 {
        u32::from_be(self.version_ihl_tos_len) >> 28
    }

    /// bytes, 0 to 60
    #[inline(always)]
    const fn len(&self) -> usize {
        (u32::from_be(self.version_ihl_tos_len) >> 24 & 0x0f) as usize * 4
    }

    /// bytes of the packet, this header included
    #[inline(always)]
    const fn total_len(&self) -> usize {
        (u32::from_be(self.version_ihl_tos_len) & 0xffff) as usize
    }
}

/// 169.254.0.0/16
const LINK_LOCAL: u32 = 0xa9fe;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The sender, and the bytes of the packet; `None` if this is no IPv4 header.
#[inline(always)]
pub fn sender(cursor: &Cursor) -> Option<(Prefix, usize)> {
    let header = header(cursor)?;
    Some((Prefix::address_v4(header.source), header.total_len()))
}

#[inline(always)]
fn header(cursor: &Cursor) -> Option<Header> {
    let header: Header = cursor.peek()?;
    (header.version() == 4).then_some(header)
}

#[inline(always)]
pub fn parse(cursor: &mut Cursor, packet: &mut Packet) -> Result<(), Reason> {
    let header = header(cursor).ok_or(Reason::Malformed)?;
    packet.source = Prefix::address_v4(header.source);
    packet.link_local = u32::from_be(header.source) >> 16 == LINK_LOCAL;
    packet.destination[0] = header.destination;

    let (header_len, total_len) = (header.len(), header.total_len());
    if header_len < size_of::<Header>() || total_len < header_len {
        packet.malformed = true;
        return Ok(());
    }
    cursor.end_in(total_len);
    cursor.skip(header_len);
    let fragment = u16::from_be(header.fragment);
    let fragment = if fragment & FRAGMENT_OFFSET != 0 {
        return Ok(());
    } else if fragment & MORE_FRAGMENTS != 0 {
        Fragment::First
    } else {
        Fragment::Whole
    };
    transport::parse(cursor, packet, header.protocol, fragment);
    Ok(())
}
