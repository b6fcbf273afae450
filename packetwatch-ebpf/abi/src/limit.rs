//! A limit of so much a second: the generic cell rate algorithm, one word a source and rule.
//!
//! The word is when the source will have paid for what has passed. What passes puts it off by its
//! cost; what would put it further ahead of now than the burst allows does not pass and costs
//! nothing. So a source that sends too much gets its rate, and no CPU needs to know of another.

/// The word counts in sixteenths of a nanosecond: 36 years of uptime, and a byte at 100 Gbit/s costs
/// more than one.
const TIME_BITS: u32 = 4;

/// Costs of one are in 2^-16 ns, so that those of many are not the sum of their roundings.
const COST_BITS: u32 = 16;

/// What the clocks of two CPUs may differ by: two ticks of 10 ms.
const SKEW: u64 = 20_000_000 << TIME_BITS;

/// Most bytes of a packet: its cost at one a second fits the word.
const MAX_AMOUNT: u64 = 0xffff;

/// A rate and its burst, as the policy holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// of one, in 2^-16 ns
    pub cost: u64,
    /// how far ahead of now the word may be, in sixteenths of a nanosecond
    pub depth: u64,
}

impl Limit {
    /// `a_second` and `burst` are at least 1; `burst` is at most [`Limit::MAX_BURST`] seconds' worth.
    pub const fn new(a_second: u64, burst: u64) -> Self {
        const SECOND: u64 = 1_000_000_000 << COST_BITS;
        // Rounded up: rather a little less than the rate than more.
        let cost = SECOND.div_ceil(a_second);
        let depth = (cost as u128 * burst as u128) >> (COST_BITS - TIME_BITS);
        Self {
            cost,
            depth: depth as u64,
        }
    }

    /// Seconds.
    pub const MAX_BURST: u64 = 3600;

    /// What `amount` puts the word off by.
    #[inline(always)]
    pub const fn of(self, amount: u64) -> u64 {
        let amount = if amount > MAX_AMOUNT {
            MAX_AMOUNT
        } else {
            amount
        };
        (self.cost * amount) >> (COST_BITS - TIME_BITS)
    }

    /// How far ahead of `now` the word is, in sixteenths of a nanosecond; 0 when all is paid for.
    #[inline(always)]
    pub const fn debt(self, word: u64, now: u64) -> u64 {
        let now = now << TIME_BITS;
        // Nothing that passed puts it further ahead. A CPU that still worked by former rules may have
        // left something else there, which would hold the source off for years.
        let is_ahead = word > now && word - now <= self.depth + SKEW;
        if is_ahead { word - now } else { 0 }
    }

    /// The word after something of this cost has passed at `now`; `None` if it is not to pass.
    #[inline(always)]
    pub const fn after(self, word: u64, now: u64, cost: u64) -> Option<u64> {
        let debt = self.debt(word, now) + cost;
        if debt > self.depth {
            None
        } else {
            Some((now << TIME_BITS) + debt)
        }
    }

    /// How much may pass at once on top of this debt.
    pub const fn left(self, debt: u64) -> u64 {
        let Some(free) = self.depth.checked_sub(debt) else {
            return 0;
        };
        // The greatest whose cost, rounded down, is no more than that.
        ((((free as u128 + 1) << (COST_BITS - TIME_BITS)) - 1) / self.cost as u128) as u64
    }

    /// Nanoseconds until this debt is paid for.
    pub const fn paid_in(debt: u64) -> u64 {
        debt.div_ceil(1 << TIME_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// How many of `offered` evenly spaced a second pass in `seconds`, the clock in ticks of 4 ms.
    fn passed(limit: Limit, offered: u64, seconds: u64) -> u64 {
        const TICK: u64 = 4_000_000;
        let (mut word, mut passed) = (0, 0);
        for n in 0..offered * seconds {
            let now = 100 * SECOND + n * SECOND / offered;
            if let Some(after) = limit.after(word, now / TICK * TICK, limit.of(1)) {
                word = after;
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn the_rate_passes_and_no_more() {
        for (rate, burst) in [(1, 1), (10, 1), (10_000, 100), (1_000_000, 10_000)] {
            let seconds = if rate > 10_000 { 1 } else { 10 };
            let passed = passed(Limit::new(rate, burst), rate * 4, seconds);
            let (least, most) = (rate * seconds * 98 / 100, rate * seconds + burst);
            assert!((least..=most).contains(&passed), "{rate}: {passed}");
        }
    }

    #[test]
    fn what_conforms_passes() {
        for rate in [1, 100, 50_000] {
            let limit = Limit::new(rate, rate / 100 + 1);
            assert_eq!(passed(limit, rate, 3), rate * 3, "{rate}");
        }
    }

    #[test]
    fn a_burst_passes_at_once_and_not_one_more() {
        let limit = Limit::new(5, 3);
        let (mut word, now) = (0, 7 * SECOND);
        for _ in 0..3 {
            word = limit.after(word, now, limit.of(1)).unwrap();
        }
        assert_eq!(limit.after(word, now, limit.of(1)), None);
        assert!(
            limit
                .after(word, now + SECOND / 5 + 1, limit.of(1))
                .is_some()
        );
    }

    #[test]
    fn what_is_told_to_be_left_passes_and_not_one_more() {
        for (rate, burst) in [
            (1, 1),
            (7, 1000),
            (1_000_000, 65_535),
            ((1 << 39) - 1, 1 << 33),
        ] {
            let limit = Limit::new(rate, burst);
            assert!(limit.left(0) >= burst, "{rate}");
            assert_eq!(limit.left(limit.depth + SKEW), 0);
            let debt = limit.depth / 3;
            let left = limit.left(debt);
            let word = ((7 * SECOND) << TIME_BITS) + debt;
            assert_eq!(limit.debt(word, 7 * SECOND), debt);
            assert_eq!(limit.debt(word, 7 * SECOND + Limit::paid_in(debt)), 0);
            if left < MAX_AMOUNT {
                let cost = |amount| limit.of(amount);
                assert!(
                    limit.after(word, 7 * SECOND, cost(left)).is_some(),
                    "{rate}"
                );
                assert_eq!(
                    limit.after(word, 7 * SECOND, cost(left + 1)),
                    None,
                    "{rate}"
                );
            }
        }
    }

    #[test]
    fn a_word_that_no_packet_can_have_left_is_void() {
        let limit = Limit::new(5, 3);
        let now = 7 * SECOND;
        let first = limit.after(0, now, limit.of(1));
        for word in [u64::MAX, (now << TIME_BITS) + limit.depth + SKEW + 1] {
            assert_eq!(limit.after(word, now, limit.of(1)), first, "{word:#x}");
        }
        // What another CPU has paid a tick ahead counts.
        let full = (now << TIME_BITS) + limit.depth + SKEW;
        assert_eq!(limit.after(full, now, limit.of(1)), None);
    }

    #[test]
    fn the_greatest_packet_at_the_least_rate_fits() {
        let limit = Limit::new(1, 0xffff);
        let after = limit.after(0, SECOND, limit.of(u64::MAX)).unwrap();
        assert!(after >> TIME_BITS >= 0xffff * SECOND);
        assert_eq!(limit.after(after, SECOND, limit.of(1)), None);
    }
}
