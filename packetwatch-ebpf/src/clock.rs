//! The time of a packet.

use aya_ebpf::{
    Global,
    btf_maps::{Array, PerCpuArray},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::btf_map,
};

/// Not 0: the time is what `CLOCK` holds, so that a test can walk through a window. It is frozen
/// before the program is verified, so in service the verifier removes that branch.
#[unsafe(no_mangle)]
static CLOCK_FROM_MAP: Global<u8> = Global::new(0);

#[btf_map]
static CLOCK: Array<u64, 1> = Array::new();

/// The coarse clock as this CPU read it last.
#[repr(C)]
#[derive(Clone, Copy)]
struct Reading {
    jiffies: u64,
    now: u64,
}

#[btf_map]
static READING: PerCpuArray<Reading, 1> = PerCpuArray::new();

/// CLOCK_MONOTONIC in nanoseconds, in steps of a timer tick (1 to 4 ms): the fine clock costs
/// four times as much, and no window is shorter than a second. Kernel 5.11.
///
/// Within a tick it is read once a CPU: jiffies take no call, and move with it.
#[inline(always)]
pub fn now() -> u64 {
    if CLOCK_FROM_MAP.load() != 0 {
        return CLOCK.get(0).copied().unwrap_or(0);
    }
    let Some(reading) = READING.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own value, and XDP is not interrupted by itself; helpers without arguments
    unsafe {
        let jiffies = bpf_jiffies64();
        if (*reading).jiffies == jiffies {
            return (*reading).now;
        }
        let now = bpf_ktime_get_coarse_ns();
        // A tick moves the jiffies first: what is still the time of the last is not that of this one.
        if (*reading).now != now {
            *reading = Reading { jiffies, now };
        }
        now
    }
}
