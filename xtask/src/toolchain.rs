//! Finds the Rust tool chain that builds the eBPF object.
//!
//! No tool chain ships a `core` for `bpfel-unknown-none`, so it is compiled with `-Z build-std`
//! from the sources of the very compiler that is used. Those sources are rustup's component
//! `rust-src` or Debian's package `rust-web-src`; a tool chain without them is passed over.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// Names the tool chain to use, as rustup calls it, instead of looking for one.
pub const OVERRIDE: &str = "PACKETWATCH_EBPF_TOOLCHAIN";

/// The name under which set-up links Debian's compiler into rustup.
pub const DEBIAN: &str = "debian";

/// The oldest compiler the workspace builds with: `rust-version` in the root `Cargo.toml`.
pub const OLDEST: Release = Release {
    major: 1,
    minor: 95,
};

/// A compiler release; the patch level never matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor } = self;
        write!(f, "{major}.{minor}")
    }
}

/// A tool chain that can build the eBPF object.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// As rustup calls it; where there is no rustup, `default`, and there is no other to choose.
    pub name: String,
    pub release: Release,
    /// LLVM's major version. The linker reads bitcode of its own LLVM or of an older one.
    pub llvm: u32,
    /// Any other channel needs `RUSTC_BOOTSTRAP=1` before it takes `-Z build-std`.
    pub nightly: bool,
    /// Where the compiler keeps its libraries, `$(rustc --print sysroot)`.
    pub sysroot: PathBuf,
    /// Why this one and no other: the end of a sentence that begins with the name.
    pub why: String,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            release,
            llvm,
            why,
            nightly: _,
            sysroot: _,
        } = self;
        write!(f, "{name} (rustc {release}, LLVM {llvm}): {why}")
    }
}

impl Toolchain {
    /// A command run with this tool chain, set so that unstable cargo flags are taken.
    pub fn command(&self, program: &str) -> Command {
        let mut command = command(&self.name, program);
        if !self.nightly {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// Whether rustup installed it, rather than a distribution's package manager.
    pub fn is_from_rustup(&self) -> bool {
        self.sysroot != Path::new("/usr")
    }
}

/// Finds a tool chain: the one [`OVERRIDE`] names, else the first with its sources of the active
/// one, `nightly` and [`DEBIAN`].
///
/// # Errors
///
/// None will do. The error says of each what it lacks, and how to get it.
pub fn find() -> Result<Toolchain> {
    if let Some(name) = env::var(OVERRIDE).ok().filter(|name| !name.is_empty()) {
        let found = inspect(&name).with_context(|| format!("{OVERRIDE}={name} cannot be used"))?;
        return Ok(found.because(format!("{OVERRIDE} names it")));
    }
    let active = active()?;
    let mut refused = Vec::new();
    for name in [active.as_str(), "nightly", DEBIAN] {
        match inspect(name) {
            Ok(found) if refused.is_empty() => {
                return Ok(found.because("it is the active one and has its sources".to_owned()));
            }
            Ok(found) => {
                return Ok(found.because(format!("it has its sources; {}", refused.join("; "))));
            }
            Err(error) => refused.push(format!("{name} {error}")),
        }
        if !has_rustup() {
            break;
        }
    }
    bail!(
        "no tool chain here can build the eBPF object: {}. Run `make setup`, which installs what is \
         missing, or name a tool chain with {OVERRIDE}",
        refused.join("; ")
    )
}

/// The tool chain that plain `cargo` and `rustc` use here.
///
/// # Errors
///
/// rustup is there but has no tool chain.
pub fn active() -> Result<String> {
    if !has_rustup() {
        return Ok("default".to_owned());
    }
    let shown = output(Command::new("rustup").args(["show", "active-toolchain"]))?;
    // "stable-x86_64-unknown-linux-gnu (default)", followed by the reason on newer versions.
    let name = shown.split_whitespace().next().unwrap_or_default();
    if name.is_empty() {
        bail!("rustup has no active tool chain: run `rustup default stable`");
    }
    Ok(name.to_owned())
}

/// Whether `rustup` is there to choose between tool chains.
pub fn has_rustup() -> bool {
    crate::linker::on_path("rustup").is_some()
}

/// Whether the tool chain is there and recent enough; it may lack its sources.
///
/// # Errors
///
/// It is not, in words that continue a sentence beginning with the name.
pub fn inspect_compiler(name: &str) -> Result<Toolchain> {
    let version = output(command(name, "rustc").arg("-vV")).context("is not installed")?;
    let sysroot = output(command(name, "rustc").args(["--print", "sysroot"]))?;
    let toolchain = parse_version(name, &version, sysroot.trim().into())
        .with_context(|| format!("has a compiler whose version cannot be read: {version:?}"))?;
    if toolchain.release < OLDEST {
        bail!("is {}, older than {OLDEST}", toolchain.release);
    }
    Ok(toolchain)
}

fn inspect(name: &str) -> Result<Toolchain> {
    let toolchain = inspect_compiler(name)?;
    if !toolchain
        .sysroot
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
    {
        bail!("has no rust-src");
    }
    Ok(toolchain)
}

impl Toolchain {
    fn because(self, why: String) -> Self {
        Self { why, ..self }
    }
}

/// Reads the answer of `rustc -vV`; `None` where a line is missing.
fn parse_version(name: &str, answer: &str, sysroot: PathBuf) -> Option<Toolchain> {
    let field = |key: &str| answer.lines().find_map(|line| line.strip_prefix(key));
    let release = field("release: ")?;
    let mut numbers = release.split('.').map(str::parse::<u32>);
    Some(Toolchain {
        name: name.to_owned(),
        release: Release {
            major: numbers.next()?.ok()?,
            minor: numbers.next()?.ok()?,
        },
        llvm: field("LLVM version: ")?.split('.').next()?.parse().ok()?,
        nightly: release.ends_with("-nightly"),
        sysroot,
        why: String::new(),
    })
}

fn command(toolchain: &str, program: &str) -> Command {
    if !has_rustup() {
        return Command::new(program);
    }
    let mut command = Command::new("rustup");
    // To ask after a tool chain must not install it.
    command
        .env("RUSTUP_AUTO_INSTALL", "0")
        .args(["run", toolchain, program]);
    command
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: &str = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\n\
        host: x86_64-unknown-linux-gnu\nrelease: 1.95.0\nLLVM version: 22.1.2\n";

    #[test]
    fn the_compilers_answer_gives_release_channel_and_llvm() {
        let stable = parse_version("stable", STABLE, "/sysroot".into()).unwrap();
        assert_eq!(
            (stable.release, stable.llvm, stable.nightly),
            (OLDEST, 22, false)
        );

        let answer = STABLE.replace("release: 1.95.0", "release: 1.100.0-nightly");
        let nightly = parse_version("nightly", &answer, "/sysroot".into()).unwrap();
        assert!(nightly.nightly);
        assert!(nightly.release > OLDEST, "1.100 is newer than 1.95");
    }

    #[test]
    fn an_answer_without_llvm_is_refused() {
        let answer = STABLE.replace("LLVM version", "LLVM");
        assert!(parse_version("stable", &answer, "/sysroot".into()).is_none());
    }

    #[test]
    fn a_toolchain_that_is_not_there_is_named_as_such() {
        let error = inspect_compiler("no-such-toolchain").unwrap_err();
        assert_eq!(error.to_string(), "is not installed");
    }

    #[test]
    fn the_oldest_release_is_the_workspaces_rust_version() {
        assert_eq!(env!("CARGO_PKG_RUST_VERSION"), OLDEST.to_string());
    }
}
