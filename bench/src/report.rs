//! The results: a page for people, an object for machines.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde::Serialize;

use crate::{
    idle::Idle, instructions::Instructions, latency::BanLatency, machine::Machine, path::Speed,
    program::Cost, sources::SourceCost,
};

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// fewer rounds and samples: for a look, not for a claim
    pub(crate) quick: bool,
    pub(crate) program: Vec<Cost>,
    pub(crate) sources: Vec<SourceCost>,
    pub(crate) path: Vec<Speed>,
    pub(crate) ban_latency: BanLatency,
    pub(crate) idle: Idle,
    pub(crate) instructions: Instructions,
    pub(crate) instructions_recorded: Instructions,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            machine,
            quick,
            program,
            sources,
            path,
            ban_latency: ban,
            idle,
            instructions: now,
            instructions_recorded: recorded,
        } = self;
        let Machine { kernel, cpu, cores } = machine;
        writeln!(f, "Linux {kernel}, {cpu}, {cores} cores")?;
        if *quick {
            writeln!(f, "a quick look: fewer rounds and samples")?;
        }

        writeln!(f, "\nThe program alone, ns a packet (BPF_PROG_TEST_RUN)")?;
        let mut table = table(
            &["packet", "verdict", "packetwatch", "xdp-filter", "ratio"],
            2,
        );
        for cost in program {
            let verdict = [cost.verdict, cost.because].join(" ");
            table.add_row([
                cost.packet.to_owned(),
                verdict.trim().to_owned(),
                format!("{:.1}", cost.packetwatch_ns),
                format!("{:.1}", cost.xdp_filter_ns),
                format!("{:.2}", cost.ratio),
            ]);
        }
        writeln!(f, "{table}")?;

        writeln!(
            f,
            "\nCounting what passes: one source, and each packet of another"
        )?;
        let header = ["packet", "one", "random", "ratio", "LRU, random", "ratio"];
        let mut table = self::table(&header, 1);
        for cost in sources {
            table.add_row([
                cost.packet.to_owned(),
                format!("{:.1}", cost.one_ns),
                format!("{:.1}", cost.random_ns),
                format!("{:.2}", cost.ratio),
                format!("{:.1}", cost.lru_ns),
                format!("{:.2}", cost.lru_ratio),
            ]);
        }
        writeln!(f, "{table}")?;

        writeln!(f, "\nThe whole path over veth, one banned source, one core")?;
        let mut table = self::table(&["filter", "Mpps", "packetwatch is faster by"], 1);
        for speed in path {
            table.add_row([
                speed.contestant.to_owned(),
                format!("{:.2}", speed.mpps),
                format!("{:.2}", speed.ratio),
            ]);
        }
        writeln!(f, "{table}")?;

        writeln!(
            f,
            "\nFrom the call that is one too many to the ban: median {:.2} ms, p99 {:.2} ms, worst \
             {:.2} ms\n({} samples, {} other sources calling)",
            ban.median_us / 1e3,
            ban.p99_us / 1e3,
            ban.worst_us / 1e3,
            ban.samples,
            ban.active_sources
        )?;
        writeln!(
            f,
            "Idle for {} s: {:.2} % of one core, {:.1} MiB resident",
            idle.seconds, idle.cpu_percent, idle.resident_mib
        )?;
        write!(
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
        )
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
