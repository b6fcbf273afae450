//! Who calls, how much, and whether that goes beyond a rule.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{HashMap, PerCpuArray},
    macros::btf_map,
};
use packetwatch_abi::{
    BUCKETS, Caller, Fault, MAX_RULES, MAX_UNITS, Policy, PortSeen, Prefix, Since, Trigger,
    capacity,
};

use crate::{
    Ingress, admission, atomic, bans, events, exit::fault, limits, packet::Packet, ports,
    verdict::Judgement, windows,
};

const _: () = assert!(MAX_UNITS == 2, "`count` goes through them by hand");

/// Allocated as they come: an empty table takes half a mebibyte instead of 39. It makes an insertion
/// 1.5 us dearer, of which there are as many as there are places.
type Callers =
    HashMap<Prefix, Caller, { capacity::CALLERS as usize }, { BPF_F_NO_PREALLOC as usize }>;

#[btf_map]
static CALLERS: Callers = HashMap::new();

/// Where a new caller is made before it is entered: 1 KiB is more than the stack holds. All that is
/// not written anew each time is zero.
#[btf_map]
static NEW_CALLER: PerCpuArray<Caller, 1> = PerCpuArray::new();

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
    fn of(entered: u64) -> Self {
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

/// Counts the packet for each unit that the rules use; tells what it is beyond.
///
/// An allowed source and a link-local one are counted by single
/// address: what the first does never counts against its neighbours, and fe80::/64 is every
/// neighbour at once.
#[inline(always)]
pub fn count(packet: &Packet, ingress: &Ingress, judgement: Judgement) -> Counted {
    let policy = ingress.policy;
    let row = packet.source.row() & 1;
    let [mut len, other] = policy.units[row];
    let [mut rules, other_rules] = policy.unit_rules[row];
    let mut others = other != 0;
    let Judgement { allowed, ended } = judgement;
    if allowed {
        (len, rules, others) = (packet.source.full_len(), 0, false);
    } else if packet.link_local {
        (len, rules, others) = (packet.source.full_len(), u32::MAX, false);
    }
    let unit = packet.source.truncated(len);
    let caller = meet(packet, ingress, &unit, ended, allowed);
    let mut over = is_beyond(packet, ingress, caller, &unit, rules);
    if !others {
        if over {
            return Counted::OverThreshold;
        }
        return Counted::of(enter(packet, ingress, caller, &unit, rules));
    }
    let other_unit = packet.source.truncated(other);
    let other_caller = meet(packet, ingress, &other_unit, ended, false);
    over |= is_beyond(packet, ingress, other_caller, &other_unit, other_rules);
    // What a threshold drops is counted by no window, of neither unit.
    if over {
        return Counted::OverThreshold;
    }
    let seen = enter(packet, ingress, caller, &unit, rules);
    if seen >= ports::REFUSED && !ingress.policy.observes(ingress.now) {
        return Counted::of(seen);
    }
    let others_seen = enter(packet, ingress, other_caller, &other_unit, other_rules);
    if others_seen < ports::REFUSED {
        return Counted::of(seen);
    }
    if !ingress.policy.observes(ingress.now) {
        take_back(packet, ingress, caller, rules, seen);
    }
    Counted::of(others_seen)
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
    let Some(caller) = find_or_add(packet, unit, policy, now) else {
        return ptr::null_mut();
    };
    // SAFETY: a live map value. Counters that several CPUs write are added to atomically; the
    // others hold one of the values written, each of them true.
    unsafe {
        let since = (*caller).since;
        // Of all bans that cover the address, those that cover the unit: the end of a single
        // address's ban is no new beginning for its network.
        if ended != 0 && since.is_before(ended) {
            let ended = bans::ended_of_unit(unit, policy, now);
            if since.is_before(ended) {
                count_anew(caller, since, ended);
            }
        }
        if (*caller).generation != policy.generation {
            // In this order: a CPU that comes in between voids once more, which may make a ban late
            // by a call, and never takes what other rules have counted. Theirs were buckets of other
            // lengths, whose epochs no number of rounds keeps apart.
            count_anew(caller, (*caller).since, now);
            clear_windows(caller);
            (*caller).generation = policy.generation;
        }
        let excused = (*caller).allowed_at;
        if allowed {
            (*caller).allowed_at = now;
        } else if excused != 0 && (*caller).since.is_before(excused + PortSeen::STEP) {
            // The step after, so that the last ports it called while allowed are left out too.
            count_anew(caller, (*caller).since, excused + PortSeen::STEP);
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

/// Voids what windows and ports hold. Of several CPUs that would, one does; then it is done.
///
/// # Safety
/// `caller` points to a live map value.
#[inline(always)]
unsafe fn count_anew(caller: *mut Caller, seen: Since, at: u64) {
    // SAFETY: as the caller promises; Since is a word
    unsafe { atomic::replace((&raw mut (*caller).since).cast(), seen.0, seen.next(at).0) };
}

/// Clears the windows. Returns 0.
///
/// # Safety
/// `caller` is null or points to a live map value.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn clear_windows(caller: *mut Caller) -> u64 {
    if caller.is_null() {
        return 0;
    }
    for index in 0..MAX_RULES {
        for bucket in 0..BUCKETS {
            // SAFETY: as the caller promises; the indices are below the bounds
            unsafe { (*caller).windows[index][bucket] = 0 };
        }
    }
    0
}

/// The rules, of those given, that look at this packet.
#[inline(always)]
fn looking(packet: &Packet, policy: &Policy, rules: u32) -> u32 {
    let calls = if packet.call { policy.call_rules } else { 0 };
    rules & (policy.volume_rules | calls)
}

/// Whether N lie in the window of one of `rules` already; reports the offence. Never in observe
/// mode, where the report and the count of what would have been dropped are all that happens.
#[inline(never)]
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
    let rule = unsafe { rule_reached(caller, policy, rules, now) };
    if rule >= MAX_RULES as u64 {
        return false;
    }
    // SAFETY: a live map value
    unsafe { events::offence(packet, ingress, caller, unit, rule as u32) };
    // SAFETY: a live map value
    unsafe { atomic::add(&raw mut (*caller).dropped, 1) };
    !policy.observes(now)
}

/// Takes the packet from the limits of `rules`, adds it to their windows, and its port to the ports.
/// Returns what the port's slot held before; from `REFUSED` on, nothing was taken or added, as a limit
/// is spent or another CPU has filled a window meanwhile. In observe mode everything is added, and
/// what a limit would drop is returned as such.
#[inline(never)]
fn enter(
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
    let mut limit = MAX_RULES as u64;
    if rules & policy.limit_rules != 0 {
        // SAFETY: a live map value and the policy in force
        limit = unsafe { limits::take_from_limits(caller, policy, rules, now, packet.bytes) };
    }
    let is_limited = limit < MAX_RULES as u64;
    if is_limited {
        // SAFETY: a live map value
        unsafe { atomic::add(&raw mut (*caller).dropped, 1) };
        if !policy.observes(now) {
            return OVER_LIMIT;
        }
    }
    if rules & !policy.limit_rules != 0 {
        // SAFETY: a live map value and the policy in force
        let rule = unsafe { add_to_windows(caller, policy, rules, now, packet.bytes) };
        if rule <= MAX_RULES as u64 {
            // SAFETY: as above
            unsafe { limits::give_back_to_limits(caller, policy, rules, packet.bytes) };
            refuse(packet, ingress, caller, unit, rule as u32);
            return ports::REFUSED + rule;
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
            refuse(
                packet,
                ingress,
                caller,
                unit,
                (seen - ports::REFUSED) as u32,
            );
            return seen;
        }
    }
    // SAFETY: a live map value, though perhaps no longer of this unit
    if rules != 0 && unsafe { (*caller).unit != *unit } {
        take_back(packet, ingress, caller, rules, seen);
        return 0;
    }
    if is_limited { OVER_LIMIT } else { seen }
}

/// Counts a packet that is dropped because of `rule`, and reports the offence; without a rule
/// (`MAX_RULES`) it is one that could not be counted.
#[inline(always)]
fn refuse(packet: &Packet, ingress: &Ingress, caller: *mut Caller, unit: &Prefix, rule: u32) {
    // SAFETY: a live map value
    unsafe {
        if rule < MAX_RULES as u32 {
            events::offence(packet, ingress, caller, unit, rule);
        }
        atomic::add(&raw mut (*caller).dropped, 1);
    }
}

/// Takes back what [`enter`] entered.
#[inline(never)]
fn take_back(packet: &Packet, ingress: &Ingress, caller: *mut Caller, rules: u32, seen: u64) {
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

/// The caller's entry, if it has one or gets one. A new one is entered whole: no CPU ever sees it
/// without its first time or under other rules.
#[inline(always)]
fn find_or_add(packet: &Packet, unit: &Prefix, policy: &Policy, now: u64) -> Option<*mut Caller> {
    if let Some(caller) = CALLERS.get_ptr_mut(unit) {
        return Some(caller);
    }
    let looked_at = packet.call || policy.volume_rules != 0;
    let admitted = admission::admit(unit, looked_at, now)?;
    let new = NEW_CALLER.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value, and XDP is not interrupted by itself
    let new = unsafe {
        (*new).unit = *unit;
        (*new).first_seen = now;
        (*new).generation = policy.generation;
        &*new
    };
    const EEXIST: i32 = -17;
    match CALLERS.insert(unit, new, BPF_NOEXIST as u64) {
        Ok(()) => admission::tally(admitted),
        // Another CPU has added it first.
        Err(EEXIST) => {}
        // Not tried again: the source's next packet does.
        Err(errno) => {
            fault(Fault::of_insertion(errno));
            return None;
        }
    }
    CALLERS.get_ptr_mut(unit)
}
