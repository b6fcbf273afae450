//! The destination ports that a caller called, each with its last time: exact for up to 64.
//!
//! The functions are global in the sense of BPF (exported, so BTF marks them): the verifier checks
//! each once on its own, instead of every way through 64 slots at every place that calls it.

use core::arch::asm;

use packetwatch_abi::{Caller, Fault, MAX_PORTS, MAX_RULES, Policy, PortSeen, Rule, Trigger};

use crate::{atomic, exit::fault};

/// What [`note`] returns from here on says why it noted nothing: less `REFUSED`, the rule
/// whose N ports there are already, or `MAX_RULES` if the table was fought over.
pub const REFUSED: u64 = u64::MAX - 1 - MAX_RULES as u64;

/// Looks at the lock of a port table that another CPU holds, for some hundred nanoseconds each time.
const LOCK_TRIES: usize = 512;

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
/// slot was called at time 0. Returns what the slot held, or from [`REFUSED`] on why it did not.
///
/// A port that one of `rules` would count anew is noted under the lock of the table, after another
/// look at the count: so of two CPUs that come with two ports for one place, one is refused. Who
/// does not get the lock is refused, too: a call of the source is dropped, and counted as a fault,
/// rather than one let pass that may be beyond the N-th. Calls of ports that count already, the most
/// by far, take no lock.
///
/// # Safety
/// `caller` and `policy` point to live map values.
#[inline(always)]
pub unsafe fn note(
    caller: *mut Caller,
    policy: *const Policy,
    rules: u32,
    port: u64,
    now: u64,
) -> u64 {
    // One after the other, not one in the other: they share 512 bytes of stack with their callers.
    // SAFETY: as the caller promises
    unsafe {
        match note_known_port(caller, policy, rules, port, now) {
            COUNTS_ANEW => note_another_port(caller, policy, rules, port, now),
            seen => seen,
        }
    }
}

const COUNTS_ANEW: u64 = REFUSED - 1;

/// The part of [`note`] that takes no lock; [`COUNTS_ANEW`] if that is not enough.
///
/// # Safety
/// `caller` and `policy` are null or point to live map values.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn note_known_port(
    caller: *mut Caller,
    policy: *const Policy,
    rules: u32,
    port: u64,
    now: u64,
) -> u64 {
    if caller.is_null() || policy.is_null() {
        return 0;
    }
    let new = PortSeen::new(now, port as u16).0;
    // SAFETY: as the caller promises; a slot is below MAX_PORTS
    unsafe {
        let within = shortest_within(policy, rules, now);
        // Another CPU may take the same slot for another port; then look again.
        for _ in 0..2 {
            let (slot, seen) = slot_for(caller, port);
            if within != 0 && !counts_already(caller, seen, port, within, now) {
                return COUNTS_ANEW;
            }
            if atomic::replace(&raw mut (*caller).ports[slot % MAX_PORTS], seen, new) {
                return seen;
            }
        }
        if within != 0 {
            return COUNTS_ANEW;
        }
    }
    fault(Fault::Contended);
    0
}

/// Takes a port out again that [`note`] noted at `now`, whose slot held `seen` before. Returns
/// 0.
///
/// # Safety
/// `caller` is null or points to a live map value.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn take_back_port(
    caller: *mut Caller,
    port: u64,
    now: u64,
    seen: u64,
) -> u64 {
    if caller.is_null() {
        return 0;
    }
    let new = PortSeen::new(now, port as u16).0;
    // SAFETY: as the caller promises; a slot is below MAX_PORTS. Where another call of the port has
    // been noted since, that one stands.
    unsafe {
        let (slot, _) = slot_for(caller, port);
        atomic::replace(&raw mut (*caller).ports[slot % MAX_PORTS], new, seen);
    }
    0
}

/// The shortest window of those of `rules` that are over ports; 0 without one, or in observe mode,
/// which refuses nothing.
#[inline(always)]
unsafe fn shortest_within(policy: *const Policy, rules: u32, now: u64) -> u64 {
    let mut shortest = u64::MAX;
    for index in 0..MAX_RULES {
        // SAFETY: as the caller promises; the index is below MAX_RULES
        let Rule {
            trigger, within, ..
        } = unsafe { (*policy).rules[index] };
        let is_over_ports = rules & (1 << index) != 0 && trigger == Trigger::DistinctPorts as u32;
        if is_over_ports && within < shortest {
            shortest = within;
        }
    }
    // SAFETY: as the caller promises
    let observes = unsafe { (*policy).observes(now) };
    if shortest == u64::MAX || observes {
        0
    } else {
        shortest
    }
}

/// Whether `seen` is of this port and counts within `within`, and so for each longer window.
#[inline(always)]
unsafe fn counts_already(
    caller: *const Caller,
    seen: u64,
    port: u64,
    within: u64,
    now: u64,
) -> bool {
    // SAFETY: as the caller promises
    let reach = PortSeen::reach(now, unsafe { (*caller).since }, within);
    PortSeen(seen).port() as u64 == port && PortSeen(seen).fresh(now, reach) == 1
}

/// The part of [`note`] that is done under the lock.
///
/// # Safety
/// `caller` and `policy` are null or point to live map values.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn note_another_port(
    caller: *mut Caller,
    policy: *const Policy,
    rules: u32,
    port: u64,
    now: u64,
) -> u64 {
    if caller.is_null() || policy.is_null() {
        return 0;
    }
    let new = PortSeen::new(now, port as u16).0;
    // SAFETY: as the caller promises; indices are below MAX_RULES, a slot below MAX_PORTS
    unsafe {
        let word = &raw mut (*caller).port_lock;
        if !lock(word) {
            fault(Fault::Contended);
            return REFUSED + MAX_RULES as u64;
        }
        for index in 0..MAX_RULES {
            let rule = &(*policy).rules[index];
            if rules & (1 << index) != 0
                && rule.trigger == Trigger::DistinctPorts as u32
                && distinct_ports(caller, rule.within, now) >= rule.limit
            {
                atomic::replace(word, 1, 0);
                return REFUSED + index as u64;
            }
        }
        for _ in 0..2 {
            let (slot, seen) = slot_for(caller, port);
            if atomic::replace(&raw mut (*caller).ports[slot % MAX_PORTS], seen, new) {
                atomic::replace(word, 1, 0);
                return seen;
            }
        }
        atomic::replace(word, 1, 0);
    }
    fault(Fault::Contended);
    REFUSED + MAX_RULES as u64
}

#[inline(always)]
unsafe fn lock(word: *mut u64) -> bool {
    for _ in 0..LOCK_TRIES {
        // SAFETY: as the caller promises. Read first: waiting CPUs leave the word to its holder.
        if unsafe { word.read_volatile() == 0 && atomic::replace(word, 0, 1) } {
            return true;
        }
    }
    false
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
