//! Bounds-checked reading of a frame.

use core::{arch::asm, intrinsics::is_val_statically_known};

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_get_buff_len};

/// Reads fixed-size headers one behind the other.
///
/// It sees the linear part of the frame alone: of a jumbo frame the first page or so, which holds
/// the headers of everything but a deliberately odd packet.
#[derive(Clone, Copy)]
pub struct Cursor {
    ctx: *mut xdp_md,
    /// from the start of the frame
    offset: usize,
    /// where the IP packet ends, so that Ethernet padding is never read as a header
    limit: usize,
}

/// No driver goes on in a second buffer before the first holds this much, but for headers alone.
const LEAST_BUFFER: usize = 1536;

/// More than any chain of headers that is followed (eight of 2 KiB), and less than the verifier's
/// limit on the variable part of a packet offset (0xffff).
const MAX_OFFSET: usize = 0x7fff;

impl Cursor {
    /// At the start of the frame.
    ///
    /// # Safety
    /// `ctx` is the program's context.
    #[inline(always)]
    pub const unsafe fn new(ctx: *mut xdp_md) -> Self {
        Self {
            ctx,
            offset: 0,
            limit: MAX_OFFSET,
        }
    }

    /// At the [`Cursor::position`] of another.
    ///
    /// # Safety
    /// `ctx` is the program's context.
    #[inline(always)]
    pub const unsafe fn at(ctx: *mut xdp_md, position: u64) -> Self {
        Self {
            ctx,
            offset: (position & 0xffff) as usize,
            limit: (position >> 16 & 0xffff) as usize,
        }
    }

    /// The offset and the limit in a word.
    #[inline(always)]
    pub const fn position(&self) -> u64 {
        (self.offset as u64 & 0xffff) | (self.limit as u64 & 0xffff) << 16
    }

    #[inline(always)]
    pub const fn context(&self) -> *mut xdp_md {
        self.ctx
    }

    /// Bytes of the whole frame, the fragments of a jumbo frame included (kernel 5.18).
    #[inline(always)]
    pub fn frame_len(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.ctx) }
    }

    /// As [`Cursor::frame_len`] of a frame whose IP packet ends `end` bytes from here. If that is in
    /// a first buffer that is not full, the frame is taken to end with it: to ask the kernel for more
    /// costs a tenth of a drop, and could find nothing but the padding behind a packet whose headers
    /// the card has put into a buffer of their own.
    #[inline(always)]
    pub fn frame_len_of(&self, end: usize) -> u64 {
        let linear = self.end() - self.data();
        if self.offset + end <= linear && linear < LEAST_BUFFER {
            linear as u64
        } else {
            self.frame_len()
        }
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { (*self.ctx).data as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { (*self.ctx).data_end as usize }
    }

    /// Everything beyond `len` bytes from here is padding.
    #[inline(always)]
    pub fn end_in(&mut self, len: usize) {
        let end = self.offset + len;
        self.limit = if end < MAX_OFFSET { end } else { MAX_OFFSET };
    }

    #[inline(always)]
    pub fn skip(&mut self, len: usize) {
        self.offset += len;
    }

    /// The header at the cursor, without moving. `T` is made of integers for which every bit
    /// pattern is valid.
    #[inline(always)]
    pub fn peek<T: Copy>(&self) -> Option<T> {
        self.peek_at(0)
    }

    /// As [`Cursor::peek`], `ahead` bytes further on.
    #[inline(always)]
    pub fn peek_at<T: Copy>(&self, ahead: usize) -> Option<T> {
        let offset = bounded(self.offset + ahead);
        if offset + size_of::<T>() > self.limit {
            return None;
        }
        let start = self.data() + offset;
        if start + size_of::<T>() > self.end() {
            return None;
        }
        // SAFETY: in bounds, as just checked. A BPF load has no undefined misalignment: the
        // verifier asks for alignment where the machine does, and headers have it there.
        Some(unsafe { *(start as *const T) })
    }

    /// The header at the cursor; moves behind it.
    #[inline(always)]
    pub fn read<T: Copy>(&mut self) -> Option<T> {
        let header = self.peek()?;
        self.offset += size_of::<T>();
        Some(header)
    }

    /// Whether the frame goes on where the linear part ends.
    #[inline(always)]
    pub fn is_jumbo(&self) -> bool {
        self.frame_len() > (self.end() - self.data()) as u64
    }
}

/// `offset`, in a register whose bounds the verifier knows. No chain of headers gets beyond
/// [`MAX_OFFSET`], so the mask changes nothing; written in Rust it would be optimised away, or
/// applied to another register than the one that is added to the packet pointer. A number that the
/// compiler knows, as at the front of a frame, the verifier knows too.
#[inline(always)]
fn bounded(mut offset: usize) -> usize {
    if is_val_statically_known(offset) {
        return offset;
    }
    // SAFETY: one instruction on one register
    unsafe { asm!("{0} &= 0x7fff", inout(reg) offset, options(pure, nomem, nostack)) };
    offset
}
