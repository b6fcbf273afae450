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
const TAG_MASK: u64 = u64::MAX >> COUNT_BITS;

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
        if self.is_of(epoch) { self.count() } else { 0 }
    }

    #[inline(always)]
    pub const fn is_of(self, epoch: u64) -> bool {
        (self.0 ^ (epoch << COUNT_BITS)) >> COUNT_BITS == 0
    }

    /// The count, whatever the epoch.
    #[inline(always)]
    pub const fn count(self) -> u64 {
        self.0 & COUNT_MASK
    }

    /// Epochs since that of the bucket. One that another CPU, whose clock is a tick ahead, has
    /// rolled over to the next epoch is of this one; nothing further ahead is, since that is what
    /// long ago looks like, and a bucket that was never written.
    #[inline(always)]
    pub const fn age(self, epoch: u64) -> u64 {
        const A_TICK_AHEAD: u64 = TAG_MASK;
        match epoch.wrapping_sub(self.0 >> COUNT_BITS) & TAG_MASK {
            A_TICK_AHEAD => 0,
            age => age,
        }
    }

    /// The count, halved with each epoch that has passed.
    #[inline(always)]
    pub const fn decayed(self, epoch: u64) -> u64 {
        let age = self.age(epoch);
        if age < COUNT_BITS as u64 {
            self.count() >> age
        } else {
            0
        }
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

/// What lies in the window at `epoch`: the sum over the buckets that belong to it. `bucket` reads
/// one of them by its place, below [`BUCKETS`].
#[inline(always)]
pub fn windowed(epoch: u64, bucket: impl Fn(usize) -> u64) -> u64 {
    Bucket(bucket(place(epoch))).count_in(epoch) + windowed_before(epoch, bucket)
}

/// The same without the bucket of `epoch` itself.
///
/// A bucket of the next epoch belongs to it too: another CPU, whose clock is a tick ahead, has
/// counted there already.
#[inline(always)]
pub fn windowed_before(epoch: u64, bucket: impl Fn(usize) -> u64) -> u64 {
    let mut sum = 0;
    for back in 1..BUCKETS as u64 {
        let of = epoch.wrapping_sub(back);
        sum += Bucket(bucket(place(of))).count_in(of);
    }
    let next = epoch.wrapping_add(1);
    sum + Bucket(bucket(place(next))).count_in(next)
}

/// Where in the window the bucket of an epoch is.
#[inline(always)]
pub const fn place(epoch: u64) -> usize {
    (epoch % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_its_eight_buckets_and_what_is_a_tick_ahead() {
        let mut buckets = [0; BUCKETS];
        for epoch in 93..=100 {
            buckets[place(epoch)] = Bucket::new(epoch, 1 << (epoch - 93)).0;
        }
        let at = |epoch, buckets: [u64; BUCKETS]| windowed(epoch, |place| buckets[place]);
        assert_eq!(at(100, buckets), 0xff);
        assert_eq!(at(101, buckets), 0xfe);
        assert_eq!(at(107, buckets), 0x80);
        assert_eq!(at(108, buckets), 0);
        buckets[place(101)] = Bucket::new(101, 1 << 20).0;
        assert_eq!(at(100, buckets), 0xfe | 1 << 20);
        assert_eq!(windowed_before(100, |place| buckets[place]), 0x7e | 1 << 20);
    }

    #[test]
    fn a_count_halves_with_each_epoch_and_never_grows() {
        let bucket = Bucket::new(7, 1000);
        assert_eq!(
            [7, 8, 9, 16].map(|epoch| bucket.decayed(epoch)),
            [1000, 500, 250, 1]
        );
        assert_eq!(bucket.decayed(7 + 64), 0);
        assert_eq!(bucket.decayed(6), 1000, "rolled over a tick ahead");
        assert_eq!(Bucket(0).decayed(5_000_000), 0);
        // Whatever the uptime: a bucket that was never written, and one of long ago.
        for epoch in [5, 1 << 23, (1 << 23) + 1, 3 << 22, (1 << 24) - 2, 5 << 23] {
            assert_ne!(Bucket(0).age(epoch), 0, "{epoch}");
            assert_eq!(
                Bucket::new(7, 1000).decayed(epoch + 7),
                1000 >> epoch.min(63)
            );
        }
        // Around the tag's end.
        let last = Bucket::new((1 << 24) - 1, 8);
        assert_eq!(last.decayed(1 << 24), 4);
    }
}
