//! Bans: a plain hash that nothing but the daemon fills and empties. An LRU would let a flood of
//! spoofed sources evict them.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use packetwatch_abi::{Ban, Policy, Prefix, capacity};

use crate::{Ingress, atomic, packet::Packet};

#[btf_map]
static BANS: HashMap<Prefix, Ban, { capacity::BANS as usize }> = HashMap::new();

pub enum Found {
    /// dropped until its deadline
    Banned,
    /// when the latest ban of this source ended; 0 if there is no trace of one
    EndedAt(u64),
}

/// Looks under each prefix length that bans may have: one look-up for IPv4 by default.
#[inline(always)]
pub fn find(packet: &Packet, ingress: &Ingress) -> Found {
    let mut ended = 0;
    for len in ingress.policy.ban_lengths[packet.source.row() & 1] {
        if len == 0 {
            break;
        }
        let Some(ban) = BANS.get_ptr_mut(&packet.source.truncated(len)) else {
            continue;
        };
        // SAFETY: a live map value; the tally is shared by all CPUs, so it is added to atomically
        unsafe {
            let until = (*ban).until;
            if ingress.now < until {
                atomic::add(&raw mut (*ban).packets, 1);
                atomic::add(&raw mut (*ban).bytes, packet.bytes);
                return Found::Banned;
            }
            if until > ended {
                ended = until;
            }
        }
    }
    Found::EndedAt(ended)
}

/// When the latest ban of all of `unit` ended; 0 if there is no trace of one.
///
/// A global function in the sense of BPF, verified once: it is seldom called.
///
/// # Safety
/// `unit` and `policy` are null or point to what they say.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn ended_of_unit(
    unit: *const Prefix,
    policy: *const Policy,
    now: u64,
) -> u64 {
    // SAFETY: as the caller promises
    let (Some(unit), Some(policy)) = (unsafe { (unit.as_ref(), policy.as_ref()) }) else {
        return 0;
    };
    let mut ended = 0;
    for len in policy.ban_lengths[unit.row() & 1] {
        if len == 0 || len > unit.len {
            continue;
        }
        let Some(ban) = BANS.get_ptr_mut(&unit.truncated(len)) else {
            continue;
        };
        // SAFETY: a live map value
        let until = unsafe { (*ban).until };
        if until <= now && until > ended {
            ended = until;
        }
    }
    ended
}
