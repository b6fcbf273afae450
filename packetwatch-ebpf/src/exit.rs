//! The one exit: each packet is counted here, once, by its reason.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use packetwatch_abi::{CONNECTIONS, Fault, MAX_INTERFACES, OUTCOMES, Policy, Tally, outcome_index};

use crate::{Ingress, packet::Packet, verdict::Verdict};

#[btf_map]
static OUTCOMES_MAP: PerCpuArray<Tally, { OUTCOMES as usize }> = PerCpuArray::new();

#[btf_map]
static FAULTS: PerCpuArray<u64, { Fault::ALL.len() }> = PerCpuArray::new();

#[inline(always)]
pub fn count(packet: &Packet, ingress: &Ingress, verdict: Verdict) {
    let slot = slot(ingress.policy, ingress.ifindex);
    add(
        outcome_index(slot, verdict.observed(), verdict.reason()),
        packet.bytes,
    );
    if verdict.told() {
        add(outcome_index(slot, false, CONNECTIONS), packet.bytes);
    }
}

/// Counts what the program could not do.
#[inline(always)]
pub fn fault(fault: Fault) {
    if let Some(count) = FAULTS.get_ptr_mut(fault as u32) {
        // SAFETY: this CPU's own value
        unsafe { *count += 1 }
    }
}

#[inline(always)]
fn add(index: u32, bytes: u64) {
    if let Some(tally) = OUTCOMES_MAP.get_ptr_mut(index) {
        // SAFETY: this CPU's own value, and XDP is not interrupted by itself
        unsafe {
            (*tally).packets += 1;
            (*tally).bytes += bytes;
        }
    }
}

/// The row of the interface; the last one is for any that the policy does not name.
#[inline(always)]
fn slot(policy: &Policy, ifindex: u32) -> u32 {
    for slot in 0..MAX_INTERFACES {
        if policy.interfaces[slot] == ifindex {
            return slot as u32;
        }
    }
    MAX_INTERFACES as u32
}
