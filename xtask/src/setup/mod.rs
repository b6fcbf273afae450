//! `xtask setup`: installs what is missing, and nothing else. It speaks on stderr alone, since
//! `make run` promises a stdout with nothing but the daemon's lines.
//!
//! cargo and a C linker are `bootstrap.sh`'s business: without them there is no xtask.

mod ebpf;
mod schemathesis;

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use xtask::linker;

use crate::install::{attempt, is_root, programs, run, say};

/// What the set-up is for; each needs the tool chain of the eBPF object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Run,
    Test,
    Lint,
    Bench,
}

/// For the namespaces of the tests and of the benchmark.
const NETWORK: [(&str, &str); 3] = [
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("ethtool", "ethtool"),
];

/// For the tests of the unit file and of the manual that it names.
const SERVICE: [(&str, &str); 2] = [("systemd-analyze", "systemd"), ("man", "man-db")];

/// For the test of a wall clock that somebody sets.
const CLOCK: (&str, &str) = ("faketime", "faketime");

/// Installs what `purpose` needs and this host lacks.
///
/// # Errors
///
/// The step that failed, its command and what to do about it.
pub(crate) fn setup(purpose: Purpose) -> Result<()> {
    ebpf::linker_for(&ebpf::toolchain()?)?;
    match purpose {
        Purpose::Run => mount_bpffs(),
        Purpose::Test => {
            mount_bpffs()?;
            // Without root the tests that need these are skipped.
            if !is_root() {
                return Ok(());
            }
            schemathesis::schemathesis();
            programs(&[&NETWORK[..], &SERVICE, &[CLOCK]].concat())
        }
        Purpose::Bench => {
            mount_bpffs()?;
            programs(&NETWORK)?;
            // The peers it measures beside us.
            programs(&[("xdp-filter", "xdp-tools"), ("nft", "nftables")])
        }
        Purpose::Lint => {
            for component in ["rustfmt", "clippy"] {
                cargo_component(component)?;
            }
            cargo_deny()?;
            programs(&[("shellcheck", "shellcheck")])
        }
    }
}

fn cargo_component(component: &str) -> Result<()> {
    let subcommand = if component == "rustfmt" {
        "fmt"
    } else {
        component
    };
    if attempt(Command::new("cargo").args([subcommand, "--version"])).is_ok() {
        return Ok(());
    }
    say(&format!("{component} is missing: asking rustup for it"));
    run(
        component,
        Command::new("rustup").args(["component", "add", component]),
        "it needs rustup and the network",
    )
}

fn cargo_deny() -> Result<()> {
    if linker::on_path("cargo-deny").is_some() {
        return Ok(());
    }
    say("cargo-deny 0.20 is missing: building it (about five minutes)");
    run(
        "build cargo-deny",
        Command::new("cargo").args(["install", "cargo-deny", "--version", "~0.20", "--locked"]),
        "it needs the network",
    )
}

/// The daemon pins its links and maps on bpffs, which systemd mounts and a container often lacks.
fn mount_bpffs() -> Result<()> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let mounted = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next(), fields.next()) == (Some("/sys/fs/bpf"), Some("bpf"))
    });
    if mounted || !is_root() {
        return Ok(());
    }
    say("no bpffs at /sys/fs/bpf: mounting it");
    run(
        "mount bpffs",
        Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]),
        "a container needs CAP_SYS_ADMIN for it, or the host's /sys/fs/bpf bound into it",
    )
}
