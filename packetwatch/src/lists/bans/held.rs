//! One ban.

use std::time::Duration;

use crate::lists::entry::BanEntry;

/// A ban that the kernel knows of. A spent one has ended, but windows reach back beyond its end.
#[derive(Debug)]
pub(in crate::lists) struct Held {
    pub(in crate::lists) entry: BanEntry,
    /// CLOCK_MONOTONIC nanoseconds
    pub(in crate::lists) until: u64,
    pub(super) within: Duration,
    pub(super) spent: bool,
}

impl Held {
    /// `until`: CLOCK_MONOTONIC nanoseconds; `within`: how long the kernel knows of it after that.
    pub(in crate::lists) fn new(
        entry: BanEntry,
        until: u64,
        within: Duration,
        spent: bool,
    ) -> Self {
        Self {
            entry,
            until,
            within,
            spent,
        }
    }

    pub(in crate::lists) fn is_live(&self, now: u64) -> bool {
        !self.spent && now < self.until
    }

    pub(in crate::lists) fn within(&self) -> Duration {
        self.within
    }
}
