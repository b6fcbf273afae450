//! What user space is told at once.

use aya_ebpf::{
    btf_maps::{PerCpuArray, RingBuf},
    macros::btf_map,
};
use packetwatch_abi::{Call, Caller, Fault, Offence, Policy, Prefix, capacity};

use crate::{Ingress, exit::fault, packet::Packet, verdict::Verdict};

#[btf_map]
static CALLS: RingBuf<Call, { capacity::CALL_RING as usize }> = RingBuf::new();

#[btf_map]
static OFFENCES: RingBuf<Offence, { capacity::OFFENCE_RING as usize }> = RingBuf::new();

#[repr(C)]
pub struct Spent {
    second: u64,
    calls: u64,
}

#[btf_map]
static CALL_BUDGET: PerCpuArray<Spent, 1> = PerCpuArray::new();

/// `BPF_RB_FORCE_WAKEUP`: the rule loop is woken at once, whatever it has read so far.
const FORCE_WAKEUP: u64 = 2;

/// Hands a call to the log, unless this second's budget is spent.
#[inline(always)]
pub fn call(packet: &Packet, ingress: &Ingress, verdict: Verdict) {
    let Ingress {
        policy,
        ifindex,
        now,
    } = *ingress;
    if !within_budget(policy, now) {
        fault(Fault::CallsSuppressed);
        return;
    }
    let Some(mut entry) = CALLS.reserve(0) else {
        fault(Fault::CallsLost);
        return;
    };
    entry.write(Call {
        at: now,
        source: packet.source,
        destination: packet.destination,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        ifindex,
        reason: verdict.reason(),
        observed: verdict.observed() as u32,
        _pad: [0; 2],
    });
    entry.submit(0);
}

/// Wakes the rule loop, unless this caller did so a moment ago.
///
/// # Safety
/// `caller` points to a live map value.
#[inline(always)]
pub unsafe fn offence(
    packet: &Packet,
    ingress: &Ingress,
    caller: *mut Caller,
    unit: &Prefix,
    rule: u32,
) {
    let Ingress { ifindex, now, .. } = *ingress;
    // SAFETY: as the caller promises. Two CPUs may both write; either is a true account.
    let generation = unsafe {
        let last = (*caller).offended_at;
        if (*caller).since.is_before(last) && now.saturating_sub(last) < Offence::REPEAT_NS {
            return;
        }
        (*caller).offender = packet.source;
        (*caller).offence_rule = rule;
        (*caller).offended_at = now;
        (*caller).generation
    };
    let Some(mut entry) = OFFENCES.reserve(0) else {
        fault(Fault::OffencesLost);
        return;
    };
    entry.write(Offence {
        at: now,
        unit: *unit,
        source: packet.source,
        rule,
        generation,
        ifindex,
        destination_port: packet.destination_port as u32,
    });
    entry.submit(FORCE_WAKEUP);
}

#[inline(always)]
fn within_budget(policy: &Policy, now: u64) -> bool {
    const SECOND: u64 = 1_000_000_000;
    let Some(spent) = CALL_BUDGET.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own value
    unsafe {
        let second = now / SECOND;
        if (*spent).second != second {
            (*spent).second = second;
            (*spent).calls = 0;
        }
        (*spent).calls += 1;
        (*spent).calls <= policy.call_budget as u64
    }
}
