//! The policy in force.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use packetwatch_abi::Policy;

/// Two, so that the daemon never writes the one that is read.
#[btf_map]
static POLICY: Array<Policy, 2> = Array::new();

#[btf_map]
static ACTIVE: Array<u32, 1> = Array::new();

/// `None` is out of the question, but the verifier asks.
#[inline(always)]
pub fn active() -> Option<&'static Policy> {
    POLICY.get(*ACTIVE.get(0)?)
}
