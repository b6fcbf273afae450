//! How much those come who have no entry of their own; `packetwatch_abi::SketchKeys` says how.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use packetwatch_abi::{Bucket, Prefix, SKETCH_CELLS, SKETCH_EPOCH_SHIFT, SKETCH_ROWS, SketchKeys};

use crate::atomic;

/// One for all CPUs: a source that comes over several is one source.
#[btf_map]
static SKETCH: Array<u64, { SKETCH_ROWS * SKETCH_CELLS }> = Array::new();

#[btf_map]
static SKETCH_KEYS: Array<SketchKeys, 1> = Array::new();

const _: () = assert!(SKETCH_ROWS == 3, "`count` goes through them by hand");

struct Cell {
    word: *mut u64,
    seen: u64,
    /// of `seen`, now
    count: u64,
}

/// Counts a packet of `unit`; returns its estimate, this one included.
///
/// Where CPUs meet in a cell a packet may be counted once instead of twice: the estimate is a
/// number to choose by, and what a rule goes by is exact.
///
/// A global function in the sense of BPF, verified once.
///
/// # Safety
/// `unit` is null or points to a prefix.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn sketch_count(unit: *const Prefix, now: u64) -> u64 {
    // SAFETY: as the caller promises
    let Some(unit) = (unsafe { unit.as_ref() }) else {
        return 0;
    };
    let epoch = now >> SKETCH_EPOCH_SHIFT;
    // One after the other, each with a way out of its own: from one way out for all three LLVM reads
    // registers that were not written, which verifiers refuse that do not know (before 6.15) that a
    // look-up in an array by a constant finds something.
    let Some(a) = cell(0, unit, epoch) else {
        return 0;
    };
    let Some(b) = cell(1, unit, epoch) else {
        return 0;
    };
    let Some(c) = cell(2, unit, epoch) else {
        return 0;
    };
    let least = a.count.min(b.count).min(c.count);
    // Only cells that would otherwise tell too little: what stands higher is others' doing.
    for cell in [a, b, c] {
        if cell.count == least {
            raise(&cell, epoch);
        }
    }
    least + 1
}

#[inline(always)]
fn cell(row: usize, unit: &Prefix, epoch: u64) -> Option<Cell> {
    let word = SKETCH.get_ptr_mut(SKETCH_KEYS.get(0)?.cell(row, unit))?;
    // SAFETY: a live map value
    let seen = unsafe { word.read_volatile() };
    let count = Bucket(seen).decayed(epoch);
    Some(Cell { word, seen, count })
}

#[inline(always)]
fn raise(cell: &Cell, epoch: u64) {
    // SAFETY: a live map value, shared by all CPUs
    unsafe {
        if Bucket(cell.seen).age(epoch) == 0 {
            atomic::add(cell.word, 1);
        } else {
            // Who fails has been overtaken by another CPU, which has raised it.
            atomic::replace(cell.word, cell.seen, Bucket::new(epoch, cell.count + 1).0);
        }
    }
}
