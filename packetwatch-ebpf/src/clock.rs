//! The time of a packet.

use aya_ebpf::{
    Global, btf_maps::Array, helpers::generated::bpf_ktime_get_coarse_ns, macros::btf_map,
};

/// Not 0: the time is what `CLOCK` holds, so that a test can walk through a window. It is frozen
/// before the program is verified, so in service the verifier removes that branch.
#[unsafe(no_mangle)]
static CLOCK_FROM_MAP: Global<u8> = Global::new(0);

#[btf_map]
static CLOCK: Array<u64, 1> = Array::new();

/// CLOCK_MONOTONIC in nanoseconds, in steps of a timer tick (1 to 4 ms): the fine clock costs
/// four times as much, and no window is shorter than a second. Kernel 5.11.
#[inline(always)]
pub fn now() -> u64 {
    if CLOCK_FROM_MAP.load() != 0 {
        return CLOCK.get(0).copied().unwrap_or(0);
    }
    // SAFETY: no arguments, no effects
    unsafe { bpf_ktime_get_coarse_ns() }
}
