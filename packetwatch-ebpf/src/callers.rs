//! Who calls, how much, and whether that goes beyond a rule.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use packetwatch_abi::{
    BUCKETS, Caller, Fault, MAX_RULES, MAX_UNITS, Policy, PortSeen, Prefix, Trigger, capacity,
};

use crate::{
    Ingress, atomic, events, exit::fault, packet::Packet, ports, verdict::Judgement, windows,
};

const _: () = assert!(MAX_UNITS == 2, "`count` goes through them by hand");

#[btf_map]
static CALLERS: HashMap<Prefix, Caller, { capacity::CALLERS as usize }> = HashMap::new();

/// All zero, never written: a new caller starts as its copy. 1 KiB is more than the stack holds.
#[btf_map]
static NEW_CALLER: Array<Caller, 1> = Array::new();

/// Counts the packet for each unit that the rules use; tells whether it is beyond one of them.
///
/// An allowed source (`judgement` without thresholds) and a link-local one are counted by single
/// address: what the first does never counts against its neighbours, and fe80::/64 is every
/// neighbour at once.
#[inline(always)]
pub fn count(packet: &Packet, ingress: &Ingress, judgement: Judgement) -> bool {
    let policy = ingress.policy;
    let row = packet.source.row() & 1;
    let [mut len, other] = policy.units[row];
    let [mut rules, other_rules] = policy.unit_rules[row];
    let mut others = other != 0;
    match judgement {
        Judgement::CountOnly => (len, rules, others) = (packet.source.full_len(), 0, false),
        Judgement::Thresholds { .. } if packet.link_local => {
            (len, rules, others) = (packet.source.full_len(), u32::MAX, false);
        }
        Judgement::Thresholds { .. } => {}
    }
    let ended = match judgement {
        Judgement::CountOnly => 0,
        Judgement::Thresholds { ended } => ended,
    };
    let unit = packet.source.truncated(len);
    let allowed = matches!(judgement, Judgement::CountOnly);
    let caller = meet(packet, ingress, &unit, ended, allowed);
    let mut over = is_beyond(packet, ingress, caller, &unit, rules);
    if !others {
        if !over {
            add(packet, ingress, caller, rules);
        }
        return over;
    }
    let other_unit = packet.source.truncated(other);
    let other_caller = meet(packet, ingress, &other_unit, ended, false);
    over |= is_beyond(packet, ingress, other_caller, &other_unit, other_rules);
    // What a threshold drops is counted by no window, of neither unit.
    if !over {
        add(packet, ingress, caller, rules);
        add(packet, ingress, other_caller, other_rules);
    }
    over
}

/// Finds or adds the caller, and counts what is counted of every packet. Null if there is no room.
#[inline(never)]
fn meet(
    packet: &Packet,
    ingress: &Ingress,
    unit: &Prefix,
    ended: u64,
    allowed: bool,
) -> *mut Caller {
    let Ingress { policy, now, .. } = *ingress;
    let Some(caller) = find_or_add(unit, policy, now) else {
        return ptr::null_mut();
    };
    // SAFETY: a live map value. Counters that several CPUs write are added to atomically; the
    // others hold one of the values written, each of them true.
    unsafe {
        if ended > (*caller).since {
            count_anew(caller, ended);
        }
        if (*caller).generation != policy.generation {
            (*caller).generation = policy.generation;
            count_anew(caller, now);
        }
        let excused = (*caller).allowed_at;
        if allowed {
            (*caller).allowed_at = now;
        } else if excused != 0 && excused + PortSeen::STEP > (*caller).since {
            // The step after, so that the last ports it called while allowed are left out too.
            count_anew(caller, excused + PortSeen::STEP);
        }
        (*caller).last_seen = now;
        atomic::add(&raw mut (*caller).packets, 1);
        atomic::add(&raw mut (*caller).bytes, packet.bytes);
        if packet.call {
            atomic::add(&raw mut (*caller).calls, 1);
        }
    }
    caller
}

/// The rules, of those given, that look at this packet.
#[inline(always)]
fn looking(packet: &Packet, policy: &Policy, rules: u32) -> u32 {
    let calls = if packet.call { policy.call_rules } else { 0 };
    rules & (policy.volume_rules | calls)
}

/// Whether N lie in the window of one of `rules` already; reports the offence. Never in observe
/// mode, where the report is all that happens.
#[inline(always)]
fn is_beyond(
    packet: &Packet,
    ingress: &Ingress,
    caller: *mut Caller,
    unit: &Prefix,
    rules: u32,
) -> bool {
    let Ingress { policy, now, .. } = *ingress;
    let rules = looking(packet, policy, rules);
    if caller.is_null() || rules == 0 {
        return false;
    }
    // SAFETY: a live map value and the policy in force
    unsafe {
        let rule = rule_reached(caller, policy, rules, now);
        if rule >= MAX_RULES as u64 {
            return false;
        }
        events::offence(packet, ingress, caller, unit, rule as u32);
        if policy.observe != 0 {
            return false;
        }
        atomic::add(&raw mut (*caller).dropped, 1);
    }
    true
}

/// Adds the packet to the windows of `rules`, and its port to the ports.
#[inline(always)]
fn add(packet: &Packet, ingress: &Ingress, caller: *mut Caller, rules: u32) {
    let Ingress { policy, now, .. } = *ingress;
    if caller.is_null() {
        return;
    }
    let rules = looking(packet, policy, rules);
    // SAFETY: a live map value and the policy in force
    unsafe {
        if rules != 0 {
            add_to_windows(caller, policy, rules, now, packet.bytes);
        }
        if packet.call {
            ports::note_port(caller, packet.destination_port as u64, now);
        }
    }
}

/// The first of `rules` whose N lie in the window already; `MAX_RULES` if there is none.
///
/// This and the two below are global functions in the sense of BPF, verified once each.
///
/// # Safety
/// `caller` and `policy` are null or point to live map values.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn rule_reached(
    caller: *mut Caller,
    policy: *const Policy,
    rules: u32,
    now: u64,
) -> u64 {
    if caller.is_null() || policy.is_null() {
        return MAX_RULES as u64;
    }
    for index in 0..MAX_RULES {
        if rules & (1 << index) == 0 {
            continue;
        }
        // SAFETY: as the caller promises; the index is below MAX_RULES
        let reached = unsafe {
            let rule = &(*policy).rules[index];
            let counted = if rule.trigger == Trigger::DistinctPorts as u32 {
                ports::distinct_ports(caller, rule.within, now)
            } else {
                windows::sum(&raw const (*caller).windows[index], rule.bucket, now)
            };
            counted >= rule.limit
        };
        if reached {
            return index as u64;
        }
    }
    MAX_RULES as u64
}

/// Adds to the windows of `rules`: 1, or `bytes` where a rule counts those. Returns 0.
///
/// # Safety
/// `caller` and `policy` are null or point to live map values.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn add_to_windows(
    caller: *mut Caller,
    policy: *const Policy,
    rules: u32,
    now: u64,
    bytes: u64,
) -> u64 {
    if caller.is_null() || policy.is_null() {
        return 0;
    }
    for index in 0..MAX_RULES {
        // SAFETY: as the caller promises; the index is below MAX_RULES
        unsafe {
            let rule = &(*policy).rules[index];
            if rules & (1 << index) == 0 || rule.trigger == Trigger::DistinctPorts as u32 {
                continue;
            }
            let is_bytes = rule.trigger == Trigger::Bytes as u32;
            let amount = if is_bytes { bytes } else { 1 };
            windows::add(&raw mut (*caller).windows[index], rule.bucket, now, amount);
        }
    }
    0
}

/// Forgets what the windows hold. The ports need no clearing: those from before `since` are stale.
/// Returns 0.
///
/// # Safety
/// `caller` is null or points to a live map value.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn count_anew(caller: *mut Caller, since: u64) -> u64 {
    if caller.is_null() {
        return 0;
    }
    // SAFETY: as the caller promises. A call that another CPU counts meanwhile may be forgotten
    // with them: a ban may come a call late at the end of another, never early.
    unsafe {
        (*caller).since = since;
        for index in 0..MAX_RULES {
            for bucket in 0..BUCKETS {
                (*caller).windows[index][bucket] = 0;
            }
        }
    }
    0
}

#[inline(always)]
fn find_or_add(unit: &Prefix, policy: &Policy, now: u64) -> Option<*mut Caller> {
    if let Some(caller) = CALLERS.get_ptr_mut(unit) {
        return Some(caller);
    }
    let new = NEW_CALLER.get(0)?;
    const E2BIG: i32 = -7;
    const EEXIST: i32 = -17;
    match CALLERS.insert(unit, new, BPF_NOEXIST as u64) {
        // Another CPU may have added it first.
        Ok(()) | Err(EEXIST) => {}
        Err(E2BIG) => {
            fault(Fault::CallersFull);
            return None;
        }
        Err(_) => {
            fault(Fault::CallersError);
            return None;
        }
    }
    let caller = CALLERS.get_ptr_mut(unit)?;
    // SAFETY: a live map value
    unsafe {
        (*caller).generation = policy.generation;
        (*caller).first_seen = now;
    }
    Some(caller)
}
