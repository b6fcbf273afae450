//! When the group commit writes. Pure, so that what it promises is tested without waiting.

use std::time::{Duration, Instant};

/// How long rows are gathered before they are written.
///
/// A row waits so long, or for the transaction under way when it came, and then for its own: if
/// none takes longer than this, it is on disk within twice this.
pub(super) const GATHER: Duration = Duration::from_millis(25);

/// The pause after a failed write.
pub(super) const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// when to write, if there is anything
    due: Option<Instant>,
}

impl Schedule {
    /// A row has come. The first one sets the time for those that come after it.
    pub(super) fn unwritten(&mut self, now: Instant) {
        self.due.get_or_insert(now + GATHER);
    }

    /// How long until rows are to be written; `None` while there are none.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// The rows are taken; those that come from here on are for the next transaction.
    pub(super) fn begin(&mut self) {
        self.due = None;
    }

    /// The transaction failed; its rows and all others wait.
    pub(super) fn failed(&mut self, now: Instant) {
        self.due = Some(now + RETRY);
    }
}

#[cfg(test)]
mod tests {
    use std::iter::Peekable;

    use proptest::prelude::*;

    use super::*;

    /// A run of the thread over rows that come when `arrivals` say.
    struct Run<I: Iterator<Item = Instant>> {
        schedule: Schedule,
        arrivals: Peekable<I>,
        waiting: Vec<Instant>,
        now: Instant,
    }

    impl<I: Iterator<Item = Instant>> Run<I> {
        fn new(now: Instant, arrivals: I) -> Self {
            Self {
                schedule: Schedule::default(),
                arrivals: arrivals.peekable(),
                waiting: Vec::new(),
                now,
            }
        }

        /// The rows of the next transaction, which begins `now`; `None` when all are written.
        fn next_write(&mut self) -> Option<Vec<Instant>> {
            loop {
                let now = self.now;
                while let Some(row) = self.arrivals.next_if(|row| *row <= now) {
                    self.schedule.unwritten(row);
                    self.waiting.push(row);
                }
                let next_row = self.arrivals.peek().copied();
                match self.schedule.wait(now) {
                    Some(Duration::ZERO) => {
                        self.schedule.begin();
                        return Some(std::mem::take(&mut self.waiting));
                    }
                    Some(left) => {
                        self.now = next_row.map_or(now + left, |row| row.min(now + left));
                    }
                    None => self.now = next_row?,
                }
            }
        }
    }

    fn any_arrivals(start: Instant) -> impl Strategy<Value = Vec<Instant>> {
        let gap = prop_oneof![0..100u64, 0..30_000u64, 0..200_000u64];
        prop::collection::vec(gap, 1..200).prop_map(move |gaps| {
            let mut at = start;
            let arrival = |gap| {
                at += Duration::from_micros(gap);
                at
            };
            gaps.into_iter().map(arrival).collect()
        })
    }

    proptest! {
        #[test]
        fn every_row_is_on_disk_within_50_ms_of_a_disk_that_syncs_in_25(
            (start, arrivals) in Just(Instant::now()).prop_flat_map(|start| (Just(start), any_arrivals(start))),
            syncs in prop::collection::vec(0..=25_000u64, 200),
        ) {
            let rows = arrivals.len();
            let mut run = Run::new(start, arrivals.into_iter());
            let mut syncs = syncs.into_iter().map(Duration::from_micros);
            let (mut written, mut last_begin) = (0, None);
            while let Some(batch) = run.next_write() {
                // A group commit: never more than 40 transactions a second.
                prop_assert!(last_begin.is_none_or(|last| run.now >= last + GATHER));
                last_begin = Some(run.now);
                run.now += syncs.next().unwrap();
                for row in &batch {
                    prop_assert!(run.now - *row <= Duration::from_millis(50));
                }
                written += batch.len();
            }
            prop_assert_eq!(written, rows);
        }
    }

    #[test]
    fn a_failed_write_is_tried_again_after_a_second_whatever_comes() {
        let mut schedule = Schedule::default();
        let start = Instant::now();
        schedule.unwritten(start);
        schedule.begin();
        schedule.unwritten(start);
        schedule.failed(start);
        schedule.unwritten(start + RETRY / 2);
        assert_eq!(schedule.wait(start + RETRY / 2), Some(RETRY / 2));
        assert_eq!(schedule.wait(start + RETRY * 2), Some(Duration::ZERO));
        schedule.begin();
        assert_eq!(schedule.wait(start), None);
    }
}
