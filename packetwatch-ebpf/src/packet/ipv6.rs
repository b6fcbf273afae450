//! IPv6: up to eight extension headers, fragments, neighbour discovery.

use aya_ebpf::bindings::xdp_md;
use packetwatch_abi::{Prefix, Reason};

use super::{
    Packet,
    cursor::Cursor,
    transport::{self, Fragment, ICMPV6, TCP},
};

#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    version_class_flow: u32,
    payload_len: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

/// What extension headers have in common.
#[repr(C)]
#[derive(Clone, Copy)]
struct Extension {
    next_header: u8,
    /// in units of eight bytes beyond the first; of four for the authentication header
    len: u8,
    fragment: u16,
}

/// fe80::/10
const LINK_LOCAL: u32 = 0xfe80 >> 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// More than any frame.
const MAX_JUMBOGRAM: usize = u32::MAX as usize;

/// Senders in earnest use three or four (RFC 8200 has seven kinds, one of them twice).
const MAX_EXTENSIONS: usize = 8;

const MORE_FRAGMENTS: u16 = 0x0001;
const FRAGMENT_OFFSET: u16 = 0xfff8;

/// The sender, and the bytes of the packet; `None` if this is no IPv6 header, or may be neighbour
/// discovery.
#[inline(always)]
pub fn sender(cursor: &Cursor) -> Option<(Prefix, usize)> {
    let header = header(cursor)?;
    if header.next_header == ICMPV6 {
        return None;
    }
    let len = match u16::from_be(header.payload_len) {
        // a jumbogram, as below
        0 => MAX_JUMBOGRAM,
        payload_len => size_of::<Header>() + payload_len as usize,
    };
    Some((Prefix::address_v6(header.source), len))
}

#[inline(always)]
fn header(cursor: &Cursor) -> Option<Header> {
    let header: Header = cursor.peek()?;
    (u32::from_be(header.version_class_flow) >> 28 == 6).then_some(header)
}

#[inline(always)]
pub fn parse(cursor: &mut Cursor, packet: &mut Packet) -> Result<(), Reason> {
    let header = header(cursor).ok_or(Reason::Malformed)?;
    cursor.skip(size_of::<Header>());
    if is_neighbour_discovery(cursor, &header) {
        return Err(Reason::NeighbourDiscovery);
    }
    packet.source = Prefix::address_v6(header.source);
    packet.link_local = u32::from_be(header.source[0]) >> 22 == LINK_LOCAL;
    packet.destination = header.destination;

    // 0 is a jumbogram (RFC 2675): it ends where the frame does.
    let payload_len = u16::from_be(header.payload_len) as usize;
    if payload_len != 0 {
        cursor.end_in(payload_len);
    }
    follow(cursor, packet, header.next_header);
    Ok(())
}

/// Follows the extension headers to the transport.
#[inline(always)]
fn follow(cursor: &mut Cursor, packet: &mut Packet, first: u8) {
    let mut next = first;
    let mut more_fragments = 0;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(next) {
            break;
        }
        // SAFETY: the context is the program's own.
        let step = Step(unsafe { step_ipv6(cursor.context(), cursor.position(), next as u64) });
        if step.is_beyond() {
            // The chain goes on beyond this fragment or this page: it may hide a call.
            if more_fragments != 0 || cursor.is_jumbo() {
                packet.call = true;
            } else {
                packet.malformed = true;
            }
            return;
        }
        if step.is_later_fragment() {
            return;
        }
        more_fragments |= step.more_fragments();
        next = step.next_header();
        cursor.skip(step.len());
    }
    if is_extension(next) {
        // More than eight: Linux may still find a TCP segment behind them.
        packet.call = true;
        return;
    }
    let fragment = if more_fragments != 0 {
        Fragment::First
    } else {
        Fragment::Whole
    };
    transport::parse(cursor, packet, next, fragment);
    // Its last extension header may reach beyond this fragment or this page, as the chain may above.
    if next == TCP && packet.malformed && (more_fragments != 0 || cursor.is_jumbo()) {
        packet.malformed = false;
        packet.call = true;
    }
}

/// One extension header, in a word: the verifier sees any number, so that all kinds of headers go
/// on as one state instead of each as its own.
#[derive(Clone, Copy)]
struct Step(u64);

impl Step {
    const BEYOND: Self = Self(1 << 32);
    const LATER_FRAGMENT: Self = Self(1 << 33);
    const MORE_FRAGMENTS: u32 = 34;

    #[inline(always)]
    const fn new(next_header: u8, len: u64, more_fragments: u64) -> Self {
        Self(next_header as u64 | len << 8 | more_fragments << Self::MORE_FRAGMENTS)
    }

    /// not in this frame
    #[inline(always)]
    const fn is_beyond(self) -> bool {
        self.0 & Self::BEYOND.0 != 0
    }

    /// a fragment that begins in the middle of the payload
    #[inline(always)]
    const fn is_later_fragment(self) -> bool {
        self.0 & Self::LATER_FRAGMENT.0 != 0
    }

    #[inline(always)]
    const fn more_fragments(self) -> u64 {
        self.0 >> Self::MORE_FRAGMENTS & 1
    }

    #[inline(always)]
    const fn next_header(self) -> u8 {
        self.0 as u8
    }

    /// bytes, 8 to 2048
    #[inline(always)]
    const fn len(self) -> usize {
        (self.0 >> 8 & 0xfff) as usize
    }
}

/// Reads the extension header of `kind` at `position`; returns a [`Step`].
///
/// # Safety
/// `ctx` is the program's context.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn step_ipv6(ctx: *mut xdp_md, position: u64, kind: u64) -> u64 {
    // SAFETY: as the caller promises
    let cursor = unsafe { Cursor::at(ctx, position) };
    let Some(extension) = cursor.peek::<Extension>() else {
        return Step::BEYOND.0;
    };
    let units = extension.len as u64;
    let flags = u16::from_be(extension.fragment);
    match kind as u8 {
        FRAGMENT if flags & FRAGMENT_OFFSET != 0 => Step::LATER_FRAGMENT,
        FRAGMENT => Step::new(extension.next_header, 8, (flags & MORE_FRAGMENTS) as u64),
        AUTHENTICATION => Step::new(extension.next_header, (units + 2) * 4, 0),
        _ => Step::new(extension.next_header, (units + 1) * 8, 0),
    }
    .0
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
    )
}

/// Router and neighbour solicitation, advertisement and redirect (RFC 4861), straight behind the
/// IPv6 header: only a host on this link can send a hop limit of 255.
#[inline(always)]
fn is_neighbour_discovery(cursor: &Cursor, header: &Header) -> bool {
    header.next_header == ICMPV6
        && header.hop_limit == 255
        && matches!(cursor.peek::<u8>(), Some(133..=137))
}
