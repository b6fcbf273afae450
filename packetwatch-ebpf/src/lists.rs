//! What the allow and the deny list say of a source.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{ArrayOfMaps, LpmTrie, PerCpuArray, lpm_trie::Key},
    macros::btf_map,
};
use packetwatch_abi::{Prefix, Standing, Tally, capacity};

type Trie = LpmTrie<Prefix, Standing, { capacity::LISTS as usize }, { BPF_F_NO_PREALLOC as usize }>;

/// One slot: a replaced list is a fresh trie put there by one store, so no packet sees a mixture.
#[btf_map]
static LISTS: ArrayOfMaps<Trie, 1> = ArrayOfMaps::new();

#[btf_map]
static LIST_HITS: PerCpuArray<Tally, { capacity::LISTS as usize }> = PerCpuArray::new();

/// The standing of the longest prefix that covers `source`; the daemon has resolved the others
/// into it.
#[inline(always)]
pub fn standing(source: &Prefix) -> Standing {
    let data = Prefix { len: 0, ..*source };
    let key = Key::new(Prefix::FAMILY_BITS + source.full_len(), data);
    // SAFETY: the trie frees a node after a grace period, and the value is copied here.
    match LISTS.get(0).and_then(|trie| trie.get(&key)) {
        Some(standing) => *standing,
        None => Standing::default(),
    }
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
