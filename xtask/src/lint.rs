//! `xtask lint-ebpf`: the eBPF crate under its own compiler, where a warning is an error. clippy
//! sees the other crates; it cannot see this one, which has no `std` to be compiled with.

use std::{env, path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, bail};
use xtask::toolchain;

/// Checks the eBPF crate and denies its warnings.
///
/// # Errors
///
/// There is no tool chain for it, or it has an error or a warning.
pub(crate) fn lint_ebpf() -> Result<()> {
    let toolchain = toolchain::find()?;
    // Another compiler in the same target directory would have the two undo each other's work.
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let mut cargo = toolchain.command("cargo");
    cargo.args([
        "rustc",
        "--package",
        "packetwatch-ebpf",
        "--bin",
        "packetwatch",
    ]);
    cargo.args([
        "--profile",
        "check",
        "--target",
        "bpfel-unknown-none",
        "-Z",
        "build-std=core",
    ]);
    cargo
        .arg("--target-dir")
        .arg(target.join("lint-ebpf"))
        .args(["--", "--deny", "warnings"]);
    let status = cargo
        .stdin(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the eBPF crate does not pass with {toolchain}");
    }
    Ok(())
}
