//! Metrics for Prometheus, read from the kernel and the lists when they are asked for.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use packetwatch_abi::{Action, Fault, Tally};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::{
    api::App,
    dataplane::{self, AdmissionCounts, Outcome},
};

/// OpenMetrics; [`encode`] writes nothing else.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Rules that have a series of their own; bans of further ones are counted as `other`. Over the
/// API rules get ever new names.
const MAX_RULE_NAMES: usize = 64;

/// What happens in the daemon and is counted nowhere else. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<Counted>>);

#[derive(Clone, Debug, Default)]
struct Counted {
    bans: BTreeMap<String, u64>,
    map_full: BTreeMap<&'static str, u64>,
    map_errors: BTreeMap<(&'static str, &'static str), u64>,
    map_differences: BTreeMap<(&'static str, &'static str), u64>,
    detached: BTreeMap<&'static str, u64>,
    evicted: BTreeMap<&'static str, u64>,
    auth_failed: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// A rule has set a ban.
    pub fn ban(&self, rule: &str) {
        self.with(|counted| {
            let known = counted.bans.contains_key(rule) || counted.bans.len() < MAX_RULE_NAMES;
            let name = if known { rule } else { "other" };
            *counted.bans.entry(name.to_owned()).or_default() += 1;
        });
    }

    /// A write found the map at capacity: `lists` or `bans`.
    pub fn map_full(&self, map: &'static str) {
        self.with(|counted| *counted.map_full.entry(map).or_default() += 1);
    }

    /// A map could not be read or written.
    pub fn map_error(&self, map: &'static str, error: &'static str) {
        self.with(|counted| *counted.map_errors.entry((map, error)).or_default() += 1);
    }

    /// Entries of a map were found other than they should be: `missing`, `changed`, `foreign`.
    pub fn map_differences(&self, map: &'static str, kind: &'static str, entries: u64) {
        self.with(|counted| *counted.map_differences.entry((map, kind)).or_default() += entries);
    }

    /// An interface was filtered no more: `gone`, or the program was `taken-off` or `replaced`.
    pub fn detached(&self, cause: &'static str) {
        self.with(|counted| *counted.detached.entry(cause).or_default() += 1);
    }

    /// Callers were forgotten: they were `idle`, or the table was `crowded`.
    pub fn evicted(&self, cause: &'static str, callers: u64) {
        self.with(|counted| *counted.evicted.entry(cause).or_default() += callers);
    }

    /// A request over the API was not let in: `no-token`, `wrong-token`, `expired-token`, `scope`
    /// or `user`.
    pub fn auth_failed(&self, cause: &'static str) {
        self.with(|counted| *counted.auth_failed.entry(cause).or_default() += 1);
    }

    /// All that [`Counters::evicted`] has counted.
    pub fn all_evicted(&self) -> u64 {
        self.with(|counted| counted.evicted.values().sum())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Counted) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

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
        let listed = app.lists.prefixes() as u64;
        let maps = told(app, "all", app.dataplane.capacities(listed)).into_iter();
        let maps = maps.map(|used| (used.map, used.entries, used.capacity));
        let bypass = app.rules.bypass_until().unwrap_or(0);
        let bypass = bypass.saturating_sub(app.clock.monotonic_ns());
        Self {
            bypass: bypass.div_ceil(1_000_000_000),
            pending: app.trials.pending().is_some().into(),
            outcomes: told(app, "outcomes", app.dataplane.outcomes()),
            connections: told(app, "outcomes", app.dataplane.connections()),
            filtered: app
                .dataplane
                .interfaces()
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
            certificate: app.certificate.as_ref().and_then(|certificate| {
                let (at, _) = certificate.ends_at().1?;
                Some(u64::try_from(at.unix_timestamp()).unwrap_or(0))
            }),
            log_lost: app.log.lost(),
            counted: app.counters.with(|counted| counted.clone()),
            version: app.version,
            git: app.git,
        }
    }

    fn fault(&self, fault: Fault) -> u64 {
        let of = self.faults.iter().filter(|(kind, _)| *kind == fault);
        of.map(|(_, count)| count).sum()
    }
}

fn told<T: Default>(app: &App, map: &'static str, read: Result<T, dataplane::Error>) -> T {
    read.unwrap_or_else(|error| {
        tracing::warn!(error.message = %error, "metrics: cannot read a map");
        app.counters.map_error(map, "read");
        T::default()
    })
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// A counter or gauge with a sample for each set of labels.
fn family<'a>(
    encoder: &mut DescriptorEncoder,
    (name, help, kind): (&str, &str, MetricType),
    samples: impl IntoIterator<Item = (Labels<'a>, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in samples {
        let labels = labels.as_slice();
        // Without labels there are no braces either.
        if labels.is_empty() {
            sample(&mut family, kind, value)?;
        } else {
            sample(&mut family.encode_family(&labels)?, kind, value)?;
        }
    }
    Ok(())
}

fn sample(encoder: &mut MetricEncoder<'_>, kind: MetricType, value: u64) -> fmt::Result {
    match kind {
        MetricType::Counter => encoder.encode_counter::<NoLabelSet, u64, u64>(&value, None),
        _ => encoder.encode_gauge(&value),
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        use MetricType::{Counter, Gauge};
        let encoder = &mut encoder;
        let by_reason = |value: fn(&Tally) -> u64| {
            self.outcomes.iter().map(move |outcome| {
                let verdict = match (outcome.reason.action(), outcome.observed) {
                    (Action::Pass, _) => "pass",
                    (Action::Drop, false) => "drop",
                    (Action::Drop, true) => "observe",
                };
                let labels = vec![
                    ("interface", outcome.interface.as_str()),
                    ("verdict", verdict),
                    ("reason", outcome.reason.as_str()),
                ];
                (labels, value(&outcome.tally))
            })
        };
        let packets = "Packets by outcome; verdict observe is a drop that observe mode let pass";
        family(
            encoder,
            ("packets", packets, Counter),
            summed(by_reason(|tally| tally.packets)),
        )?;
        let bytes = "Bytes of those packets, from the Ethernet header on";
        family(
            encoder,
            ("bytes", bytes, Counter),
            summed(by_reason(|tally| tally.bytes)),
        )?;
        let calls = self.connections.iter();
        let calls = calls.map(|(name, tally)| (vec![("interface", name.as_str())], tally.packets));
        family(
            encoder,
            ("connections", "Calls: TCP SYN without ACK", Counter),
            calls,
        )?;

        let filtered = self.filtered.iter();
        let filtered =
            filtered.map(|(name, is)| (vec![("interface", name.as_str())], (*is).into()));
        let words = "1 if every packet of the interface is judged, 0 if not";
        family(encoder, ("interface_filtered", words, Gauge), filtered)?;
        let detached = self.counted.detached.iter();
        let detached = detached.map(|(cause, n)| (vec![("cause", *cause)], *n));
        let words = "Times that an interface lost its filter, other than by the daemon's own end";
        family(encoder, ("detached", words, Counter), detached)?;
        let words =
            "1 if what passes goes to the chained program, 0 if not; absent without `chain`";
        let chain = self.chain_up.map(|is| (Vec::new(), is.into()));
        family(encoder, ("chain_up", words, Gauge), chain)?;

        let lists = self.lists.iter();
        let lists = lists.map(|(list, family, n)| (vec![("list", *list), ("family", *family)], *n));
        family(
            encoder,
            ("list_entries", "Live entries of the lists", Gauge),
            lists,
        )?;
        let maps = self.maps.iter();
        let entries = maps.filter_map(|(map, n, _)| Some((vec![("map", *map)], (*n)?)));
        family(
            encoder,
            ("map_entries", "Entries of a kernel map", Gauge),
            entries,
        )?;
        let maps = self.maps.iter();
        let capacity = maps.map(|(map, _, capacity)| (vec![("map", *map)], *capacity));
        family(
            encoder,
            (
                "map_capacity",
                "Entries that it holds at most; bytes of the rings calls and offences",
                Gauge,
            ),
            capacity,
        )?;

        let threshold = self.threshold.map(|threshold| (Vec::new(), threshold));
        let words = "Calls from which on a new source gets counts of its own; 1 but in a flood";
        family(encoder, ("admission_threshold", words, Gauge), threshold)?;
        let by = |how, n| (vec![("by", how)], n);
        let admitted = [
            by("first-sight", self.admissions.first_sight),
            by("count", self.admissions.by_count),
        ];
        let words = "Sources that got counts of their own";
        family(encoder, ("callers_admitted", words, Counter), admitted)?;
        let words = "Packets whose source had no counts of its own and got none";
        let not_admitted = [(Vec::new(), self.admissions.not_admitted())];
        family(
            encoder,
            ("callers_not_admitted", words, Counter),
            not_admitted,
        )?;
        let evicted = ["idle", "crowded"].map(|cause| {
            let evicted = self.counted.evicted.get(cause).copied().unwrap_or(0);
            (vec![("cause", cause)], evicted)
        });
        let words = "Sources whose counts were forgotten";
        family(encoder, ("callers_evicted", words, Counter), evicted)?;

        let counted = &self.counted;
        let full = [
            ("callers", self.fault(Fault::CallersFull)),
            ("lists", counted.map_full.get("lists").copied().unwrap_or(0)),
            ("bans", counted.map_full.get("bans").copied().unwrap_or(0)),
        ];
        let full = full.map(|(map, n)| (vec![("map", map)], n));
        family(
            encoder,
            ("map_full", "Entries refused by a full map", Counter),
            full,
        )?;
        let kernel = [
            (("callers", "insert"), self.fault(Fault::CallersError)),
            (("callers", "no-memory"), self.fault(Fault::CallersNoMemory)),
            (("callers", "deadlock"), self.fault(Fault::CallersDeadlock)),
            (("callers", "timed-out"), self.fault(Fault::CallersTimedOut)),
            (("callers", "busy"), self.fault(Fault::CallersBusy)),
            (("counters", "contended"), self.fault(Fault::Contended)),
        ];
        let errors = counted
            .map_errors
            .iter()
            .map(|(key, n)| (*key, *n))
            .chain(kernel);
        let errors = errors.map(|((map, error), n)| (vec![("map", map), ("error", error)], n));
        family(
            encoder,
            ("map_errors", "What maps did not do as asked", Counter),
            errors,
        )?;
        let differences = counted.map_differences.iter();
        let differences =
            differences.map(|((map, kind), n)| (vec![("map", *map), ("kind", *kind)], *n));
        let words =
            "Entries that somebody else had removed, changed or added, and that were mended";
        family(encoder, ("map_differences", words, Counter), differences)?;
        let lost = [
            ("calls", self.fault(Fault::CallsLost)),
            ("calls-suppressed", self.fault(Fault::CallsSuppressed)),
            ("offences", self.fault(Fault::OffencesLost)),
            ("log", self.log_lost),
        ];
        let lost = lost.map(|(stage, n)| (vec![("stage", stage)], n));
        family(
            encoder,
            ("events_lost", "Events that were not handed on", Counter),
            lost,
        )?;

        let refused = counted.auth_failed.iter();
        let refused = refused.map(|(cause, n)| (vec![("cause", *cause)], *n));
        let words = "Requests over the API that were not let in";
        family(encoder, ("auth_failures", words, Counter), refused)?;

        let bans = counted
            .bans
            .iter()
            .map(|(rule, n)| (vec![("rule", rule.as_str())], *n));
        family(encoder, ("bans", "Bans that rules have set", Counter), bans)?;
        let words = "When the certificate of the API ends, since 1970; absent without TLS";
        let certificate = self.certificate.map(|at| (vec![], at));
        family(
            encoder,
            ("certificate_expiry_timestamp_seconds", words, Gauge),
            certificate,
        )?;
        let words = "Until every packet is judged again; 0 without a bypass";
        let bypass = [(vec![], self.bypass)];
        family(encoder, ("bypass_seconds", words, Gauge), bypass)?;
        let words = "Changes that are taken back unless they are confirmed";
        let pending = [(vec![], self.pending)];
        family(encoder, ("changes_pending", words, Gauge), pending)?;
        let build = [(vec![("version", self.version), ("git", self.git)], 1)];
        family(
            encoder,
            ("build_info", "What this daemon was built from", Gauge),
            build,
        )
    }
}

/// Adds up equal labels: what passes does so in either mode.
fn summed<'a>(samples: impl Iterator<Item = (Labels<'a>, u64)>) -> BTreeMap<Labels<'a>, u64> {
    let mut sums = BTreeMap::new();
    samples.for_each(|(labels, value)| *sums.entry(labels).or_insert(0) += value);
    sums
}

#[cfg(test)]
mod tests {
    use packetwatch_abi::Reason;

    use super::*;

    fn text(snapshot: Snapshot) -> String {
        let mut registry = Registry::with_prefix("packetwatch");
        registry.register_collector(Box::new(snapshot));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        text
    }

    fn outcome(reason: Reason, observed: bool, packets: u64) -> Outcome {
        Outcome {
            interface: "eth0".to_owned(),
            observed,
            reason,
            tally: Tally {
                packets,
                bytes: 60 * packets,
            },
        }
    }

    #[test]
    fn names_and_labels_are_the_interface() {
        let counters = Counters::default();
        counters.ban("port-scan");
        counters.map_full("lists");
        counters.map_error("outcomes", "read");
        counters.map_differences("bans", "missing", 3);
        counters.detached("gone");
        counters.evicted("crowded", 16);
        counters.auth_failed("scope");
        let text = text(Snapshot {
            outcomes: vec![
                outcome(Reason::Pass, false, 2),
                outcome(Reason::Pass, true, 3),
                outcome(Reason::Ban, false, 4),
                outcome(Reason::Ban, true, 5),
            ],
            connections: vec![(
                "eth0".to_owned(),
                Tally {
                    packets: 1,
                    bytes: 60,
                },
            )],
            filtered: vec![("eth0".to_owned(), true), ("eth1".to_owned(), false)],
            chain_up: Some(false),
            faults: vec![
                (Fault::CallersFull, 6),
                (Fault::CallersError, 21),
                (Fault::CallersNoMemory, 22),
                (Fault::CallersDeadlock, 23),
                (Fault::CallersTimedOut, 24),
                (Fault::CallersBusy, 25),
            ],
            admissions: AdmissionCounts {
                first_sight: 12,
                by_count: 13,
                sketched: 14,
                ..AdmissionCounts::default()
            },
            threshold: Some(15),
            certificate: Some(17),
            bypass: 16,
            pending: 1,
            lists: vec![("allow", "ipv4", 7)],
            maps: vec![("bans", Some(8), 9), ("calls", None, 10)],
            log_lost: 11,
            counted: counters.with(|counted| counted.clone()),
            version: "1.2.3",
            git: "abc",
        });
        let lines = [
            r#"packetwatch_packets_total{interface="eth0",verdict="pass",reason="pass"} 5"#,
            r#"packetwatch_packets_total{interface="eth0",verdict="drop",reason="ban"} 4"#,
            r#"packetwatch_packets_total{interface="eth0",verdict="observe",reason="ban"} 5"#,
            r#"packetwatch_bytes_total{interface="eth0",verdict="drop",reason="ban"} 240"#,
            r#"packetwatch_connections_total{interface="eth0"} 1"#,
            r#"packetwatch_list_entries{list="allow",family="ipv4"} 7"#,
            r#"packetwatch_map_entries{map="bans"} 8"#,
            r#"packetwatch_map_capacity{map="calls"} 10"#,
            r#"packetwatch_map_full_total{map="callers"} 6"#,
            r#"packetwatch_map_full_total{map="lists"} 1"#,
            r#"packetwatch_map_errors_total{map="outcomes",error="read"} 1"#,
            r#"packetwatch_map_errors_total{map="callers",error="insert"} 21"#,
            r#"packetwatch_map_errors_total{map="callers",error="no-memory"} 22"#,
            r#"packetwatch_map_errors_total{map="callers",error="deadlock"} 23"#,
            r#"packetwatch_map_errors_total{map="callers",error="timed-out"} 24"#,
            r#"packetwatch_map_errors_total{map="callers",error="busy"} 25"#,
            r#"packetwatch_map_differences_total{map="bans",kind="missing"} 3"#,
            r#"packetwatch_interface_filtered{interface="eth0"} 1"#,
            r#"packetwatch_interface_filtered{interface="eth1"} 0"#,
            r#"packetwatch_detached_total{cause="gone"} 1"#,
            "packetwatch_chain_up 0",
            r#"packetwatch_events_lost_total{stage="log"} 11"#,
            r#"packetwatch_bans_total{rule="port-scan"} 1"#,
            "packetwatch_admission_threshold 15",
            "packetwatch_certificate_expiry_timestamp_seconds 17",
            "packetwatch_bypass_seconds 16",
            "packetwatch_changes_pending 1",
            r#"packetwatch_callers_admitted_total{by="first-sight"} 12"#,
            r#"packetwatch_callers_admitted_total{by="count"} 13"#,
            "packetwatch_callers_not_admitted_total 14",
            r#"packetwatch_callers_evicted_total{cause="crowded"} 16"#,
            r#"packetwatch_auth_failures_total{cause="scope"} 1"#,
            r#"packetwatch_build_info{version="1.2.3",git="abc"} 1"#,
            "# EOF",
        ];
        for line in lines {
            assert!(
                text.lines().any(|found| found == line),
                "{line}\nin\n{text}"
            );
        }
        assert!(!text.contains("map_entries{map=\"calls\"}"), "{text}");
    }

    #[test]
    fn rule_names_are_bounded() {
        let counters = Counters::default();
        for n in 0..MAX_RULE_NAMES + 2 {
            counters.ban(&format!("rule-{n}"));
        }
        counters.ban("rule-0");
        let bans = counters.with(|counted| counted.bans.clone());
        assert_eq!(bans.len(), MAX_RULE_NAMES + 1);
        assert_eq!((bans["other"], bans["rule-0"]), (2, 2));
    }
}
