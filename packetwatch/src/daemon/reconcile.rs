//! Once a second: do the kernel's maps hold what the lists and the rules say?
//!
//! Nobody else has any business in them, so a difference is mended, counted and told. Two reads
//! compare the policy, one each what admits sources and the keys of the sketch. Lists and bans are
//! looked at in a cheap way, whether the kernel still holds what was written: the lists are summed up
//! where the kernel reads them, which takes milliseconds for a million prefixes; the bans are read in
//! batches, each entry beside its slot. That is mostly the kernel's way through cold memory: nothing to
//! speak of for few bans, 20 to 30 ms a second, 3 % of a core at worst, for 65 536. What is not as written is compared whole with the lists at once; that
//! it is not is told before, since a million prefixes take seconds to compare and to mend.
//! Without a cause that is done too, but seldom, since it takes longer: after 200 times as long as it
//! took, so that it stays below half a percent of a core, and 300 seconds at most.

use std::{
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{Readiness, RulesControl, readiness::Lack};
use crate::{
    dataplane::{self, Dataplane},
    lists::{Differences, Lists},
    log::EVENT,
    metrics::Counters,
};

const EVERY: Duration = Duration::from_secs(1);
/// Between two whole comparisons of what is as it was written.
const AT_LATEST: Duration = Duration::from_secs(300);
/// The same, in times of what one takes.
const REST: u32 = 200;

#[derive(Clone)]
pub(super) struct Reconciler {
    pub(super) lists: Lists,
    pub(super) dataplane: Dataplane,
    pub(super) rules: Arc<RulesControl>,
    pub(super) counters: Counters,
    pub(super) readiness: Readiness,
}

/// When each whole comparison is due.
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
        self.single("policy", self.rules.reconcile());
        self.single("admission", self.dataplane.mend_admission());
        self.single("sketch_keys", self.dataplane.mend_sketch_keys());
        let as_written = self.lists.entries_are_as_written();
        if !as_written {
            tracing::warn!(
                target: EVENT,
                { event.action = "difference-found", packetwatch.map = "lists" },
                "the lists in the kernel are not as they were written: somebody else has changed them; \
                 they are compared and mended now"
            );
        }
        if is_due(due.lists, as_written) {
            due.lists = self.compare("lists", Lists::reconcile_entries);
        }
        if is_due(due.bans, self.lists.bans_are_as_written()) {
            due.bans = self.compare("bans", Lists::reconcile_bans);
        }
        due
    }

    /// What is one thing, and has been mended if it differed.
    fn single(&self, map: &'static str, mended: Result<bool, impl Display>) {
        match mended {
            Ok(differed) => self.able(
                map,
                &Differences {
                    changed: differed.into(),
                    ..Differences::default()
                },
            ),
            Err(error) => self.unable(map, &error.to_string()),
        }
    }

    /// Compares and mends; returns when to do so again.
    fn compare(
        &self,
        map: &'static str,
        reconcile: fn(&Lists) -> Result<Differences, dataplane::Error>,
    ) -> Instant {
        let started = Instant::now();
        let next = match reconcile(&self.lists) {
            Ok(differences) => {
                self.able(map, &differences);
                // What took long was the mending, and whoever was at it may be so again.
                match differences.is_empty() {
                    true => rest(started.elapsed()),
                    false => rest(Duration::ZERO),
                }
            }
            Err(error) => {
                self.unable(map, &error.to_string());
                rest(Duration::ZERO)
            }
        };
        started + next
    }

    fn able(&self, map: &'static str, differences: &Differences) {
        self.readiness.set_lack(Lack::Map(map), None);
        if !differences.is_empty() {
            tell(&self.counters, map, differences);
        }
    }

    fn unable(&self, map: &'static str, error: &str) {
        let why = format!("the {map} in the kernel cannot be compared or mended: {error}");
        self.readiness.set_lack(Lack::Map(map), Some(why));
        self.counters.map_error(map, "reconcile");
        tracing::error!(
            error.message = error,
            "the {map} in the kernel cannot be compared or mended; tried again in a second"
        );
    }
}

/// Tells what somebody else had changed in a map of the kernel, and counts it.
pub(super) fn tell(counters: &Counters, map: &'static str, differences: &Differences) {
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
        counters.map_differences(map, kind, entries);
    }
    let such_as = |prefix: IpNet| format!(", {prefix} for one");
    let outcome = match map {
        // What was counted nobody else knows.
        "callers" => "of whom those missing begin anew",
        _ => "which are mended",
    };
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
        "somebody else had changed the {map} in the kernel, {outcome}: {missing} missing, {changed} \
         changed, {foreign} foreign{}",
        example.map(such_as).unwrap_or_default()
    );
}

/// In each round for what is not as it was written.
fn is_due(at: Instant, as_written: bool) -> bool {
    !as_written || at <= Instant::now()
}

/// From the beginning of a comparison to that of the next. A little less than a second is a second:
/// ticks are not that exact.
fn rest(took: Duration) -> Duration {
    let rest = took.saturating_mul(REST).min(AT_LATEST);
    if rest <= EVERY { EVERY / 2 } else { rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_comparison_is_seldom_and_a_short_one_is_every_second() {
        let ms = Duration::from_millis;
        assert_eq!(rest(Duration::ZERO), EVERY / 2);
        assert_eq!(rest(ms(5)), EVERY / 2);
        assert_eq!(rest(ms(20)), ms(4000));
        assert_eq!(rest(Duration::MAX), AT_LATEST);
    }

    #[test]
    fn what_is_not_as_written_is_compared_in_the_next_round_a_second_later() {
        assert_eq!(EVERY, Duration::from_secs(1));
        let now = Instant::now();
        assert!(is_due(now + AT_LATEST, false));
        assert!(!is_due(now + AT_LATEST, true));
        assert!(is_due(now, true));
    }
}
