//! The call log: a line a call, within a budget; beyond it a line a second with what was left out.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use packetwatch_abi::{Call, Fault};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::control::RulesControl;
use crate::{clock::Clock, dataplane, dataplane::Dataplane, log};

#[derive(Clone)]
pub(super) struct CallLog {
    pub(super) dataplane: Dataplane,
    pub(super) rules: Arc<RulesControl>,
    pub(super) clock: Clock,
    /// calls without a line
    pub(super) over_budget: Arc<AtomicU64>,
}

impl CallLog {
    /// Writes calls until `shutdown`.
    ///
    /// # Errors
    /// The event loop has no room for the ring's descriptor.
    pub(super) async fn run(
        self,
        calls: dataplane::Stream<Call>,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let mut names = Names::new(self.dataplane);
        let mut budget = Budget::default();
        tokio::select! {
            written = calls.each(|call| {
                // The program's budget is each CPU's; this one is for all of them.
                if budget.spend(call.at, self.rules.call_budget()) {
                    let at = self.clock.utc_of(call.at).unwrap_or_else(|| self.clock.utc());
                    log::call(&call, names.of(call.ifindex), at);
                } else {
                    self.over_budget.fetch_add(1, Relaxed);
                }
            }) => written,
            () = shutdown.cancelled() => Ok(()),
        }
    }

    /// Once a second, until `shutdown`: how many calls the program kept back, over the budget or
    /// for want of room.
    pub(super) async fn report_left_out(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let mut ticks = interval(Duration::from_secs(1));
        let mut reported = Reported::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let Ok(faults) = self.dataplane.faults() else {
                continue;
            };
            let left_out: u64 = faults
                .into_iter()
                .filter(|(fault, _)| matches!(fault, Fault::CallsSuppressed | Fault::CallsLost))
                .map(|(_, count)| count)
                .sum::<u64>()
                + self.over_budget.load(Relaxed);
            if let Some(more) = reported.more(left_out, self.rules.call_budget()) {
                log::suppressed(more);
            }
        }
    }
}

/// Calls without a line that were told of.
#[derive(Default)]
struct Reported(u64);

impl Reported {
    /// How many are to be told of now. Who wants no line of any call wants none of these either.
    fn more(&mut self, left_out: u64, budget: u32) -> Option<u64> {
        let more = left_out.saturating_sub(self.0);
        self.0 = self.0.max(left_out);
        (more > 0 && budget > 0).then_some(more)
    }
}

/// Lines of a second.
#[derive(Default)]
struct Budget {
    second: u64,
    spent: u32,
}

impl Budget {
    /// Whether a call at `now` (nanoseconds) still gets its line.
    fn spend(&mut self, now: u64, budget: u32) -> bool {
        let second = now / 1_000_000_000;
        if second != self.second {
            *self = Self { second, spent: 0 };
        }
        self.spent = self.spent.saturating_add(1);
        self.spent <= budget
    }
}

/// Interfaces by index, as of the last unknown one, or of a second ago: they can be renamed.
struct Names {
    dataplane: Dataplane,
    by_index: HashMap<u32, String>,
    read: Instant,
}

impl Names {
    fn new(dataplane: Dataplane) -> Self {
        Self {
            dataplane,
            by_index: HashMap::new(),
            read: Instant::now(),
        }
    }

    fn of(&mut self, ifindex: u32) -> &str {
        let is_old = self.read.elapsed() >= Duration::from_secs(1);
        if is_old || !self.by_index.contains_key(&ifindex) {
            let known = self.dataplane.interfaces().into_iter();
            self.by_index = known.map(|known| (known.ifindex, known.name)).collect();
            self.read = Instant::now();
        }
        self.by_index
            .get(&ifindex)
            .map_or("unknown", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_its_budget_and_no_more() {
        let mut budget = Budget::default();
        let granted = |budget: &mut Budget, now| (0..10).filter(|_| budget.spend(now, 3)).count();
        assert_eq!(granted(&mut budget, 5_000_000_000), 3);
        assert_eq!(granted(&mut budget, 5_999_999_999), 0);
        assert_eq!(granted(&mut budget, 6_000_000_000), 3);
        assert!(!Budget::default().spend(0, 0));
    }

    #[test]
    fn what_is_left_out_is_told_once_and_to_nobody_who_wants_no_line() {
        let mut reported = Reported::default();
        let told = [(3, 1000), (3, 1000), (5, 0), (5, 1000), (9, 1000)];
        let told = told.map(|(left_out, budget)| reported.more(left_out, budget));
        assert_eq!(told, [Some(3), None, None, None, Some(4)]);
    }
}
