//! Once a second: do the kernel's maps hold what the lists and the rules say?
//!
//! Nobody else has any business in them, so a difference is mended, counted and told. Two reads
//! compare the policy. The lists are summed up where the kernel reads them, which takes
//! milliseconds for a million prefixes, and compared whole if a sum has changed. Bans are compared
//! whole, since the kernel does not count entries: a batch read tells it all, and costs about as
//! much as counting would. To stay below half a percent of a core, a comparison that took long is
//! repeated later: after 200 times as long as it took, ten seconds at most for bans. With 10 000
//! of them it takes 2 ms and comes every second; with 60 000 every few seconds.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::RulesControl;
use crate::{
    dataplane,
    lists::{Differences, Lists},
    log::EVENT,
    metrics::Counters,
};

const EVERY: Duration = Duration::from_secs(1);
const AT_LATEST: Duration = Duration::from_secs(10);
/// Of the lists, whose sums are looked at every second.
const LISTS_AT_LATEST: Duration = Duration::from_secs(300);
/// Time between two comparisons, in times of what one takes.
const REST: u32 = 200;

#[derive(Clone)]
pub(super) struct Reconciler {
    pub(super) lists: Lists,
    pub(super) rules: Arc<RulesControl>,
    pub(super) counters: Counters,
}

/// When each comparison is due.
#[derive(Clone, Copy)]
struct Due {
    lists: Instant,
    bans: Instant,
}

impl Reconciler {
    /// Compares and mends until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        let mut due = Due {
            lists: now,
            bans: now,
        };
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let reconciler = self.clone();
            let round = spawn_blocking(move || reconciler.round(due));
            due = round.await.map_err(std::io::Error::other)?;
        }
    }

    fn round(&self, mut due: Due) -> Due {
        match self.rules.reconcile() {
            Ok(false) => {}
            Ok(true) => self.tell(
                "policy",
                &Differences {
                    changed: 1,
                    ..Differences::default()
                },
            ),
            Err(error) => self.unable("policy", &error.to_string()),
        }
        if !self.lists.are_as_written() {
            due.lists = Instant::now();
        }
        self.compare(
            "lists",
            &mut due.lists,
            LISTS_AT_LATEST,
            Lists::reconcile_entries,
        );
        self.compare("bans", &mut due.bans, AT_LATEST, Lists::reconcile_bans);
        due
    }

    fn compare(
        &self,
        map: &'static str,
        due: &mut Instant,
        at_latest: Duration,
        reconcile: fn(&Lists) -> Result<Differences, dataplane::Error>,
    ) {
        let started = Instant::now();
        if started < *due {
            return;
        }
        let next = match reconcile(&self.lists) {
            Ok(differences) if differences.is_empty() => rest(started.elapsed(), at_latest),
            // What took long was the mending, and whoever was at it may be so again.
            Ok(differences) => {
                self.tell(map, &differences);
                rest(Duration::ZERO, at_latest)
            }
            Err(error) => {
                self.unable(map, &error.to_string());
                rest(Duration::ZERO, at_latest)
            }
        };
        *due = started + next;
    }

    fn tell(&self, map: &'static str, differences: &Differences) {
        let Differences {
            missing,
            changed,
            foreign,
            example,
        } = *differences;
        let kinds = [
            ("missing", missing),
            ("changed", changed),
            ("foreign", foreign),
        ];
        for (kind, entries) in kinds.into_iter().filter(|(_, entries)| *entries > 0) {
            self.counters.map_differences(map, kind, entries);
        }
        let such_as = |prefix: IpNet| format!(", {prefix} for one");
        tracing::warn!(
            target: EVENT,
            {
                event.action = "reconciled",
                packetwatch.map = map,
                packetwatch.missing = missing,
                packetwatch.changed = changed,
                packetwatch.foreign = foreign,
                packetwatch.prefix = example.map(tracing::field::display),
            },
            "somebody else had changed the {map} in the kernel, which are mended: {missing} missing, \
             {changed} changed, {foreign} foreign{}",
            example.map(such_as).unwrap_or_default()
        );
    }

    fn unable(&self, map: &'static str, error: &str) {
        self.counters.map_error(map, "reconcile");
        tracing::error!(
            error.message = error,
            "the {map} in the kernel cannot be compared or mended; tried again in a second"
        );
    }
}

/// From the beginning of a comparison to that of the next. A little less than a second is a second:
/// ticks are not that exact.
fn rest(took: Duration, at_latest: Duration) -> Duration {
    let rest = took.saturating_mul(REST).min(at_latest);
    if rest <= EVERY { EVERY / 2 } else { rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_comparison_is_seldom_and_a_short_one_is_every_second() {
        let ms = Duration::from_millis;
        let rest = |took| rest(took, AT_LATEST);
        assert_eq!(rest(Duration::ZERO), EVERY / 2);
        assert_eq!(rest(ms(5)), EVERY / 2);
        assert_eq!(rest(ms(20)), ms(4000));
        assert_eq!(rest(Duration::MAX), AT_LATEST);
    }
}
