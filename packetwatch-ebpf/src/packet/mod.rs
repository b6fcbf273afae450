//! From a frame to what the verdict needs: who sent it, and whether it is a call.
//!
//! Parsing goes from the outside in and stops at what decides nothing. It never gives up on a
//! packet whose source it has read: such a packet is judged, whatever its rest looks like.

mod cursor;
mod ethernet;
mod ipv4;
mod ipv6;
mod transport;

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use packetwatch_abi::{Prefix, Reason};

use cursor::Cursor;
use ethernet::EtherType;

#[repr(C)]
pub struct Packet {
    /// of the whole frame, all buffers of a jumbo frame included
    pub bytes: u64,
    /// the address in the outermost IP header
    pub source: Prefix,
    /// as [`Prefix::addr`]
    pub destination: [u32; 4],
    /// host byte order; 0 where the packet does not show them
    pub source_port: u16,
    pub destination_port: u16,
    /// a new TCP connection: SYN without ACK, or what may hide one
    pub call: bool,
    /// link-local sources are counted by single address
    pub link_local: bool,
    /// shorter than its headers say
    pub malformed: bool,
    _pad: u8,
}

const WORDS: usize = size_of::<Packet>() / size_of::<u64>();
const _: () = assert!(size_of::<Packet>() == WORDS * size_of::<u64>());

impl Packet {
    /// Makes `room` a packet of zeroes, where it lies.
    ///
    /// Word by word and volatile, and never moved: of anything else the compiler makes a call of a
    /// memset that goes byte by byte and costs more than the parsing.
    #[inline(always)]
    pub fn zero(room: &mut MaybeUninit<Self>) -> &mut Self {
        let words = room.as_mut_ptr().cast::<u64>();
        // SAFETY: WORDS words are the packet, and zero is a value of each field.
        unsafe {
            for word in 0..WORDS {
                words.add(word).write_volatile(0);
            }
            room.assume_init_mut()
        }
    }

    /// Reads the sender of a frame with no more than one tag, which takes no more than a look at its
    /// headers; tells whether it could. [`Packet::parse`] finds the same, and never a reason not to judge
    /// it.
    #[inline(always)]
    pub fn glance(&mut self, ctx: &XdpContext) -> bool {
        // SAFETY: the program's own context
        let mut cursor = unsafe { Cursor::new(ctx.ctx) };
        // Each way to its end, so that all offsets are numbers that the compiler knows.
        match ethernet::outermost(&mut cursor) {
            Some(ether_type) if ether_type.is_tag() => {
                let ether_type = ethernet::behind_tag(&mut cursor);
                self.glance_at(ether_type, &cursor)
            }
            ether_type => self.glance_at(ether_type, &cursor),
        }
    }

    #[inline(always)]
    fn glance_at(&mut self, ether_type: Option<EtherType>, cursor: &Cursor) -> bool {
        let sender = match ether_type {
            Some(EtherType::IPV4) => ipv4::sender(cursor),
            Some(EtherType::IPV6) => ipv6::sender(cursor),
            _ => None,
        };
        let Some((source, end)) = sender else {
            return false;
        };
        self.source = source;
        self.bytes = cursor.frame_len_of(end);
        true
    }

    /// Reads all of the frame that counts; the reason if it is not judged by its source.
    #[inline(always)]
    pub fn parse(&mut self, ctx: &XdpContext) -> Option<Reason> {
        // SAFETY: the program's own context, and a packet of its own
        let unjudged = unsafe { parse_packet(ctx.ctx, &raw mut *self) };
        match Reason::from_number(unjudged as u32) {
            None | Some(Reason::Pass) => None,
            reason => reason,
        }
    }
}

/// Fills in `packet`; returns 0, or the number of the [`Reason`] of a frame that is not judged by
/// its source.
///
/// A global function in the sense of BPF: the verifier follows its many ways once, and what comes
/// after is checked for any packet instead of for each way here.
///
/// # Safety
/// `ctx` is the program's context; `packet` is null or points to a packet.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn parse_packet(ctx: *mut xdp_md, packet: *mut Packet) -> u64 {
    // SAFETY: as the caller promises
    let (mut cursor, Some(packet)) = (unsafe { (Cursor::new(ctx), packet.as_mut()) }) else {
        return 0;
    };
    if packet.bytes == 0 {
        packet.bytes = cursor.frame_len();
    }
    match parse(&mut cursor, packet) {
        Ok(()) => 0,
        Err(reason) => reason as u64,
    }
}

#[inline(always)]
fn parse(cursor: &mut Cursor, packet: &mut Packet) -> Result<(), Reason> {
    match ethernet::parse(cursor)? {
        EtherType::IPV4 => ipv4::parse(cursor, packet),
        EtherType::IPV6 => ipv6::parse(cursor, packet),
        EtherType::ARP => Err(Reason::Arp),
        _ => Err(Reason::NotIp),
    }
}
