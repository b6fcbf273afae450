//! Atomics for values that several CPUs write. The BPF target has no `AtomicU64::fetch_add`. What
//! stands here compiles to `lock *(u64 *)` instructions (kernel 5.12), which order all memory before
//! and after them.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd},
};

/// Adds.
///
/// # Safety
/// `word` points to a live map value.
#[inline(always)]
pub unsafe fn add(word: *mut u64, amount: u64) {
    // SAFETY: as the caller promises
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, amount) };
}

/// Adds and returns the value before.
///
/// # Safety
/// `word` points to a live map value.
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, mut amount: u64) -> u64 {
    // The intrinsic would need a target CPU of v3, which is nothing that a crate can ask for.
    // SAFETY: as the caller promises; one instruction on two registers and that word
    unsafe {
        asm!(
            "{amount} = atomic_fetch_add((u64 *)({word} + 0), {amount})",
            amount = inout(reg) amount,
            word = in(reg) word,
            options(nostack),
        );
    }
    amount
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
