//! The two clocks: CLOCK_MONOTONIC, which the filter compares deadlines with, and UTC, which
//! people and the disk are told.

use std::{fs, sync::OnceLock};

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use packetwatch_abi::FOREVER;

/// Reads both clocks and converts between them at the present moment.
///
/// CLOCK_MONOTONIC stands still while the machine is suspended: suspend prolongs what runs. A step
/// of the wall clock changes no deadline that was converted before it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    #[cfg(test)]
    skew: Option<&'static skew::Skew>,
}

/// A deadline beside its UTC on disk: as long as the machine is up, it is good whatever the wall
/// clock is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// of the kernel's random id of this boot, one half
    boot: u64,
    /// CLOCK_MONOTONIC nanoseconds
    ns: u64,
}

impl Clock {
    pub fn new() -> Self {
        Self::default()
    }

    /// CLOCK_MONOTONIC in nanoseconds, as `bpf_ktime_get_coarse_ns` counts them.
    pub fn monotonic_ns(&self) -> u64 {
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the pointer is to a live timespec. The call fails for an unknown clock alone,
        // and Linux has had this one since 2.6.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        #[cfg(test)]
        let now = now.saturating_add_signed(self.skew.map_or(0, skew::Skew::monotonic_ns));
        now
    }

    pub fn utc(&self) -> OffsetDateTime {
        let now = OffsetDateTime::now_utc();
        #[cfg(test)]
        let now = now + Duration::nanoseconds(self.skew.map_or(0, skew::Skew::utc_ns));
        now
    }

    /// The CLOCK_MONOTONIC nanoseconds at which it will be `at`, as things stand now.
    ///
    /// What lies before the start of the clock is 0; what lies beyond its 584 years is
    /// [`FOREVER`].
    pub fn deadline(&self, at: OffsetDateTime) -> u64 {
        // In this order: a thread that is interrupted in between makes it early, and not late.
        let now = self.monotonic_ns();
        let ahead = (at - self.utc()).whole_nanoseconds();
        let deadline = i128::from(now) + ahead;
        u64::try_from(deadline.max(0)).unwrap_or(FOREVER)
    }

    /// What the disk keeps of a deadline besides its UTC; `None` for [`FOREVER`], and where the
    /// kernel's id of this boot cannot be read.
    pub fn mark(&self, monotonic_ns: u64) -> Option<Mark> {
        let boot = self.boot().filter(|_| monotonic_ns != FOREVER)?;
        Some(Mark {
            boot,
            ns: monotonic_ns,
        })
    }

    /// Whether a mark, if there is one, is of this boot.
    pub fn is_of_this_boot(&self, mark: Option<Mark>) -> bool {
        mark.is_some_and(|mark| Some(mark.boot) == self.boot())
    }

    /// The deadline of what the disk says was made at one time and ends at another.
    ///
    /// In the boot that it was marked in, the wall clock does not count. After a reboot it is all
    /// there is: if it was put back meanwhile, nothing lasts longer from now on than it was made to.
    pub fn restored(&self, made_at: OffsetDateTime, at: OffsetDateTime, mark: Option<Mark>) -> u64 {
        if let Some(mark) = mark
            && self.is_of_this_boot(Some(mark))
        {
            return mark.ns;
        }
        let whole = u64::try_from((at - made_at).whole_nanoseconds());
        // Made by another clock than the one that its end is of: how long it was to last is lost.
        let latest = whole.map_or(FOREVER, |whole| self.monotonic_ns().saturating_add(whole));
        self.deadline(at).min(latest)
    }

    fn boot(&self) -> Option<u64> {
        #[cfg(test)]
        if let Some(skew) = self.skew {
            return Some(skew.boot);
        }
        static BOOT: OnceLock<Option<u64>> = OnceLock::new();
        *BOOT.get_or_init(|| {
            let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
            let digits: String = id.trim().split('-').collect();
            u64::from_str_radix(digits.get(..16)?, 16).ok()
        })
    }

    /// Both clocks, read together.
    pub fn pair(&self) -> Pair {
        Pair {
            monotonic_ns: self.monotonic_ns(),
            utc: self.utc(),
        }
    }

    /// The UTC time of a deadline; `None` for [`FOREVER`] and for what is beyond the calendar.
    pub fn utc_of(&self, monotonic_ns: u64) -> Option<OffsetDateTime> {
        if monotonic_ns == FOREVER {
            return None;
        }
        let ahead = i128::from(monotonic_ns) - i128::from(self.monotonic_ns());
        let ahead = Duration::new(
            i64::try_from(ahead / 1_000_000_000).ok()?,
            (ahead % 1_000_000_000) as i32,
        );
        self.utc().checked_add(ahead)
    }
}

/// One moment on both clocks. Two times that one pair converts keep their order and distance,
/// whatever becomes of the wall clock between.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub monotonic_ns: u64,
    pub utc: OffsetDateTime,
}

impl Pair {
    /// The UTC time of what has happened; what has happened since is as of now.
    pub fn utc_of_past(&self, monotonic_ns: u64) -> OffsetDateTime {
        let ago = self.monotonic_ns.saturating_sub(monotonic_ns);
        self.utc - std::time::Duration::from_nanos(ago)
    }
}

#[cfg(test)]
pub(crate) mod skew {
    //! A clock that tests may put forward: time passes without waiting for it.

    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

    use super::Clock;

    #[derive(Debug)]
    pub(crate) struct Skew {
        pub(super) boot: u64,
        monotonic_ns: AtomicI64,
        utc_ns: AtomicI64,
    }

    impl Default for Skew {
        fn default() -> Self {
            static BOOTS: AtomicU64 = AtomicU64::new(0);
            Self {
                boot: BOOTS.fetch_add(1, Relaxed),
                monotonic_ns: AtomicI64::default(),
                utc_ns: AtomicI64::default(),
            }
        }
    }

    impl Skew {
        pub(super) fn monotonic_ns(&self) -> i64 {
            self.monotonic_ns.load(Relaxed)
        }

        pub(super) fn utc_ns(&self) -> i64 {
            self.utc_ns.load(Relaxed)
        }
    }

    impl Clock {
        /// A clock that the test alone moves beyond the real one.
        pub(crate) fn movable() -> Self {
            Self {
                skew: Some(Box::leak(Box::default())),
            }
        }

        pub(crate) fn advance(&self, by: std::time::Duration) {
            let ns = by.as_nanos() as i64;
            let skew = self.skew.expect("a movable clock");
            skew.monotonic_ns.fetch_add(ns, Relaxed);
            skew.utc_ns.fetch_add(ns, Relaxed);
        }

        /// Somebody sets the wall clock.
        pub(crate) fn step(&self, by: time::Duration) {
            let skew = self.skew.expect("a movable clock");
            skew.utc_ns
                .fetch_add(by.whole_nanoseconds() as i64, Relaxed);
        }

        /// As a reboot would: the same UTC, another CLOCK_MONOTONIC.
        pub(crate) fn restarted(&self, monotonic_ns: i64) -> Self {
            let clock = Self::movable();
            let (old, new) = (self.skew.expect("a movable clock"), clock.skew.unwrap());
            new.utc_ns.store(old.utc_ns(), Relaxed);
            new.monotonic_ns.store(monotonic_ns, Relaxed);
            clock
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE_NS: u64 = 1_000_000_000;

    #[test]
    fn a_deadline_converts_there_and_back() {
        let clock = Clock::new();
        let at = clock.utc() + Duration::minutes(10);
        let deadline = clock.deadline(at);
        assert!(deadline.abs_diff(clock.monotonic_ns() + 600_000_000_000) < TOLERANCE_NS);
        let back = clock.utc_of(deadline).unwrap();
        assert!((back - at).abs() < Duration::seconds(1));
        let past = clock.utc_of(clock.monotonic_ns() - 1_500_000_000).unwrap();
        assert!((clock.utc() - past - Duration::milliseconds(1500)).abs() < Duration::seconds(1));
    }

    #[test]
    fn a_mark_counts_in_its_boot_and_a_length_afterwards() {
        const YEAR: Duration = Duration::days(365);
        for step in [Duration::ZERO, YEAR, -YEAR] {
            let clock = Clock::movable();
            let (now, made_at) = (clock.monotonic_ns(), clock.utc());
            let (until, at) = (now + 600_000_000_000, made_at + Duration::minutes(10));
            let mark = clock.mark(until);
            clock.step(step);
            assert_eq!(clock.restored(made_at, at, mark), until, "{step}");
            let rebooted = clock.restarted(0);
            let left = |made_at, mark| {
                let until = rebooted.restored(made_at, at, mark);
                until.saturating_sub(rebooted.monotonic_ns()) / 1_000_000_000
            };
            let expected = if step.is_positive() { 0..=0 } else { 599..=600 };
            for mark in [mark, None] {
                assert!(expected.contains(&left(made_at, mark)), "{step}");
            }
            // Its length is not known: its end is believed.
            let apart = (at - rebooted.utc()).whole_seconds().max(0) as u64;
            assert!(left(at + YEAR, mark).abs_diff(apart) <= 1, "{step}");
        }
        assert_eq!(Clock::new().mark(FOREVER), None);
        assert!(Clock::new().is_of_this_boot(Clock::new().mark(1)));
        assert!(!Clock::new().is_of_this_boot(None));
    }

    #[test]
    fn conversions_saturate() {
        let clock = Clock::new();
        assert_eq!(clock.deadline(OffsetDateTime::UNIX_EPOCH), 0);
        let far = time::macros::datetime!(9999-12-31 0:00 UTC);
        assert_eq!(clock.deadline(far), FOREVER);
        assert_eq!(clock.utc_of(FOREVER), None);
        assert!(clock.utc_of(FOREVER - 1).is_some());
    }

    #[test]
    fn what_one_pair_converts_keeps_its_order() {
        let clock = Clock::movable();
        let (first, later) = (
            clock.monotonic_ns() - 2_000_000_000,
            clock.monotonic_ns() - 1,
        );
        let pair = clock.pair();
        assert!(pair.utc_of_past(first) < pair.utc_of_past(later));
        let apart = pair.utc_of_past(later) - pair.utc_of_past(first);
        assert_eq!(apart, Duration::nanoseconds((later - first) as i64));
        assert!(
            (pair.utc - pair.utc_of_past(first) - Duration::seconds(2)).abs() < Duration::SECOND
        );
        // The pair is of one moment, though the clocks go on.
        let before = pair.utc_of_past(first);
        clock.advance(std::time::Duration::from_secs(3600));
        assert_eq!(pair.utc_of_past(first), before);
        assert_eq!(
            pair.utc_of_past(clock.monotonic_ns()),
            pair.utc,
            "nothing is in the future"
        );
    }

    #[test]
    fn a_moved_clock_moves_both_ways_of_telling_time() {
        let clock = Clock::movable();
        let (ns, utc) = (clock.monotonic_ns(), clock.utc());
        clock.advance(std::time::Duration::from_secs(3600));
        assert!((clock.monotonic_ns() - ns).abs_diff(3600 * 1_000_000_000) < TOLERANCE_NS);
        assert!((clock.utc() - utc - Duration::hours(1)).abs() < Duration::seconds(1));
    }
}
