//! Who calls, and how much.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{HashMap, PerCpuArray},
    macros::btf_map,
};
use packetwatch_abi::{
    BUCKETS, Caller, Fault, MAX_PORTS, MAX_RULES, MAX_UNITS, Policy, PortSeen, Prefix, Since,
    capacity,
};

use crate::{
    Ingress, admission, atomic, bans,
    exit::fault,
    packet::Packet,
    ports,
    rules::{Counted, enter, is_beyond, looking, take_back},
    verdict::Judgement,
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

/// Counts the packet for each unit that the rules use; tells what it is beyond.
///
/// By single address are counted an allowed source, which then counts against no neighbour; its
/// neighbours, for whose unit one of them would be banned alone; and a link-local one, since fe80::/64 is
/// every neighbour at once.
#[inline(always)]
pub fn count(packet: &Packet, ingress: &Ingress, judgement: &Judgement) -> Counted {
    let policy = ingress.policy;
    let row = packet.source.row() & 1;
    // The shorter one first.
    let [mut len, other] = policy.units[row];
    let [mut rules, mut other_rules] = policy.unit_rules[row];
    let mut others = other != 0;
    let full = packet.source.full_len();
    if judgement.allowed {
        (len, rules, others) = (full, 0, false);
    } else if packet.link_local || judgement.shared_len >= len {
        // The one of two units that is left may be the address itself.
        if packet.link_local || judgement.shared_len >= other || other == full {
            (rules, others) = (u32::MAX, false);
        }
        len = full;
    }
    let unit = packet.source.truncated(len);
    let caller = meet(packet, ingress, &unit, judgement, rules);
    let mut over = is_beyond(packet, ingress, caller, &unit, rules);
    let mut other_unit = unit;
    let mut other_caller = ptr::null_mut();
    if others {
        other_unit = packet.source.truncated(other);
        other_caller = meet(packet, ingress, &other_unit, judgement, other_rules);
        over |= is_beyond(packet, ingress, other_caller, &other_unit, other_rules);
    }
    // What a threshold drops is counted by no window and costs no limit, of neither unit. In observe mode
    // it passes, and so goes on in the windows.
    if over {
        if !policy.observes(ingress.now) {
            return Counted::OverThreshold;
        }
        (rules, other_rules) = (
            rules & !policy.limit_rules,
            other_rules & !policy.limit_rules,
        );
    }
    let seen = enter(packet, ingress, caller, &unit, rules);
    if others && seen < ports::REFUSED {
        let others_seen = enter(packet, ingress, other_caller, &other_unit, other_rules);
        if others_seen >= ports::REFUSED {
            take_back(packet, ingress, caller, rules, seen);
            return Counted::of(others_seen);
        }
    }
    if over {
        return Counted::OverThreshold;
    }
    Counted::of(seen)
}

/// Finds or adds the caller, of which `rules` count, and counts what is counted of every packet. Null
/// if there is no room.
#[inline(never)]
fn meet(
    packet: &Packet,
    ingress: &Ingress,
    unit: &Prefix,
    judgement: &Judgement,
    rules: u32,
) -> *mut Caller {
    let Ingress { policy, now, .. } = *ingress;
    let Judgement { allowed, ended, .. } = *judgement;
    let looking = looking(packet, policy, rules);
    let Some(caller) = find_or_add(unit, policy, looking, now) else {
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
            // lengths, whose epochs no number of rounds keeps apart, and ports of this very step.
            count_anew(caller, (*caller).since, now);
            clear(caller);
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

/// Clears windows and ports. Returns 0.
///
/// # Safety
/// `caller` is null or points to a live map value.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn clear(caller: *mut Caller) -> u64 {
    if caller.is_null() {
        return 0;
    }
    for index in 0..MAX_RULES {
        for bucket in 0..BUCKETS {
            // SAFETY: as the caller promises; the indices are below the bounds
            unsafe { (*caller).windows[index][bucket] = 0 };
        }
    }
    for slot in 0..MAX_PORTS {
        // SAFETY: as the caller promises; the slot is below the bound
        unsafe { (*caller).ports[slot] = 0 };
    }
    0
}

/// The caller's entry, if it has one or gets one. A new one is entered whole: no CPU ever sees it
/// without its first time or under other rules.
#[inline(always)]
fn find_or_add(unit: &Prefix, policy: &Policy, looking: u32, now: u64) -> Option<*mut Caller> {
    if let Some(caller) = CALLERS.get_ptr_mut(unit) {
        return Some(caller);
    }
    let admitted = admission::admit(unit, looking, now)?;
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
