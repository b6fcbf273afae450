//! Atomics for values that several CPUs write. The BPF target has no `AtomicU64::fetch_add`; the
//! intrinsics compile to `lock *(u64 *)` instructions (kernel 5.12).

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

/// Adds and returns the value before.
///
/// # Safety
/// `word` points to a live map value.
#[inline(always)]
pub unsafe fn add(word: *mut u64, amount: u64) -> u64 {
    // SAFETY: as the caller promises
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, amount) }
}

/// Stores `new` if the word is still `old`; tells whether it was.
///
/// # Safety
/// `word` points to a live map value.
#[inline(always)]
pub unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: as the caller promises
    unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new)
            .1
    }
}
