//! The policy in force.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use packetwatch_abi::{POLICIES, Policy};

/// In pairs: an even place, and behind it what takes its place at its end.
#[btf_map]
static POLICY: Array<Policy, POLICIES> = Array::new();

#[btf_map]
static ACTIVE: Array<u32, 1> = Array::new();

/// `None` is out of the question, but the verifier asks.
#[inline(always)]
pub fn at(now: u64) -> Option<&'static Policy> {
    let pair = *ACTIVE.get(0)?;
    let policy = POLICY.get(pair)?;
    if now < policy.until {
        return Some(policy);
    }
    POLICY.get(pair | 1)
}
