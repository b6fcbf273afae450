//! `make bench`: what the filter costs, beside its peers and beside the designs that most filters are,
//! in the same run on the same machine.
//!
//! A shared machine is now fast, now slow, so contestants take turns and what counts is the median
//! of the ratios of a round. Everything happens in namespaces of its own, which go with it.
//!
//! * [`program`], [`path`]: beside [`peers`], in the [`scene`] of a real daemon.
//! * [`prefixes`], [`sources`], [`policy`]: [`curve`]s of the program, beside [`references`].
//! * [`idle`], [`latency`], [`laden`], [`start`]: the daemon, which [`fill`] fills. [`exact`], [`limit`]:
//!   that N is N.
//! * [`bars`]: what is promised of all that; [`missed`]: why some of it cannot be; [`publish`]: how it
//!   gets into the documentation.

mod assembly;
mod bars;
mod curve;
mod exact;
mod family;
mod fill;
mod idle;
mod instructions;
mod laden;
mod latency;
mod limit;
mod lists;
mod machine;
mod memory;
mod missed;
mod part;
mod path;
mod peers;
mod pictures;
mod policy;
mod prefixes;
mod program;
mod publish;
mod reel;
mod references;
mod report;
mod scene;
mod show;
mod sources;
mod start;
mod statistic;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum as _};
use nix::unistd::Uid;
use packetwatch_abi::{MAX_INTERFACES, MAX_RULES};
use packetwatch_tests::{bpf, generator};

use machine::Machine;
use part::{Extent, Part};
use report::{Report, Size};
use scene::Scene;

/// Measures the filter beside xdp-filter, nftables, and the kernel's own trie and LRU hash. Takes some
/// ten minutes.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Less of everything: one to three minutes, for a look
    #[arg(long)]
    quick: bool,
    /// These parts alone
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Also write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure everything, and make the results those of docs/bench: JSON, pictures, the README's table
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    publish: bool,
    /// Measure nothing: draw the pictures and the README's table from the JSON in docs/bench
    #[arg(long, conflicts_with_all = ["quick", "only", "json", "publish"])]
    redraw: bool,
    /// Measure nothing: make the size of the program now the record that CI compares with
    #[arg(long, conflicts_with_all = ["quick", "only", "json", "publish", "redraw"])]
    record: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.redraw {
        return publish::redraw();
    }
    if !Uid::effective().is_root() {
        bail!(
            "needs root: it makes network namespaces and loads XDP programs. Run `sudo make bench`"
        );
    }
    if arguments.record {
        return instructions::record(&instructions::measure()?);
    }
    let extent = if arguments.quick {
        Extent::QUICK
    } else {
        Extent::FULL
    };
    let parts = if arguments.only.is_empty() {
        Part::value_variants()
    } else {
        &arguments.only
    };
    let mut report = measure(&extent, parts)?;
    report.quick = arguments.quick;
    println!("{report}");
    if let Some(Size { now, recorded }) = &report.size
        && let Err(grown) = instructions::compare(recorded, now)
    {
        eprintln!("bench: {grown:#}");
    }
    if let Some(path) = &arguments.json {
        fs::write(path, publish::json(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if arguments.publish {
        publish::publish(&report)?;
    }
    Ok(())
}

fn measure(extent: &Extent, parts: &[Part]) -> Result<Report> {
    let mut report = Report {
        machine: Some(Machine::here()?),
        ..Report::default()
    };
    let wanted = |part: Part| {
        let wanted = parts.contains(&part);
        if wanted
            && let Some(help) = part
                .to_possible_value()
                .and_then(|is| is.get_help().cloned())
        {
            // On stderr: stdout is the results'.
            eprintln!("bench: measuring {help}");
        }
        wanted
    };
    in_scene(extent, parts, wanted, &mut report)?;
    let (rounds, repeat) = (extent.rounds, extent.curve_repeat);
    if wanted(Part::Prefixes) {
        report.prefixes = Some(prefixes::measure(extent.prefixes, rounds, repeat)?);
    }
    if wanted(Part::Sources) {
        report.sources = Some(sources::measure(extent.sources, rounds, repeat)?);
    }
    if wanted(Part::Rules) {
        report.rules = Some(policy::measure_rules(MAX_RULES, rounds, repeat)?);
    }
    if wanted(Part::Interfaces) {
        report.interfaces = Some(policy::measure_interfaces(MAX_INTERFACES, rounds, repeat)?);
    }
    if wanted(Part::Laden) {
        report.laden = Some(laden::measure(extent.laden)?);
    }
    if wanted(Part::Start) {
        report.start = Some(start::measure(extent.start)?);
    }
    if wanted(Part::Exact) {
        report.exact = Some(exact::measure(extent.exact_rounds)?);
    }
    if wanted(Part::Limit) {
        report.limit = Some(limit::measure(extent.limit_seconds)?);
    }
    report.bars = bars::of(&report);
    Ok(report)
}

/// The parts that want a daemon of its default configuration, and peers beside it.
fn in_scene(
    extent: &Extent,
    parts: &[Part],
    wanted: impl Fn(Part) -> bool,
    report: &mut Report,
) -> Result<()> {
    let in_scene = [Part::Idle, Part::Program, Part::Path, Part::Ban];
    if !parts.iter().any(|part| in_scene.contains(part)) {
        return Ok(());
    }
    let scene = Scene::new()?;
    if wanted(Part::Idle) {
        report.idle = Some(idle::measure(&scene.daemon, extent.idle_seconds)?);
    }
    scene.fill_lists()?;
    if wanted(Part::Program) {
        report.program = Some(program::measure(
            &scene,
            extent.rounds,
            extent.program_repeat,
        )?);
        report.size = Some(Size {
            now: instructions::measure()?,
            recorded: instructions::recorded()?,
        });
    }
    if wanted(Part::Path) {
        report.path = Some(path::measure(&scene, extent.rounds, extent.path_packets)?);
    }
    if wanted(Part::Ban) {
        report.ban_latency = Some(latency::measure(&scene, extent.ban_samples)?);
    }
    Ok(())
}
