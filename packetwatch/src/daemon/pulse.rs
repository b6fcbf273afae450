//! Whether the rule loop still goes round.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

/// How often the loop beats when nothing else wakes it.
const EVERY: Duration = Duration::from_secs(1);

/// Beaten by one task, felt by others. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pulse {
    start: Instant,
    /// of the last beat, milliseconds since the start
    last: Arc<AtomicU64>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            last: Arc::default(),
        }
    }

    /// Beats once a second for as long as it is polled: beside the work, in the same task, so that it
    /// stops when the work holds the task up.
    pub(super) async fn beat(&self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = self.start.elapsed().as_millis();
            let now = u64::try_from(now).unwrap_or(u64::MAX);
            self.last.store(now, Ordering::Relaxed);
        }
    }

    /// How long ago the last beat was.
    pub(super) fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ages_unless_it_is_polled() {
        let mut pulse = Pulse::new();
        pulse.start -= Duration::from_secs(60);
        assert!(pulse.age() >= Duration::from_secs(60));
        let beating = tokio::time::timeout(Duration::ZERO, pulse.beat());
        assert!(beating.await.is_err());
        assert!(pulse.age() < Duration::from_secs(60));
    }
}
