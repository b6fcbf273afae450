//! The call log: a line a call, within a budget; beyond it a line a second with what was left out.

use std::{collections::HashMap, sync::Arc, time::Duration};

use packetwatch_abi::{Call, Fault};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::control::RulesControl;
use crate::{clock::Clock, dataplane, dataplane::Dataplane, log};

pub struct CallLog {
    pub dataplane: Dataplane,
    pub rules: Arc<RulesControl>,
    pub clock: Clock,
}

impl CallLog {
    /// Writes calls until `shutdown`.
    ///
    /// # Errors
    /// The event loop has no room for the ring's descriptor.
    pub async fn run(
        self,
        calls: dataplane::Stream<Call>,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let reporter = tokio::spawn(report_left_out(self.dataplane.clone(), shutdown.clone()));
        let mut names = Names::new(self.dataplane);
        let written = tokio::select! {
            written = calls.each(|call| log::call(&call, names.of(call.ifindex), &self.clock)) => {
                written
            }
            () = shutdown.cancelled() => Ok(()),
        };
        reporter.abort();
        written
    }
}

/// Interfaces by index, as of the last unknown one.
struct Names {
    dataplane: Dataplane,
    by_index: HashMap<u32, String>,
}

impl Names {
    fn new(dataplane: Dataplane) -> Self {
        Self {
            dataplane,
            by_index: HashMap::new(),
        }
    }

    fn of(&mut self, ifindex: u32) -> &str {
        if !self.by_index.contains_key(&ifindex) {
            let attached = self.dataplane.interfaces().into_iter();
            self.by_index = attached.map(|held| (held.ifindex, held.name)).collect();
        }
        self.by_index.get(&ifindex).map_or("unknown", String::as_str)
    }
}

/// Once a second: how many calls the program kept back, over the budget or for want of room.
async fn report_left_out(dataplane: Dataplane, shutdown: CancellationToken) {
    let mut ticks = interval(Duration::from_secs(1));
    let mut reported = 0;
    while !shutdown.is_cancelled() {
        ticks.tick().await;
        let Ok(faults) = dataplane.faults() else {
            continue;
        };
        let left_out: u64 = faults
            .into_iter()
            .filter(|(fault, _)| matches!(fault, Fault::CallsSuppressed | Fault::CallsLost))
            .map(|(_, count)| count)
            .sum();
        if left_out > reported {
            log::suppressed(left_out - reported);
            reported = left_out;
        }
    }
}
