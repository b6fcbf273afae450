//! Bans that could not be set, and writes that found the lists full: a line a second each, however
//! many there are.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct Refusals(Arc<Counts>);

#[derive(Default)]
struct Counts {
    /// of the last line
    second: AtomicU64,
    since: AtomicU64,
}

impl Refusals {
    /// Counts one at `now` (nanoseconds). `Some` once a second: how many since the last line.
    pub fn note(&self, now: u64) -> Option<u64> {
        let second = now / 1_000_000_000;
        self.0.since.fetch_add(1, Relaxed);
        if self.0.second.swap(second, Relaxed) == second {
            return None;
        }
        Some(self.0.since.swap(0, Relaxed))
    }

    /// Whether one was within half a minute before `now`, in which whoever is still to be banned has
    /// been tried again.
    pub(super) fn are_recent(&self, now: u64) -> bool {
        const RECENT: u64 = 30;
        let second = now / 1_000_000_000;
        let last = self.0.second.load(Relaxed);
        last > 0 && second.saturating_sub(last) <= RECENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_second_tells_of_all() {
        let refusals = Refusals::default();
        assert_eq!(refusals.note(5_000_000_000), Some(1));
        assert_eq!(refusals.note(5_100_000_000), None);
        assert_eq!(refusals.note(5_999_999_999), None);
        assert_eq!(refusals.note(6_000_000_000), Some(3));
        assert!(refusals.are_recent(36_999_999_999));
        assert!(!refusals.are_recent(37_000_000_000));
        assert!(!Refusals::default().are_recent(1_000_000_000));
    }
}
