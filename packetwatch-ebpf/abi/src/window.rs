//! Sliding windows in eight buckets.
//!
//! A window of T is eight buckets of T/8, each tagged with the number of its eighth (its epoch).
//! The sum of the current bucket and the seven before it covers between 7/8 T and T: never more
//! than T, so no offence without N in some interval of T; and always the last 7/8 T.
//!
//! Tag and count share one word, so that a bucket is rolled over by one compare-and-swap and no
//! reader ever sees the count of one epoch under the tag of another.

/// Buckets in a window.
pub const BUCKETS: usize = 8;

const COUNT_BITS: u32 = 40;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// One bucket: the low 24 bits of its epoch above 40 bits of count (a tebibyte).
///
/// A tag comes round after 2^24 epochs, 24 days for the shortest window. A bucket never lives to
/// see it: each packet of the source that finds a bucket of another epoch voids it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket(pub u64);

impl Bucket {
    #[inline(always)]
    pub const fn new(epoch: u64, count: u64) -> Self {
        Self((epoch << COUNT_BITS) | (count & COUNT_MASK))
    }

    /// The count if the bucket is of this epoch, else 0.
    #[inline(always)]
    pub const fn count_in(self, epoch: u64) -> u64 {
        if self.is_of(epoch) {
            self.0 & COUNT_MASK
        } else {
            0
        }
    }

    #[inline(always)]
    pub const fn is_of(self, epoch: u64) -> bool {
        (self.0 ^ (epoch << COUNT_BITS)) >> COUNT_BITS == 0
    }
}

/// The number of the eighth that `now` falls into. Its bucket is `epoch % BUCKETS`.
#[inline(always)]
pub const fn epoch(now: u64, bucket_ns: u64) -> u64 {
    // The divisor is never 0 in a policy; the program may not panic either way.
    match now.checked_div(bucket_ns) {
        Some(epoch) => epoch,
        None => 0,
    }
}

/// What lies in the window at `epoch`: the sum over the buckets that still belong to it.
pub fn windowed(buckets: &[u64; BUCKETS], epoch: u64) -> u64 {
    (0..BUCKETS as u64)
        .filter_map(|back| Some((epoch.checked_sub(back)?, buckets)))
        .map(|(e, buckets)| Bucket(buckets[(e % BUCKETS as u64) as usize]).count_in(e))
        .sum()
}
