//! Metrics for Prometheus, read from the kernel and the lists when they are asked for.

mod counters;
mod exposition;
#[cfg(test)]
mod tests;

use packetwatch_abi::{Fault, Tally};
use prometheus_client::{encoding::text, registry::Registry};

use crate::{
    api::App,
    dataplane::{self, AdmissionCounts, Outcome},
};

use counters::Counted;
pub use counters::Counters;

/// OpenMetrics; [`encode`] writes nothing else.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is exported, in the OpenMetrics text format.
///
/// What the kernel does not tell is left out and counted as a map error.
pub fn encode(app: &App) -> String {
    let mut registry = Registry::with_prefix("packetwatch");
    registry.register_collector(Box::new(Snapshot::read(app)));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut text, &registry);
    text
}

/// One moment's values.
#[derive(Default)]
struct Snapshot {
    outcomes: Vec<Outcome>,
    connections: Vec<(String, Tally)>,
    /// interface, whether it is filtered
    filtered: Vec<(String, bool)>,
    /// filtered interface, whether its filter outlives the process
    pinned: Vec<(String, bool)>,
    /// whether it gets what passes, where one is asked for
    chain_up: Option<bool>,
    faults: Vec<(Fault, u64)>,
    admissions: AdmissionCounts,
    threshold: Option<u64>,
    /// end of the certificate that the API shows, in seconds since 1970
    certificate: Option<u64>,
    /// seconds left of a bypass
    bypass: u64,
    /// changes that wait to be confirmed
    pending: u64,
    /// list, family, entries
    lists: Vec<(&'static str, &'static str, u64)>,
    maps: Vec<(&'static str, Option<u64>, u64)>,
    log_lost: u64,
    counted: Counted,
    version: &'static str,
    git: &'static str,
}

impl Snapshot {
    fn read(app: &App) -> Self {
        let counts = app.lists.counts();
        let by_list = [
            ("allow", counts.allow),
            ("deny", counts.deny),
            ("bans", counts.bans),
        ];
        let lists = by_list.into_iter().flat_map(|(list, count)| {
            [
                (list, "ipv4", count.v4 as u64),
                (list, "ipv6", count.v6 as u64),
            ]
        });
        let maps = app.dataplane.capacities(app.lists.usage());
        let maps = told(app, "all", maps).into_iter();
        let maps = maps.map(|used| (used.map, used.entries, used.capacity));
        let bypass = app.rules.bypass_until().unwrap_or(0);
        let bypass = bypass.saturating_sub(app.clock.monotonic_ns());
        let interfaces = app.dataplane.interfaces();
        let is_pinned = app.dataplane.pin_dir().is_some();
        let filtered = interfaces.iter().filter(|one| one.state.is_filtered());
        let pinned = filtered.map(|one| (one.name.clone(), is_pinned && one.not_pinned.is_none()));
        Self {
            pinned: pinned.collect(),
            bypass: bypass.div_ceil(1_000_000_000),
            pending: app.trials.pending().is_some().into(),
            outcomes: told(app, "outcomes", app.dataplane.outcomes()),
            connections: told(app, "outcomes", app.dataplane.connections()),
            filtered: interfaces
                .into_iter()
                .map(|interface| (interface.name, interface.state.is_filtered()))
                .collect(),
            chain_up: app.dataplane.chain().map(|chain| chain.state.is_up()),
            faults: told(app, "faults", app.dataplane.faults()),
            admissions: told(app, "callers", app.dataplane.admission_counts()),
            threshold: told(app, "callers", app.dataplane.admission().map(Some))
                .map(|admission| admission.threshold),
            lists: lists.collect(),
            maps: maps.collect(),
            certificate: app.certificate.get().and_then(|certificate| {
                let (at, _) = certificate.ends_at().1?;
                Some(u64::try_from(at.unix_timestamp()).unwrap_or(0))
            }),
            log_lost: app.log.lost(),
            counted: app.counters.with(|counted| counted.clone()),
            version: app.version,
            git: app.git,
        }
    }
}

fn told<T: Default>(app: &App, map: &'static str, read: Result<T, dataplane::Error>) -> T {
    read.unwrap_or_else(|error| {
        tracing::warn!(error.message = %error, "metrics: cannot read a map");
        app.counters.map_error(map, "read");
        T::default()
    })
}
