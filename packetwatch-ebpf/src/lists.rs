//! What the allow and the deny list say of a source.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE},
    btf_maps::{Array, ArrayOfMaps, PerCpuArray},
    macros::btf_map,
};
use packetwatch_abi::{Prefix, Standing, Tally, capacity, index};

const FRONTS: usize = (index::HALVES * index::FRONT) as usize;

/// Slots and filter of both halves of the [`index`]. The daemon writes into it without a system call.
#[btf_map]
static LIST_FRONTS: Array<u64, FRONTS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The half in force: one store replaces all lists, so no packet sees a mixture.
#[btf_map]
static LISTS_ACTIVE: Array<u32, 1> = Array::new();

/// Each index has its own size, which the flag permits (kernel 5.10).
type Lines = Array<index::Line, 1, { (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize }>;

/// The lines of each half.
#[btf_map]
static LISTS: ArrayOfMaps<Lines, { index::HALVES as usize }> = ArrayOfMaps::new();

#[btf_map]
static LIST_HITS: PerCpuArray<Tally, { capacity::LISTS as usize }> = PerCpuArray::new();

/// The standing of `source`; the daemon has resolved all prefixes that cover it into one.
#[inline(always)]
pub fn standing(source: &Prefix) -> Standing {
    listed(source).unwrap_or_default()
}

#[inline(always)]
fn listed(source: &Prefix) -> Option<Standing> {
    let half = *LISTS_ACTIVE.get(0)?;
    let front = |word: u32| {
        let word = LIST_FRONTS.get_ptr(half * index::FRONT + word)?;
        // SAFETY: a live map value, which the daemon writes by whole words
        Some(unsafe { word.read_volatile() })
    };
    let slot = index::Slot(front(index::slot_of(source))?);
    if !index::may_be_listed(source, slot, |word| front(index::SLOTS + word)) {
        return None;
    }
    let lines = LISTS.get(half)?;
    index::look_up(source, slot, |line| lines.get(line))
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
