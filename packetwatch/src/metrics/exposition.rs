//! The families of metrics and their samples.

use std::{collections::BTreeMap, fmt};

use packetwatch_abi::{Action, Fault, Tally};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::Snapshot;

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
        let pinned = self.pinned.iter();
        let pinned = pinned.map(|(name, is)| (vec![("interface", name.as_str())], (*is).into()));
        let words = "1 if the filter outlives the daemon, 0 if it ends with it";
        family(encoder, ("interface_pinned", words, Gauge), pinned)?;
        let words = "Times that pins of an interface were found taken away";
        let lost = [(Vec::new(), self.counted.pins_lost)];
        family(encoder, ("pins_lost", words, Counter), lost)?;
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

        let words = "Whether sources that a rule holds something of are forgotten for want of room";
        let crowded = [(Vec::new(), self.counted.crowded.into())];
        family(encoder, ("callers_crowded", words, Gauge), crowded)?;

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
            "Entries that somebody else had removed, changed or added; mended, but for callers";
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

impl Snapshot {
    fn fault(&self, fault: Fault) -> u64 {
        let of = self.faults.iter().filter(|(kind, _)| *kind == fault);
        of.map(|(_, count)| count).sum()
    }
}
