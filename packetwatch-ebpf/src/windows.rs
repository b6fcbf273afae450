//! Sliding windows of a caller; `packetwatch_abi::Bucket` says how they are laid out.

use packetwatch_abi::{BUCKETS, Bucket, Fault, place, windowed, windowed_before};

use crate::{atomic, exit::fault};

/// What lies in the window now.
///
/// # Safety
/// `window` points into a live map value.
#[inline(always)]
pub unsafe fn sum(window: *const [u64; BUCKETS], epoch: u64) -> u64 {
    // SAFETY: a place is below BUCKETS
    windowed(epoch, |place| unsafe { (*window)[place] })
}

/// Adds to the bucket of `epoch`; tells what lay in the window before, in an order that all CPUs
/// agree on: of two that add at once, one is told of the other.
///
/// Within an epoch the addition itself gives the order. Where two CPUs stand on either side of an
/// epoch's end, each reads the other's bucket after it has written its own, so that at least one
/// sees both. `u64::MAX` if it could not add, which has been counted as a fault.
///
/// # Safety
/// `window` points into a live map value.
#[inline(always)]
pub unsafe fn add(window: *mut [u64; BUCKETS], epoch: u64, amount: u64) -> u64 {
    // SAFETY: a place is below BUCKETS; the word is shared by all CPUs
    unsafe {
        let word = &raw mut (*window)[place(epoch)];
        // A bucket of an older epoch is rolled over by whoever comes first; the others then find
        // it current. Two tries see both cases; a third would mean that the epoch has passed.
        for _ in 0..2 {
            let seen = word.read_volatile();
            let before = if Bucket(seen).is_of(epoch) {
                Bucket(atomic::fetch_add(word, amount)).count_in(epoch)
            } else if atomic::replace(word, seen, Bucket::new(epoch, amount).0) {
                0
            } else {
                continue;
            };
            return before + windowed_before(epoch, |place| (*window)[place]);
        }
    }
    fault(Fault::Contended);
    u64::MAX
}

/// Takes back what [`add`] added.
///
/// # Safety
/// `window` points into a live map value.
#[inline(always)]
pub unsafe fn take_back(window: *mut [u64; BUCKETS], epoch: u64, amount: u64) {
    // SAFETY: a place is below BUCKETS; the word is shared by all CPUs
    unsafe {
        let word = &raw mut (*window)[place(epoch)];
        // A bucket that has been rolled over since holds it no more.
        if Bucket(word.read_volatile()).count_in(epoch) >= amount {
            atomic::add(word, amount.wrapping_neg());
        }
    }
}
