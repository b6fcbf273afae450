//! The XDP program: one packet in, one reason out.
//!
//! ```text
//!  frame ─► verdict::judge ─► exit::count ─► DROP, or PASS ─► chain::go_on
//!             │ packet: who sent it
//!             │ lists: allow, deny
//!             │ bans
//!             │ packet: is it a call
//!             │ callers: count
//!             │ rules: thresholds, limits
//!             └─► events: calls to the log, offences to the rule loop
//! ```
//!
//! What passes goes on to the user's own program, where one is chained.
//!
//! Every outcome is a `Reason`; the table in `packetwatch-abi` alone says which reasons drop, and
//! `exit` is the only place that counts them. Nothing here waits for user space: what the daemon
//! decided lies in the maps, with absolute deadlines, and holds when the daemon is gone.
#![no_std]
#![no_main]
#![allow(
    internal_features,
    reason = "atomics beyond load and store exist as intrinsics alone"
)]
#![feature(asm_experimental_arch, core_intrinsics)]

mod admission;
mod atomic;
mod bans;
mod callers;
mod chain;
mod clock;
mod events;
mod exit;
mod limits;
mod lists;
mod packet;
mod policy;
mod ports;
mod rules;
mod sketch;
mod verdict;
mod windows;

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use aya_log_ebpf::debug;
use packetwatch_abi::Policy;

/// What is known of a packet before its bytes are looked at.
pub struct Ingress {
    pub policy: &'static Policy,
    pub ifindex: u32,
    pub now: u64,
}

/// `frags`: without it a driver refuses the program on an interface with jumbo frames.
#[xdp(frags)]
pub fn packetwatch(ctx: XdpContext) -> u32 {
    filter(&ctx)
}

/// With a program behind it that takes frames of several buffers, too.
#[xdp(frags)]
pub fn packetwatch_mb(ctx: XdpContext) -> u32 {
    chain::go_on(&ctx, &chain::CHAIN, filter(&ctx))
}

/// With one behind it that takes frames of a single buffer alone.
#[xdp]
pub fn packetwatch_sb(ctx: XdpContext) -> u32 {
    chain::go_on(&ctx, &chain::CHAIN_SB, filter(&ctx))
}

/// What becomes of a packet as far as the filter is concerned.
#[inline(always)]
fn filter(ctx: &XdpContext) -> u32 {
    let now = clock::now();
    let Some(policy) = policy::at(now) else {
        return xdp_action::XDP_PASS;
    };
    let ingress = Ingress {
        policy,
        ifindex: ctx.ingress_ifindex() as u32,
        now,
    };
    let mut room = MaybeUninit::uninit();
    let packet = packet::Packet::zero(&mut room);
    let verdict = verdict::judge(ctx, packet, &ingress);
    debug!(ctx, "{} bytes: reason {}", packet.bytes, verdict.reason());
    exit::count(packet, &ingress, verdict);
    if verdict.drops() {
        xdp_action::XDP_DROP
    } else {
        xdp_action::XDP_PASS
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
