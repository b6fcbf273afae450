//! Whether what a caller does goes beyond a rule: thresholds of windows and ports, limits.

use packetwatch_abi::{Caller, MAX_RULES, Policy, Prefix, Trigger};

use crate::{Ingress, atomic, events, limits, packet::Packet, ports, windows};

/// What the rules make of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    Within,
    /// N lie in a window already
    OverThreshold,
    /// a limit lets no more pass now
    OverLimit,
}

impl Counted {
    /// Of what [`enter`] returns.
    #[inline(always)]
    pub fn of(entered: u64) -> Self {
        match entered {
            OVER_LIMIT => Self::OverLimit,
            ports::REFUSED.. => Self::OverThreshold,
            _ => Self::Within,
        }
    }
}

/// What [`enter`] returns for a packet that a limit does not let pass.
const OVER_LIMIT: u64 = u64::MAX;

const _: () = assert!(
    OVER_LIMIT > ports::REFUSED + MAX_RULES as u64,
    "it is none of the others"
);

/// The rules, of those given, that look at this packet.
#[inline(always)]
pub fn looking(packet: &Packet, policy: &Policy, rules: u32) -> u32 {
    let calls = if packet.call { policy.call_rules } else { 0 };
    rules & (policy.volume_rules | calls)
}

/// Whether N lie in the window of one of `rules` already; reports the offence. Not so where the entry has
/// become another's meanwhile, whose windows it was that were looked at.
#[inline(never)]
pub fn is_beyond(
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
    let rule = unsafe { rule_reached(caller, policy, rules, now) };
    if rule >= MAX_RULES as u64 || is_of_another(caller, unit) {
        return false;
    }
    // SAFETY: a live map value
    unsafe { events::offence(packet, ingress, caller, unit, rule as u32) };
    // SAFETY: a live map value
    unsafe { atomic::add(&raw mut (*caller).dropped, 1) };
    true
}

/// Whether the entry was removed and given to another source since it was found: whoever goes by what it
/// holds looks here after that, and before anybody is blamed.
#[inline(always)]
fn is_of_another(caller: *mut Caller, unit: &Prefix) -> bool {
    // SAFETY: a live map value, though perhaps no longer of this unit
    unsafe { (*caller).unit != *unit }
}

/// Takes the packet from the limits of `rules`, adds it to their windows, and its port to the ports.
/// Returns what the port's slot held before; from `REFUSED` on, nothing was taken or added, as a limit
/// is spent or another CPU has filled a window meanwhile. In observe mode windows are never full.
#[inline(never)]
pub fn enter(
    packet: &Packet,
    ingress: &Ingress,
    caller: *mut Caller,
    unit: &Prefix,
    rules: u32,
) -> u64 {
    let Ingress { policy, now, .. } = *ingress;
    if caller.is_null() {
        return 0;
    }
    let rules = looking(packet, policy, rules);
    let mut seen = 0;
    if rules & policy.limit_rules != 0 {
        // SAFETY: a live map value and the policy in force
        let limit = unsafe { limits::take_from_limits(caller, policy, rules, now, packet.bytes) };
        if limit < MAX_RULES as u64 {
            return refuse(packet, ingress, caller, unit, OVER_LIMIT);
        }
    }
    if rules & !policy.limit_rules != 0 {
        // SAFETY: a live map value and the policy in force
        let rule = unsafe { add_to_windows(caller, policy, rules, now, packet.bytes) };
        if rule <= MAX_RULES as u64 {
            // SAFETY: as above
            unsafe { limits::give_back_to_limits(caller, policy, rules, packet.bytes) };
            return refuse(packet, ingress, caller, unit, ports::REFUSED + rule);
        }
    }
    if packet.call {
        let port = packet.destination_port as u64;
        // SAFETY: as above
        seen = unsafe { ports::note(caller, policy, rules, port, now) };
        if seen >= ports::REFUSED {
            // SAFETY: as above
            unsafe {
                take_from_windows(caller, policy, rules, now, packet.bytes);
                limits::give_back_to_limits(caller, policy, rules, packet.bytes);
            }
            return refuse(packet, ingress, caller, unit, seen);
        }
    }
    if rules != 0 && is_of_another(caller, unit) {
        take_back(packet, ingress, caller, rules, seen);
        return 0;
    }
    seen
}

/// Counts a packet that is refused, and reports the offence if a rule is reached; without one it was
/// refused by a limit or could not be counted. One that another source's entry refused is not.
#[inline(always)]
fn refuse(
    packet: &Packet,
    ingress: &Ingress,
    caller: *mut Caller,
    unit: &Prefix,
    refused: u64,
) -> u64 {
    if is_of_another(caller, unit) {
        return 0;
    }
    let rule = refused - ports::REFUSED;
    // SAFETY: a live map value
    unsafe {
        if rule < MAX_RULES as u64 {
            events::offence(packet, ingress, caller, unit, rule as u32);
        }
        atomic::add(&raw mut (*caller).dropped, 1);
    }
    refused
}

/// Takes back what [`enter`] entered.
#[inline(never)]
pub fn take_back(packet: &Packet, ingress: &Ingress, caller: *mut Caller, rules: u32, seen: u64) {
    let Ingress { policy, now, .. } = *ingress;
    let rules = looking(packet, policy, rules);
    if caller.is_null() {
        return;
    }
    // SAFETY: a live map value and the policy in force
    unsafe {
        take_from_windows(caller, policy, rules, now, packet.bytes);
        limits::give_back_to_limits(caller, policy, rules, packet.bytes);
        if packet.call {
            ports::take_back_port(caller, packet.destination_port as u64, now, seen);
        }
    }
}

/// The first of `rules` whose N lie in the window already; `MAX_RULES` if there is none.
///
/// This and those below are global functions in the sense of BPF, verified once each.
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
    // SAFETY: as the caller promises
    let rules = rules & !unsafe { (*policy).limit_rules };
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
                let epoch = (*caller).since.epoch(now, rule.bucket);
                windows::sum(&raw const (*caller).windows[index], epoch)
            };
            counted >= rule.limit
        };
        if reached {
            return index as u64;
        }
    }
    MAX_RULES as u64
}

/// What [`add_to_windows`] returns when all is added.
const ADDED: u64 = u64::MAX;

/// Adds to the windows of `rules`: 1, or `bytes` where a rule counts those. Returns [`ADDED`]; else
/// nothing is added, and it returns the rule that another CPU has filled meanwhile, or `MAX_RULES`
/// if a window was fought over. In observe mode everything is added.
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
        return ADDED;
    }
    // SAFETY: as the caller promises
    let rules = rules & !unsafe { (*policy).limit_rules };
    for index in 0..MAX_RULES {
        // SAFETY: as the caller promises; the index is below MAX_RULES
        unsafe {
            let rule = &(*policy).rules[index];
            if rules & (1 << index) == 0 || rule.trigger == Trigger::DistinctPorts as u32 {
                continue;
            }
            let is_bytes = rule.trigger == Trigger::Bytes as u32;
            let amount = if is_bytes { bytes } else { 1 };
            let epoch = (*caller).since.epoch(now, rule.bucket);
            let before = windows::add(&raw mut (*caller).windows[index], epoch, amount);
            if before < rule.limit || (*policy).observes(now) {
                continue;
            }
            // This one was not added if it was fought over, and the bit of it tells.
            let fought_over = before == u64::MAX;
            let added = (2 << index) - 1 - ((fought_over as u32) << index);
            take_from_windows(caller, policy, rules & added, now, bytes);
            return if fought_over {
                MAX_RULES as u64
            } else {
                index as u64
            };
        }
    }
    ADDED
}

/// Takes back what [`add_to_windows`] added for `rules`. Returns 0.
///
/// # Safety
/// `caller` and `policy` are null or point to live map values.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn take_from_windows(
    caller: *mut Caller,
    policy: *const Policy,
    rules: u32,
    now: u64,
    bytes: u64,
) -> u64 {
    if caller.is_null() || policy.is_null() {
        return 0;
    }
    // SAFETY: as the caller promises
    let rules = rules & !unsafe { (*policy).limit_rules };
    for index in 0..MAX_RULES {
        // SAFETY: as the caller promises; the index is below MAX_RULES
        unsafe {
            let rule = &(*policy).rules[index];
            if rules & (1 << index) == 0 || rule.trigger == Trigger::DistinctPorts as u32 {
                continue;
            }
            let is_bytes = rule.trigger == Trigger::Bytes as u32;
            let amount = if is_bytes { bytes } else { 1 };
            let epoch = (*caller).since.epoch(now, rule.bucket);
            windows::take_back(&raw mut (*caller).windows[index], epoch, amount);
        }
    }
    0
}
