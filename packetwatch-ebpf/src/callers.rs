//! Who calls, how much, and whether that goes beyond a rule.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use packetwatch_abi::{
    BUCKETS, Caller, Fault, MAX_RULES, MAX_UNITS, Policy, Prefix, Trigger, capacity,
};

use crate::{
    Ingress, atomic, events,
    exit::fault,
    packet::Packet,
    ports,
    verdict::Judgement,
    windows,
};

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
    let (thresholds, ended) = match judgement {
        Judgement::CountOnly => (false, 0),
        Judgement::Thresholds { ended } => (true, ended),
    };
    let single = !thresholds || packet.link_local;
    let mut over = false;
    for class in 0..MAX_UNITS {
        let (len, rules) = if single {
            (packet.source.full_len(), u32::MAX)
        } else {
            (policy.units[row][class], policy.unit_rules[row][class])
        };
        if len == 0 {
            break;
        }
        let unit = packet.source.truncated(len);
        let rules = if thresholds { rules } else { 0 };
        over |= count_unit(packet, ingress, &unit, rules, ended);
        if single {
            break;
        }
    }
    over
}

/// One unit. `rules` are those that count by it; what was before `ended` does not count.
///
/// Its own BPF function: inlined twice it would not fit the stack.
#[inline(never)]
fn count_unit(packet: &Packet, ingress: &Ingress, unit: &Prefix, rules: u32, ended: u64) -> bool {
    let Ingress { policy, now, .. } = *ingress;
    let Some(caller) = find_or_add(unit, now) else {
        return false;
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
        (*caller).last_seen = now;
        atomic::add(&raw mut (*caller).packets, 1);
        atomic::add(&raw mut (*caller).bytes, packet.bytes);
        let mut looking = policy.volume_rules;
        if packet.call {
            atomic::add(&raw mut (*caller).calls, 1);
            looking |= policy.call_rules;
        }
        let rules = rules & looking;
        if let Some(rule) = beyond(caller, policy, rules, now) {
            events::offence(packet, ingress, caller, unit, rule);
            if policy.observe == 0 {
                atomic::add(&raw mut (*caller).dropped, 1);
                return true;
            }
        }
        // What a threshold dropped is counted by no window; this one passes.
        add(caller, policy, rules, now, packet.bytes);
        if packet.call {
            ports::note_port(caller, packet.destination_port as u64, now);
        }
        false
    }
}

/// Adds the packet to the windows of `rules`.
///
/// # Safety
/// `caller` points to a live map value.
#[inline(always)]
unsafe fn add(caller: *mut Caller, policy: &Policy, rules: u32, now: u64, bytes: u64) {
    if rules == 0 {
        return;
    }
    for index in 0..MAX_RULES {
        let rule = &policy.rules[index];
        if rules & (1 << index) == 0 || rule.trigger == Trigger::DistinctPorts as u32 {
            continue;
        }
        let amount = if rule.trigger == Trigger::Bytes as u32 {
            bytes
        } else {
            1
        };
        // SAFETY: as the caller promises
        unsafe { windows::add(&raw mut (*caller).windows[index], rule.bucket, now, amount) };
    }
}

/// The first of `rules` whose N lie in the window already.
///
/// # Safety
/// `caller` points to a live map value.
#[inline(always)]
unsafe fn beyond(caller: *mut Caller, policy: &Policy, rules: u32, now: u64) -> Option<u32> {
    if rules == 0 {
        return None;
    }
    for index in 0..MAX_RULES {
        if rules & (1 << index) == 0 {
            continue;
        }
        let rule = &policy.rules[index];
        // SAFETY: as the caller promises
        let counted = unsafe {
            if rule.trigger == Trigger::DistinctPorts as u32 {
                ports::distinct_ports(caller, rule.within, now)
            } else {
                windows::sum(&raw const (*caller).windows[index], rule.bucket, now)
            }
        };
        if counted >= rule.limit {
            return Some(index as u32);
        }
    }
    None
}

/// Forgets what the windows hold. The ports need no clearing: those from before `since` are stale.
///
/// # Safety
/// `caller` points to a live map value.
#[inline(always)]
unsafe fn count_anew(caller: *mut Caller, since: u64) {
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
}

#[inline(always)]
fn find_or_add(unit: &Prefix, now: u64) -> Option<*mut Caller> {
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
    unsafe { (*caller).first_seen = now };
    Some(caller)
}
