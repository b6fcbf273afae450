//! Why a bar is missed that no work on the program would meet, told from the same run.

use crate::{
    curve::{Contestant, Packets},
    family::Family,
    path::{EMPTY, NFTABLES, OURS},
    report::Report,
};

/// A sentence for each such bar, in the order of the bars.
pub(crate) fn reasons(report: &Report) -> Vec<String> {
    let is_missed = |what: &str| {
        let bar = report.bars.iter().find(|bar| bar.what.contains(what));
        bar.is_some_and(|bar| !bar.is_met)
    };
    let mut reasons = Vec::new();
    if is_missed("nftables") {
        reasons.extend(path(report));
    }
    if is_missed("LRU hash") {
        reasons.extend(lru(report));
    }
    reasons
}

/// A filter that does nothing is no faster than the path.
fn path(report: &Report) -> Option<String> {
    let speeds = report.path.as_deref()?;
    let mpps = |name| {
        let speed = speeds.iter().find(|speed| speed.contestant == name)?;
        Some(speed.mpps)
    };
    let (ours, empty, nftables) = (mpps(OURS)?, mpps(EMPTY)?, mpps(NFTABLES)?);
    let ns = |mpps: f64| 1e3 / mpps;
    Some(format!(
        "Over veth a packet takes {:.0} ns with the filter, {:.0} ns with a program that drops at once \
         and {:.0} ns with nftables: what generator and driver take of it is the same for all. The \
         program that drops at once is {:.2} times as fast as nftables, which is the most that any could \
         be.",
        ns(ours),
        ns(empty),
        ns(nftables),
        empty / nftables
    ))
}

/// What a packet costs that nothing is counted of is more than an eighth of what the LRU hash costs.
fn lru(report: &Report) -> Option<String> {
    let curve = report.sources.as_ref()?;
    let most = |contestant, packets| {
        let line = curve.line(Family::V4, contestant, packets)?;
        Some(line.last()?.ns())
    };
    let lru = curve.line(Family::V4, Contestant::Lru, Packets::Calls)?;
    let (full, fits) = (lru.last()?.ns(), lru.points.first()?.ns());
    let harness = most(Contestant::Harness, Packets::Calls)?;
    Some(format!(
        "The LRU hash of this kernel takes {full:.0} ns where each source is new and {fits:.0} ns where all \
         fit, both with {harness:.0} ns of the harness, and does nothing else. An eighth of that is {:.0} \
         ns; a packet that is parsed, looked for in the lists and among the bans and of which no rule \
         counts anything takes {:.0} ns, and a call, which is counted, {:.0} ns.",
        full / 8.0,
        most(Contestant::Packetwatch, Packets::Datagrams)?,
        most(Contestant::Packetwatch, Packets::Calls)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bars::{self, Bar},
        path::Speed,
    };

    fn speed(contestant: &str, mpps: f64, ratio: f64) -> Speed {
        Speed {
            contestant: contestant.to_owned(),
            mpps,
            ratio,
        }
    }

    fn report(nftables: f64) -> Report {
        let path = vec![
            speed(OURS, 4.0, 1.0),
            speed(NFTABLES, nftables, 4.0 / nftables),
            speed(EMPTY, 5.0, 0.8),
        ];
        let mut report = Report {
            path: Some(path),
            ..Report::default()
        };
        report.bars = bars::of(&report);
        report
    }

    #[test]
    fn a_missed_bar_is_held_against_what_no_filter_can_beat() {
        let told = reasons(&report(2.0)).concat();
        for figure in ["250 ns", "200 ns", "500 ns", "2.50 times"] {
            assert!(told.contains(figure), "no {figure}: {told}");
        }
    }

    #[test]
    fn a_bar_that_is_met_needs_no_reason() {
        let report = report(0.5);
        let is_met = |bar: &Bar| bar.is_met;
        assert!(report.bars.iter().all(is_met), "{:?}", report.bars);
        assert_eq!(reasons(&report), Vec::<String>::new());
    }
}
