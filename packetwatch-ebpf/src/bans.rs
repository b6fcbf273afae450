//! Bans: plain hashes that nothing but the daemon fills and empties. An LRU would let a flood of
//! spoofed sources evict them.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, PerCpuArray},
    macros::btf_map,
};
use packetwatch_abi::{
    BAN_FILTER_WORDS, Ban, BanKeyV4, BanKeyV6, Policy, Prefix, Tally, ban_filter_bit, capacity,
};

use crate::{Ingress, packet::Packet};

/// Memory comes with the bans, not before: the daemon alone adds them, and it can wait.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static BANS_V4: HashMap<BanKeyV4, Ban, { capacity::BANS as usize }, ON_DEMAND> = HashMap::new();

#[btf_map]
static BANS_V6: HashMap<BanKeyV6, Ban, { capacity::BANS as usize }, ON_DEMAND> = HashMap::new();

/// A bit for each ban: a source whose bit is not set is not looked up. The daemon writes into it
/// without a system call.
#[btf_map]
static BAN_FILTER: Array<u64, { BAN_FILTER_WORDS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

#[btf_map]
static BAN_HITS: PerCpuArray<Tally, { capacity::BANS as usize }> = PerCpuArray::new();

pub enum Found {
    /// dropped until its deadline
    Banned,
    /// when the latest ban of this source ended; 0 if there is no trace of one
    EndedAt(u64),
}

/// Looks under each prefix length that bans may have: one for IPv4 by default.
#[inline(always)]
pub fn find(packet: &Packet, ingress: &Ingress) -> Found {
    let mut ended = 0;
    for len in &ingress.policy.ban_lengths[packet.source.row() & 1] {
        // SAFETY: of a live map value; read where it lies, since a copy of all costs as much as one
        let len = unsafe { ptr::from_ref(len).read_volatile() };
        if len == 0 {
            break;
        }
        let prefix = packet.source.truncated(len);
        if !may_be_banned(&prefix) {
            continue;
        }
        let Some(ban) = ban_of(&prefix) else {
            continue;
        };
        if ingress.now < ban.until {
            hit(ban.slot, packet.bytes);
            return Found::Banned;
        }
        if ban.until > ended {
            ended = ban.until;
        }
    }
    Found::EndedAt(ended)
}

#[inline(always)]
fn may_be_banned(prefix: &Prefix) -> bool {
    let bit = ban_filter_bit(prefix);
    BAN_FILTER
        .get(bit / 64)
        .is_some_and(|word| word >> (bit % 64) & 1 != 0)
}

#[inline(always)]
fn ban_of(prefix: &Prefix) -> Option<&'static Ban> {
    let Prefix { addr, len, .. } = *prefix;
    // One word each, before they meet: of an optional pointer, which is two, the compiler may read
    // what was never written, and kernels before 6.3 refuse that of the stack.
    // SAFETY: a live map value. The daemon alone writes, a deadline by one store.
    unsafe {
        if prefix.row() == 0 {
            BANS_V4.get(BanKeyV4 { addr: addr[0], len })
        } else {
            BANS_V6.get(BanKeyV6 { addr, len })
        }
    }
}

#[inline(always)]
fn hit(slot: u32, bytes: u64) {
    if let Some(tally) = BAN_HITS.get_ptr_mut(slot) {
        // SAFETY: this CPU's own value, and XDP is not interrupted by itself
        unsafe {
            (*tally).packets += 1;
            (*tally).bytes += bytes;
        }
    }
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
        let until = ban_of(&unit.truncated(len)).map_or(0, |ban| ban.until);
        if until <= now && until > ended {
            ended = until;
        }
    }
    ended
}
