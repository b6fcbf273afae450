//! What the project promises itself, and what was measured of it.

use serde::{Deserialize, Serialize};

use crate::{
    curve::{Contestant, Curve, Packets, Point},
    family::Family,
    path::{NFTABLES, OURS_V6, XDP_FILTER},
    report::Report,
    start::Full,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) found: f64,
    pub(crate) bar: f64,
    pub(crate) is_met: bool,
    /// of `found` and `bar`; empty for a ratio
    pub(crate) unit: String,
    /// what is better than the bar
    pub(crate) better: Better,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    Less,
    More,
}

/// The list that the bars on prefixes are about.
const LIST: u64 = 1_000_000;

/// A bar for each thing that was measured.
pub(crate) fn of(report: &Report) -> Vec<Bar> {
    let mut bars = Vec::new();
    program(report, &mut bars);
    path(report, &mut bars);
    prefixes(report, &mut bars);
    sources(report, &mut bars);
    daemon(report, &mut bars);
    bars
}

fn bar(what: impl Into<String>, found: f64, better: Better, bar: f64, unit: &str) -> Bar {
    let found = (found * 1000.0).round() / 1000.0;
    Bar {
        what: what.into(),
        found,
        bar,
        is_met: match better {
            Better::Less => found <= bar,
            Better::More => found >= bar,
        },
        unit: unit.to_owned(),
        better,
    }
}

fn at_most(what: impl Into<String>, found: f64, most: f64, unit: &str) -> Bar {
    bar(what, found, Better::Less, most, unit)
}

fn at_least(what: impl Into<String>, found: f64, least: f64, unit: &str) -> Bar {
    bar(what, found, Better::More, least, unit)
}

fn v6_to_v4(what: &str, found: f64) -> Bar {
    at_most(format!("IPv6 against IPv4: {what}"), found, 1.5, "")
}

fn program(report: &Report, bars: &mut Vec<Bar>) {
    let costs = report.program.as_deref().unwrap_or_default();
    let of = |packet: &str, because: &str| {
        (costs.iter()).find(|cost| cost.packet == packet && cost.because == because)
    };
    let [v4, v6] = ["IPv4", "IPv6"].map(|packet| of(packet, "ban"));
    for cost in v4.iter().chain(&v6) {
        let what = format!(
            "drop of one banned source, program alone, to xdp-filter's: {}",
            cost.packet
        );
        bars.push(at_most(what, cost.ratio, 1.0, ""));
    }
    if let (Some(v4), Some(v6)) = (v4, v6) {
        let ratio = v6.packetwatch_ns / v4.packetwatch_ns;
        bars.push(v6_to_v4("drop of one banned source, program alone", ratio));
    }
}

fn path(report: &Report, bars: &mut Vec<Bar>) {
    let speeds = report.path.as_deref().unwrap_or_default();
    let faster_than = |name| {
        let speed = speeds.iter().find(|speed| speed.contestant == name);
        speed.map(|speed| speed.ratio)
    };
    let what = "the same over veth, Mpps to";
    if let Some(ratio) = faster_than(XDP_FILTER) {
        bars.push(at_least(format!("{what} xdp-filter's"), ratio, 1.0, ""));
    }
    if let Some(ratio) = faster_than(NFTABLES) {
        bars.push(at_least(format!("{what} nftables'"), ratio, 4.0, ""));
    }
    if let Some(ratio) = faster_than(OURS_V6) {
        bars.push(v6_to_v4("the same over veth", ratio));
    }
}

fn point(
    curve: &Curve,
    family: Family,
    contestant: Contestant,
    packets: Packets,
    at: u64,
) -> Option<&Point> {
    curve.line(family, contestant, packets)?.at(at)
}

fn prefixes(report: &Report, bars: &mut Vec<Bar>) {
    let Some(curve) = &report.prefixes else {
        return;
    };
    for (packets, words, most) in [
        (Packets::Anywhere, "random good sources", 2.0),
        (Packets::Nearby, "sources next to listed ones", 4.0),
    ] {
        let ours = |family, at| point(curve, family, Contestant::Packetwatch, packets, at);
        for family in Family::ALL {
            let (Some(with), Some(without)) = (ours(family, LIST), ours(family, 0)) else {
                continue;
            };
            let what = format!("pass with counting, {words}: 1 M prefixes to none, {family}");
            bars.push(at_most(what, with.ratio_to(without), most, ""));
        }
        if let [Some(v4), Some(v6)] = Family::ALL.map(|family| ours(family, LIST)) {
            let what = format!("1 M prefixes, {words}");
            bars.push(v6_to_v4(&what, v6.ratio_to(v4)));
        }
    }
}

fn sources(report: &Report, bars: &mut Vec<Bar>) {
    let Some(curve) = &report.sources else {
        return;
    };
    let most = |family, contestant| curve.line(family, contestant, Packets::Calls)?.last();
    for family in Family::ALL {
        let ours = most(family, Contestant::Packetwatch);
        let one = point(curve, family, Contestant::Packetwatch, Packets::Calls, 1);
        if let (Some(many), Some(one)) = (ours, one) {
            let what = format!("pass with counting: random sources to one source, {family}");
            bars.push(at_most(what, many.ratio_to(one), 2.5, ""));
        }
        if let (Some(many), Some(lru)) = (ours, most(family, Contestant::Lru)) {
            let what = format!("the same: an LRU hash to ours, {family}");
            bars.push(at_least(what, lru.ratio_to(many), 8.0, ""));
        }
    }
    if let [Some(v4), Some(v6)] = Family::ALL.map(|family| most(family, Contestant::Packetwatch)) {
        bars.push(v6_to_v4("random sources", v6.ratio_to(v4)));
    }
}

fn daemon(report: &Report, bars: &mut Vec<Bar>) {
    let million = |n: f64| n / 1e6;
    if let Some(laden) = &report.laden {
        let load = &laden.load;
        let prefixes = million(load.prefixes as f64);
        let what = format!("load of {prefixes} M prefixes through REST");
        bars.push(at_most(what, laden.list_seconds, 3.0, "s"));
        if let Some(seconds) = laden.again_seconds {
            bars.push(at_most("the same list sent again", seconds, 3.0, "s"));
        }
        let sources = million(load.sources.into());
        let what = format!(
            "memory with {prefixes} M prefixes, {} k bans, {sources} M recent sources",
            load.bans / 1000
        );
        bars.push(at_most(what, laden.memory.whole_mib(), 384.0, "MiB"));
        let seen = format!("{sources} M sources seen in {} s", load.seconds);
        let what = format!("the daemon with {seen}, of one core");
        bars.push(at_most(what, laden.cpu_percent, 10.0, "%"));
        let p99 = laden.ban_latency.p99_us / 1e3;
        bars.push(at_most(
            format!("SYN to ban of who was known before, p99, with {seen}"),
            p99,
            10.0,
            "ms",
        ));
    }
    if let Some(start) = &report.start {
        let Full {
            prefixes,
            bans: banned,
            starts,
        } = start.full;
        let (prefixes, banned) = (million(prefixes as f64), banned / 1000);
        for (times, from, most) in [
            (&start.from_pins, "pins", 2.0),
            (&start.from_disk, "disk alone", 6.0),
        ] {
            let what = format!(
                "start with {prefixes} M prefixes and {banned} k bans to all in force, from {from}, \
                 worst of {starts}"
            );
            bars.push(at_most(what, times.worst(), most, "s"));
        }
    }
    if let Some(ban) = &report.ban_latency {
        let others = format!("with {} k other sources", ban.active_sources / 1000);
        for (quantile, found_us, most_ms) in
            [("median", ban.median_us, 2.0), ("p99", ban.p99_us, 10.0)]
        {
            let what = format!("SYN to ban, {quantile}, {others}");
            bars.push(at_most(what, found_us / 1e3, most_ms, "ms"));
        }
    }
    if let Some(idle) = &report.idle {
        bars.push(at_most("idle, of one core", idle.cpu_percent, 1.0, "%"));
        let resident = idle.memory.resident_mib;
        bars.push(at_most("idle, resident", resident, 32.0, "MiB"));
        let what = "memory with defaults and empty lists";
        bars.push(at_most(what, idle.memory.whole_mib(), 64.0, "MiB"));
    }
    if let Some(exact) = &report.exact {
        let what = format!("calls beyond the N-th passed on {} CPUs", exact.cpus);
        bars.push(at_most(what, exact.passed_beyond as f64, 0.0, ""));
    }
    if let Some(limit) = &report.limit {
        let what = format!(
            "a limit of {} packets/s, offered {:.0} k for {:.0} s on {} CPUs: passed differs by",
            limit.rate,
            limit.offered / 1e3,
            limit.seconds,
            limit.cpus
        );
        bars.push(at_most(what, limit.off_percent, 2.0, "%"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        curve::Line,
        start::{Start, Times},
    };

    fn curve(points: &[(Family, Contestant, u64, f64)]) -> Curve {
        let mut curve = Curve { lines: Vec::new() };
        for &(family, contestant, at, ns) in points {
            let point = Point {
                at,
                rounds: vec![ns],
            };
            let known = (curve.lines.iter_mut())
                .find(|line| (line.family, line.contestant) == (family, contestant));
            match known {
                Some(line) => line.points.push(point),
                None => curve.lines.push(Line {
                    family,
                    contestant,
                    packets: Packets::Calls,
                    points: vec![point],
                }),
            }
        }
        curve
    }

    #[test]
    fn a_bar_is_met_at_its_number() {
        assert!(at_most("", 2.0, 2.0, "").is_met);
        assert!(!at_most("", 2.001, 2.0, "").is_met);
        assert!(at_least("", 4.0, 4.0, "").is_met);
        assert!(!at_least("", 3.999, 4.0, "").is_met);
    }

    #[test]
    fn random_sources_are_compared_with_one_and_with_the_lru_hash() {
        use Contestant::{Lru, Packetwatch};
        let report = Report {
            sources: Some(curve(&[
                (Family::V4, Packetwatch, 1, 100.0),
                (Family::V4, Packetwatch, 10, 300.0),
                (Family::V6, Packetwatch, 1, 100.0),
                (Family::V6, Packetwatch, 10, 150.0),
                (Family::V4, Lru, 1, 50.0),
                (Family::V4, Lru, 10, 2400.0),
            ])),
            ..Report::default()
        };
        let bars: Vec<_> = of(&report)
            .into_iter()
            .map(|bar| (bar.what, bar.found, bar.is_met))
            .collect();
        let ratio = |words: &str, ratio, is_met| (words.to_owned(), ratio, is_met);
        let counting = "pass with counting: random sources to one source,";
        let expected = [
            ratio(&format!("{counting} IPv4"), 3.0, false),
            ratio("the same: an LRU hash to ours, IPv4", 8.0, true),
            ratio(&format!("{counting} IPv6"), 1.5, true),
            ratio("IPv6 against IPv4: random sources", 0.5, true),
        ];
        assert_eq!(bars, expected);
    }

    #[test]
    fn the_worst_start_of_each_kind_is_held_against_its_bar() {
        let times = |seconds: [f64; 3]| Times {
            seconds: seconds.to_vec(),
        };
        let report = Report {
            start: Some(Start {
                full: Full {
                    prefixes: 1_000_000,
                    bans: 100_000,
                    starts: 3,
                },
                from_pins: times([1.0, 2.1, 1.1]),
                from_disk: times([5.0, 4.0, 6.0]),
            }),
            ..Report::default()
        };
        let bars: Vec<_> = of(&report)
            .into_iter()
            .map(|bar| (bar.found, bar.bar, bar.is_met))
            .collect();
        assert_eq!(bars, [(2.1, 2.0, false), (6.0, 6.0, true)]);
    }

    #[test]
    fn what_was_not_measured_has_no_bar() {
        assert_eq!(of(&Report::default()), []);
    }
}
