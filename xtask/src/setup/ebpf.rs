//! The two parts of the eBPF tool chain: a compiler with its sources, and a linker that reads what
//! it emits.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};
use xtask::{
    linker,
    toolchain::{self, Toolchain},
};

use crate::install::{apt, attempt, run, say};

/// A tool chain with the sources of `core`: one that is there, else one rustup can complete, else
/// Debian's.
pub(crate) fn toolchain() -> Result<Toolchain> {
    let missing = match toolchain::find() {
        Ok(found) => {
            say(&format!("eBPF tool chain {found}"));
            return Ok(found);
        }
        Err(error) if env::var_os(toolchain::OVERRIDE).is_some_and(|name| !name.is_empty()) => {
            return Err(error);
        }
        Err(error) => error,
    };
    say(&format!("{:#}", missing.root_cause()));
    if !rust_src_from_rustup()? {
        debians_compiler()?;
    }
    let found = toolchain::find()?;
    say(&format!("eBPF tool chain {found}"));
    Ok(found)
}

/// Whether rustup could fetch `rust-src` for the active tool chain or for nightly.
fn rust_src_from_rustup() -> Result<bool> {
    if !toolchain::has_rustup() {
        return Ok(false);
    }
    for name in [toolchain::active()?.as_str(), "nightly"] {
        if !toolchain::inspect_compiler(name).is_ok_and(|found| found.is_from_rustup()) {
            continue;
        }
        say(&format!("asking rustup for rust-src of {name}"));
        // Three megabytes; a host without the network should learn of it soon.
        let mut rustup = Command::new("timeout");
        rustup.args([
            "60",
            "rustup",
            "component",
            "add",
            "rust-src",
            "--toolchain",
            name,
        ]);
        match attempt(&mut rustup) {
            Ok(()) => return Ok(true),
            Err(reason) => say(&format!("rustup could not fetch it ({reason})")),
        }
    }
    Ok(false)
}

fn debians_compiler() -> Result<()> {
    say("taking Debian's compiler, which comes with its sources");
    apt(
        "Debian's compiler",
        &["rustc-web", "cargo-web", "rust-web-src"],
    )?;
    if toolchain::has_rustup() && toolchain::inspect_compiler(toolchain::DEBIAN).is_err() {
        run(
            "name Debian's compiler for rustup",
            Command::new("rustup").args(["toolchain", "link", toolchain::DEBIAN, "/usr"]),
            "remove a tool chain of that name that leads elsewhere, and try again",
        )?;
    }
    Ok(())
}

/// bpf-linker, built against an LLVM that reads the bitcode of `toolchain`'s compiler.
pub(crate) fn linker_for(toolchain: &Toolchain) -> Result<()> {
    let Err(reason) = linker::check(toolchain.llvm) else {
        return Ok(());
    };
    let llvm = toolchain.llvm;
    if !(21..=23).contains(&llvm) {
        bail!(
            "bpf-linker {} knows LLVM 21 to 23 and {} has LLVM {llvm}: name another tool chain with {}",
            linker::VERSION,
            toolchain.name,
            toolchain::OVERRIDE,
        );
    }
    let whose = if toolchain.is_from_rustup() {
        "the tool chain's own"
    } else {
        "Debian's"
    };
    say(&format!(
        "bpf-linker {reason}: building it with {whose} LLVM {llvm} (about two minutes)"
    ));

    let mut cargo = Command::new("cargo");
    cargo.args([
        "install",
        "bpf-linker",
        "--version",
        linker::VERSION,
        "--locked",
        "--force",
    ]);
    cargo.args([
        "--no-default-features",
        "--features",
        &format!("llvm-{llvm}"),
    ]);
    let remedy =
        "or put a release binary from https://github.com/aya-rs/bpf-linker/releases on the PATH";
    if toolchain.is_from_rustup() {
        // rustup's LLVM is called libLLVM.so.22.1-rust-1.95.0-stable and the like, which is what
        // the linker will load; the name `-lLLVM` asks for is needed while it is built.
        let names = tempdir()?;
        symlink(own_llvm(&toolchain.sysroot)?, names.join("libLLVM.so"))?;
        cargo.env("LLVM_PREFIX", &toolchain.sysroot);
        cargo.env("RUSTFLAGS", format!("-L native={}", names.display()));
        let built = run("build bpf-linker", &mut cargo, remedy);
        fs::remove_dir_all(&names)?;
        built?;
    } else {
        let prefix = format!("/usr/lib/llvm-{llvm}");
        if !Path::new(&prefix).join("lib/libLLVM.so").exists() {
            let (headers, polly) = (format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"));
            apt(
                "Debian's LLVM",
                &[&headers, &polly, "libzstd-dev", "zlib1g-dev", "libxml2-dev"],
            )?;
        }
        let path = env::var("PATH").unwrap_or_default();
        cargo
            .env("PATH", format!("{prefix}/bin:{path}"))
            .env("LLVM_PREFIX", &prefix);
        run("build bpf-linker", &mut cargo, remedy)?;
    }
    linker::check(llvm).map_err(|reason| {
        anyhow!("bpf-linker {reason:#}, although it was just installed: is cargo's bin folder first on the PATH?")
    })
}

/// The LLVM library a rustup tool chain brings along.
fn own_llvm(sysroot: &Path) -> Result<PathBuf> {
    let lib = sysroot.join("lib");
    let entries = fs::read_dir(&lib).with_context(|| format!("cannot read {}", lib.display()))?;
    entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so."))
        })
        .with_context(|| format!("{} holds no libLLVM.so", lib.display()))
}

fn tempdir() -> Result<PathBuf> {
    let path = env::temp_dir().join(format!("packetwatch-llvm-{}", std::process::id()));
    fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}
