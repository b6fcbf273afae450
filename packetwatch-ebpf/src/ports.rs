//! The destination ports that a caller called, each with its last time: exact for up to 64.
//!
//! Both functions are global in the sense of BPF (exported, so BTF marks them): the verifier checks
//! each once on its own, instead of every way through 64 slots at every place that calls it.

use core::arch::asm;

use packetwatch_abi::{Caller, Fault, MAX_PORTS, PortSeen};

use crate::{atomic, exit::fault};

/// How many different ports were called less than `within` ago.
///
/// # Safety
/// `caller` is null or points to a live map value.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn distinct_ports(caller: *const Caller, within: u64, now: u64) -> u64 {
    // What the verifier sees here is a pointer from anywhere.
    if caller.is_null() {
        return 0;
    }
    // SAFETY: as the caller promises
    unsafe {
        let reach = PortSeen::reach(now, (*caller).since, within);
        let mut count = 0;
        for slot in 0..MAX_PORTS {
            count += PortSeen((*caller).ports[slot]).fresh(now, reach);
        }
        count
    }
}

/// Notes a call of `port`: in its own slot, else in the one that was called longest ago. An empty
/// slot was called at time 0. Returns 0; BPF functions return something.
///
/// # Safety
/// `caller` is null or points to a live map value.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn note_port(caller: *mut Caller, port: u64, now: u64) -> u64 {
    if caller.is_null() {
        return 0;
    }
    let new = PortSeen::new(now, port as u16).0;
    // Another CPU may take the same slot for another port; then look again.
    for _ in 0..2 {
        // SAFETY: as the caller promises
        let (slot, seen) = unsafe { slot_for(caller, port) };
        // SAFETY: as the caller promises; the slot is below MAX_PORTS
        if unsafe { atomic::replace(&raw mut (*caller).ports[slot % MAX_PORTS], seen, new) } {
            return 0;
        }
    }
    fault(Fault::Contended);
    0
}

/// The slot of `port`, else the one that was called longest ago, and what it holds.
///
/// In arithmetic instead of branches, or the verifier would follow each slot that might win.
#[inline(always)]
unsafe fn slot_for(caller: *const Caller, port: u64) -> (usize, u64) {
    let (mut best_rank, mut best_slot, mut best_seen) = (u64::MAX >> 1, 0u64, 0u64);
    for slot in 0..MAX_PORTS as u64 {
        // SAFETY: as the caller promises
        let seen = unsafe { (*caller).ports[slot as usize] };
        let is_port = sign((PortSeen(seen).port() as u64 ^ port).wrapping_sub(1));
        let is_used = sign((PortSeen(seen).at() >> 1).wrapping_neg());
        // 0 for the port itself; the others by their age, behind it.
        let rank = (seen + 1) * (1 - is_port * is_used);
        let better = sign(rank.wrapping_sub(best_rank));
        best_rank = best_rank.wrapping_add(rank.wrapping_sub(best_rank).wrapping_mul(better));
        best_slot = best_slot.wrapping_add(slot.wrapping_sub(best_slot).wrapping_mul(better));
        best_seen = best_seen.wrapping_add(seen.wrapping_sub(best_seen).wrapping_mul(better));
    }
    (best_slot as usize, best_seen)
}

/// 1 if the number is negative, else 0. In Rust the compiler would see through it and branch.
#[inline(always)]
fn sign(mut number: u64) -> u64 {
    // SAFETY: one instruction on one register
    unsafe { asm!("{0} >>= 63", inout(reg) number, options(pure, nomem, nostack)) };
    number
}
