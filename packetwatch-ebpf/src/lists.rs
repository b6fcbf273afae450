//! What the allow and the deny list say of a source.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE},
    btf_maps::{Array, ArrayOfMaps, PerCpuArray},
    macros::btf_map,
};
use packetwatch_abi::{Prefix, Standing, Tally, capacity, index};

/// Each list has an index of its own size, which the flag permits (kernel 5.10); the daemon writes
/// into it without a system call.
type Index = Array<index::Line, 1, { (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize }>;

/// One slot: a replaced list is a fresh index put there by one store, so no packet sees a mixture.
#[btf_map]
static LISTS: ArrayOfMaps<Index, 1> = ArrayOfMaps::new();

#[btf_map]
static LIST_HITS: PerCpuArray<Tally, { capacity::LISTS as usize }> = PerCpuArray::new();

/// The standing of `source`; the daemon has resolved all prefixes that cover it into one.
#[inline(always)]
pub fn standing(source: &Prefix) -> Standing {
    let standing = LISTS
        .get(0)
        .and_then(|lists| index::look_up(source, |line| lists.get(line)));
    standing.unwrap_or_default()
}

/// Counts a packet for the entry that decided on it.
#[inline(always)]
pub fn hit(slot: u32, bytes: u64) {
    if let Some(tally) = LIST_HITS.get_ptr_mut(slot) {
        // SAFETY: this CPU's own value, and XDP is not interrupted by itself
        unsafe {
            (*tally).packets += 1;
            (*tally).bytes += bytes;
        }
    }
}
