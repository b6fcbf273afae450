//! The results as a page for people.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets::NOTHING};

use crate::{
    bars::Better,
    curve::{Contestant, Curve, Packets},
    family::Family,
    latency::BanLatency,
    machine::Machine,
    report::{Report, Size},
    start::Full,
};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Machine {
            kernel,
            cpu,
            cores,
            memory_gib,
            mitigations,
        }) = &self.machine
        {
            writeln!(f, "Linux {kernel}, {cpu}, {cores} cores, {memory_gib} GiB")?;
            for (fault, mitigation) in mitigations {
                writeln!(f, "  {fault}: {mitigation}")?;
            }
        }
        if self.quick {
            writeln!(f, "a quick look: fewer rounds, samples and places")?;
        }
        program(self, f)?;
        for (curve, title, axis) in [
            (
                &self.prefixes,
                "A good packet, by denied prefixes",
                "prefixes",
            ),
            (&self.sources, "Counting what passes, by sources", "sources"),
            (&self.rules, "A good packet, by rules", "rules"),
            (
                &self.interfaces,
                "A good packet, by interfaces",
                "interfaces",
            ),
        ] {
            if let Some(curve) = curve {
                for family in Family::ALL {
                    writeln!(f, "\n{title}, {family}: ns a packet, harness included")?;
                    writeln!(f, "{}", of_curve(curve, family, axis))?;
                }
            }
        }
        path(self, f)?;
        daemon(self, f)?;
        if !self.bars.is_empty() {
            writeln!(f, "\nWhat is promised\n{}", bars(self))?;
        }
        Ok(())
    }
}

fn program(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(program) = &report.program else {
        return Ok(());
    };
    writeln!(f, "\nThe program alone, ns a packet (BPF_PROG_TEST_RUN)")?;
    let header = ["packet", "verdict", "packetwatch", "xdp-filter", "ratio"];
    let mut table = table(&header, 2);
    for cost in program {
        let verdict = [cost.verdict.as_str(), &cost.because].join(" ");
        table.add_row([
            cost.packet.clone(),
            verdict.trim().to_owned(),
            format!("{:.1}", cost.packetwatch_ns),
            format!("{:.1}", cost.xdp_filter_ns),
            format!("{:.2}", cost.ratio),
        ]);
    }
    writeln!(f, "{table}")
}

/// A row for each place, a column for each line.
fn of_curve(curve: &Curve, family: Family, axis: &str) -> Table {
    let lines = || curve.lines.iter().filter(|line| line.family == family);
    let names = lines().map(|line| name(line.contestant, line.packets));
    let header: Vec<&str> = [axis].into_iter().chain(names).collect();
    let mut table = table(&header, 0);
    let places = lines().flat_map(|line| &line.points);
    let mut places: Vec<u64> = places.map(|point| point.at).collect();
    places.sort_unstable();
    places.dedup();
    for at in places {
        let mut row = vec![short(at)];
        row.extend(lines().map(|line| {
            let point = line.at(at);
            point.map_or(String::new(), |point| format!("{:.0}", point.ns()))
        }));
        table.add_row(row);
    }
    table
}

/// What a line is called, but for its family.
pub(crate) fn name(contestant: Contestant, packets: Packets) -> &'static str {
    match (contestant, packets) {
        (Contestant::Harness, _) => "harness alone",
        (Contestant::Lru, _) => "LRU hash",
        (Contestant::Trie, Packets::Nearby) => "LPM trie, next to listed",
        (Contestant::Trie, _) => "LPM trie, random",
        (Contestant::Packetwatch, Packets::Nearby) => "packetwatch, next to listed",
        (Contestant::Packetwatch, Packets::Anywhere) => "packetwatch, random",
        (Contestant::Packetwatch, Packets::Calls) => "packetwatch, calls",
        (Contestant::Packetwatch, Packets::Datagrams) => "packetwatch, other packets",
        (Contestant::Packetwatch, Packets::One) => "packetwatch, one source",
        (Contestant::Packetwatch, Packets::Flood) => "packetwatch, 1 M sources",
    }
}

/// `10 k`, `4 M`.
pub(crate) fn short(number: u64) -> String {
    match number {
        1_000_000.. if number.is_multiple_of(1_000_000) => format!("{} M", number / 1_000_000),
        1000.. if number.is_multiple_of(1000) => format!("{} k", number / 1000),
        _ => number.to_string(),
    }
}

fn path(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(path) = &report.path else {
        return Ok(());
    };
    writeln!(f, "\nThe whole path over veth, one banned source, one core")?;
    let mut table = table(&["filter", "Mpps", "packetwatch is faster by"], 1);
    for speed in path {
        table.add_row([
            speed.contestant.clone(),
            format!("{:.2}", speed.mpps),
            format!("{:.2}", speed.ratio),
        ]);
    }
    writeln!(f, "{table}")
}

fn daemon(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let latency = |f: &mut fmt::Formatter<'_>, ban: &BanLatency| {
        writeln!(
            f,
            "From the call that is one too many to the ban: median {:.2} ms, p99 {:.2} ms, worst \
             {:.2} ms\n({} samples, {} other sources calling)",
            ban.median_us / 1e3,
            ban.p99_us / 1e3,
            ban.worst_us / 1e3,
            ban.samples,
            ban.active_sources
        )
    };
    writeln!(f)?;
    if let Some(ban) = &report.ban_latency {
        latency(f, ban)?;
    }
    if let Some(idle) = &report.idle {
        writeln!(
            f,
            "Idle for {} s: {:.2} % of one core, {:.1} MiB resident, {:.1} MiB of maps",
            idle.seconds, idle.cpu_percent, idle.memory.resident_mib, idle.memory.maps_mib
        )?;
    }
    if let Some(laden) = &report.laden {
        let load = &laden.load;
        writeln!(
            f,
            "{} prefixes through REST: {:.2} s\n{} sources in {} s: {:.1} % of one core; with {} \
             bans {:.1} MiB resident, {:.1} MiB of maps",
            load.prefixes,
            laden.list_seconds,
            load.sources,
            load.seconds,
            laden.cpu_percent,
            load.bans,
            laden.memory.resident_mib,
            laden.memory.maps_mib
        )?;
        latency(f, &laden.ban_latency)?;
        if let Some(free) = &laden.freeing {
            writeln!(
                f,
                "That list given up in {:.2} s: the slowest packet took {:.2} ms meanwhile, {:.2} ms after",
                free.seconds, free.slowest_ms, free.slowest_after_ms
            )?;
        }
    }
    if let Some(start) = &report.start {
        let Full {
            prefixes,
            bans,
            starts,
        } = start.full;
        let [pins, disk] = [&start.from_pins, &start.from_disk];
        writeln!(
            f,
            "From exec to {prefixes} prefixes and {bans} bans in force: median {:.2} s, worst {:.2} s from \
             pins; {:.2} s, {:.2} s from disk alone\n({starts} starts each, after SIGKILL)",
            pins.median(),
            pins.worst(),
            disk.median(),
            disk.worst()
        )?;
    }
    if let Some(exact) = &report.exact {
        writeln!(
            f,
            "One source on {} CPUs, N = {}: {} passed beyond, {} short of it ({} rounds)",
            exact.cpus, exact.limit, exact.passed_beyond, exact.short_of, exact.rounds
        )?;
    }
    if let Some(limit) = &report.limit {
        writeln!(
            f,
            "One source on {} CPUs, a limit of {} packets/s: {} passed in {:.1} s of {:.0}/s, {:.2} % off",
            limit.cpus, limit.rate, limit.passed, limit.seconds, limit.offered, limit.off_percent
        )?;
    }
    if let Some(Size { now, recorded }) = &report.size {
        writeln!(
            f,
            "Program: {} instructions verified, {} translated, {} bytes of machine code\n\
             (recorded on Linux {}: {}, {}, {})",
            now.verified,
            now.translated,
            now.jited,
            recorded.kernel,
            recorded.verified,
            recorded.translated,
            recorded.jited
        )?;
    }
    Ok(())
}

fn bars(report: &Report) -> Table {
    let mut table = table(&["what", "found", "bar", "", "met"], 1);
    for bar in &report.bars {
        let sign = match bar.better {
            Better::Less => "at most",
            Better::More => "at least",
        };
        table.add_row([
            bar.what.clone(),
            found(bar.found),
            format!("{sign} {}", bar.bar),
            bar.unit.clone(),
            if bar.is_met { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    table
}

/// Two digits behind the point are as many as a run repeats.
pub(crate) fn found(number: f64) -> String {
    if number.fract() == 0.0 || number >= 100.0 {
        format!("{number:.0}")
    } else {
        format!("{number:.2}")
    }
}

/// A table whose columns from `numbers` on are aligned as numbers.
fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header.to_vec());
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0, 1, 999, 1000, 10_000, 1_000_000, 4_000_000].map(short);
        assert_eq!(shown, ["0", "1", "999", "1 k", "10 k", "1 M", "4 M"]);
        assert_eq!(
            [0.0, 0.876, 1.0, 123.4].map(found),
            ["0", "0.88", "1", "123"]
        );
    }
}
