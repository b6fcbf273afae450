//! Builds the XDP program with a tool chain of its own and leaves the object at
//! `OUT_DIR/packetwatch`, where the data plane embeds it.

use std::{
    env,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain};
use xtask::{linker, toolchain};

fn main() -> ExitCode {
    // The first also covers the ABI crate, which lies inside. The others hold the profile and the
    // versions of what the object is made from.
    for path in [
        "../packetwatch-ebpf",
        "../Cargo.toml",
        "../Cargo.lock",
        "build.rs",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in [toolchain::OVERRIDE, "RUSTUP_TOOLCHAIN"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rustc-env=PACKETWATCH_GIT={}", commit());
    if let Err(error) = build_object() {
        eprintln!("cannot build the eBPF object: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn build_object() -> Result<()> {
    let chosen = toolchain::find()?;
    linker::check(chosen.llvm)
        .map_err(|error| anyhow!("bpf-linker {error:#}. Run `make setup`, which installs it"))?;
    // aya-build hands this process's environment to the nested cargo, which is all it runs.
    let mut environment = vec![("CARGO_TERM_QUIET", "true")];
    if !chosen.nightly {
        // Also what aya-build goes by when it decides on `-Z build-std`.
        environment.push(("RUSTC_BOOTSTRAP", "1"));
    }
    for (name, value) in environment {
        // SAFETY: a build script's main thread, before any other is started.
        unsafe { env::set_var(name, value) };
    }
    let object = Package {
        name: "packetwatch-ebpf",
        root_dir: "../packetwatch-ebpf",
        ..Package::default()
    };
    aya_build::build_ebpf([object], Toolchain::Custom(&chosen.name))
        .with_context(|| format!("with tool chain {chosen}"))
}

/// The short hash of the commit this is built from, or `unknown` outside a git work tree.
fn commit() -> String {
    let git = |args: &[&str]| {
        let run = Command::new("git").args(args).output().ok()?;
        let answer = String::from_utf8(run.stdout).ok()?;
        run.status.success().then(|| answer.trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    // The reflog grows with every commit, checkout and reset. A path that does not exist would
    // make cargo run this script at every build.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    hash
}
