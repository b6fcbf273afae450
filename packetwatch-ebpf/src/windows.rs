//! Sliding windows of a caller; `packetwatch_abi::Bucket` says how they are laid out.

use packetwatch_abi::{BUCKETS, Bucket, Fault, epoch};

use crate::{atomic, exit::fault};

/// What lies in the window now.
///
/// # Safety
/// `window` points into a live map value.
#[inline(always)]
pub unsafe fn sum(window: *const [u64; BUCKETS], bucket_ns: u64, now: u64) -> u64 {
    let epoch = epoch(now, bucket_ns);
    let mut sum = 0;
    for back in 0..BUCKETS as u64 {
        let of = epoch.wrapping_sub(back);
        // SAFETY: the index is below BUCKETS
        let bucket = unsafe { Bucket((*window)[(of % BUCKETS as u64) as usize]) };
        sum += bucket.count_in(of);
    }
    sum
}

/// Adds to the current bucket.
///
/// # Safety
/// `window` points into a live map value.
#[inline(always)]
pub unsafe fn add(window: *mut [u64; BUCKETS], bucket_ns: u64, now: u64, amount: u64) {
    let epoch = epoch(now, bucket_ns);
    // SAFETY: the index is below BUCKETS; the word is shared by all CPUs
    unsafe {
        let word = &raw mut (*window)[(epoch % BUCKETS as u64) as usize];
        // A bucket of an older epoch is rolled over by whoever comes first; the others then find
        // it current. Two tries see both cases; a third would mean that the epoch has passed.
        for _ in 0..2 {
            let seen = *word;
            if Bucket(seen).is_of(epoch) {
                atomic::add(word, amount);
                return;
            }
            if atomic::replace(word, seen, Bucket::new(epoch, amount).0) {
                return;
            }
        }
    }
    fault(Fault::Contended);
}
