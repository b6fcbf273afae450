//! `make bench`: what the filter costs, beside its peers, in the same run on the same machine.
//!
//! A shared machine is now fast, now slow, so contestants take turns and what counts is the median
//! of the ratios of a round. Everything happens in namespaces of its own, which go with it.

mod bpf;
mod generator;
mod idle;
mod instructions;
mod latency;
mod machine;
mod path;
mod peers;
mod program;
mod report;
mod scene;
mod sources;
mod statistic;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use nix::unistd::Uid;

use machine::Machine;
use report::Report;
use scene::Scene;

/// Measures the filter beside xdp-filter and nftables. Takes one to three minutes.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Less of everything: under a minute, for a look
    #[arg(long)]
    quick: bool,
    /// Also write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure nothing: make the size of the program now the record that CI compares with
    #[arg(long, conflicts_with_all = ["quick", "json"])]
    record: bool,
}

/// How much is measured.
struct Extent {
    idle_seconds: u64,
    /// of each comparison; odd, so that a median is a round's
    rounds: usize,
    program_repeat: u32,
    path_packets: u32,
    ban_samples: usize,
}

impl Extent {
    const FULL: Self = Self {
        idle_seconds: 20,
        rounds: 9,
        program_repeat: 500_000,
        path_packets: 2_000_000,
        ban_samples: 400,
    };
    const QUICK: Self = Self {
        idle_seconds: 5,
        rounds: 5,
        program_repeat: 200_000,
        path_packets: 500_000,
        ban_samples: 100,
    };
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
    let report = measure(&extent, arguments.quick)?;
    println!("{report}");
    if let Err(grown) = instructions::compare(&report.instructions_recorded, &report.instructions) {
        eprintln!("bench: {grown:#}");
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn measure(extent: &Extent, quick: bool) -> Result<Report> {
    let scene = Scene::new()?;
    step("the daemon doing nothing");
    let idle = idle::measure(scene.daemon.pid(), extent.idle_seconds)?;
    scene.fill_lists()?;
    step("the program alone");
    let program = program::measure(&scene, extent.rounds, extent.program_repeat)?;
    step("one source and random ones");
    let sources = sources::measure(extent.rounds, extent.program_repeat)?;
    step("the whole path");
    let path = path::measure(&scene, extent.rounds, extent.path_packets)?;
    step("from a call to its ban");
    let ban_latency = latency::measure(&scene, extent.ban_samples)?;
    Ok(Report {
        machine: Machine::here()?,
        quick,
        program,
        sources,
        path,
        ban_latency,
        idle,
        instructions: instructions::measure()?,
        instructions_recorded: instructions::recorded()?,
    })
}

/// On stderr: stdout is the results'.
fn step(what: &str) {
    eprintln!("bench: measuring {what}");
}
