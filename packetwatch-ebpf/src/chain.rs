//! The user's own program behind the filter: it gets what the filter passes, and its verdict counts.
//!
//! There are three programs of one body, of which one is in force. The filter alone has no tail
//! call, not even one behind a switch that the verifier removes: it marks the program before that, and
//! the JIT of x86 then hands the count of tail calls into every function (5.10), 160 bytes of code for
//! each packet to pass. And the kernel has all programs of a program array alike in `xdp_has_frags`
//! (5.18), so the two others have an array each, and the one that is chained decides between them.

use aya_ebpf::{
    bindings::xdp_action, btf_maps::ProgramArray, macros::btf_map, programs::XdpContext,
};

/// Of a program that takes frames of several buffers.
#[btf_map]
pub static CHAIN: ProgramArray<1> = ProgramArray::new();

/// Of one that takes frames of a single buffer.
#[btf_map]
pub static CHAIN_SB: ProgramArray<1> = ProgramArray::new();

/// Hands a packet on that passes; it passes, too, where nobody is there to take it.
#[inline(always)]
pub fn go_on(ctx: &XdpContext, next: &ProgramArray<1>, action: u32) -> u32 {
    if action == xdp_action::XDP_PASS {
        // SAFETY: nothing here is to be dropped.
        unsafe { next.tail_call(ctx, 0) }
    }
    action
}
