//! `xtask test-kernels`: the program on the kernels of Debian, each in a machine emulated by software.
//!
//! What is run is what is shipped: the verdict tables against the real verifier, and the daemon on the
//! loopback interface of the machine. No kernel is installed here and none of this host's is touched.

mod archive;
mod image;

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    install::{programs, run, say},
    tests_run::Tally,
};
use archive::Archive;

/// A kernel's series, and the suite of Debian 12's archive that has it.
const KERNELS: [(&str, &str); 2] = [("6.1", "bookworm"), ("6.12", "bookworm-backports")];

/// What is downloaded and unpacked here.
const PROGRAMS: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("gzip", "gzip"),
    ("busybox", "busybox-static"),
];

/// Emulated, the verifier takes some seconds for a program that is loaded a hundred times: a quarter of
/// an hour on two CPUs that are busy otherwise too, of which this is three times as much.
const LIMIT_SECONDS: u32 = 2700;

/// What `timeout` exits with when the time is over.
const GIVEN_UP: i32 = 124;

/// Boots each kernel and runs the tests in it; `wanted` names one series, or none: all.
///
/// # Errors
///
/// A kernel cannot be had or booted, or a test failed in it.
pub(crate) fn test_kernels(wanted: Option<&str>) -> Result<()> {
    programs(&PROGRAMS)?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let directory = std::path::absolute(target.join("kernels"))?;
    let archive = Archive::new(&directory)?;
    let binaries = [verdict_suite()?, target.join("debug/packetwatch")];
    let mut failed = Vec::new();
    let kernels = KERNELS
        .iter()
        .filter(|(series, _)| wanted.is_none_or(|one| one == *series));
    for (series, suite) in kernels {
        let root = archive
            .kernel(suite)
            .with_context(|| format!("Linux {series}"))?;
        let image = image::build(
            &root,
            &directory.join(format!("{series}.initrd")),
            &binaries,
        )?;
        say(&format!(
            "booting Linux {series}; emulated, this takes a while"
        ));
        let tally = boot(&kernel_file(&root)?, &image)?;
        println!("test-kernels: Linux {series}: {tally}");
        if !tally.is_good() {
            failed.push(*series);
        }
    }
    if !failed.is_empty() {
        bail!("not good on Linux {}", failed.join(", "));
    }
    Ok(())
}

/// What a machine said.
#[derive(Debug, Default)]
struct Outcome {
    release: String,
    tests: Tally,
    /// the daemon told that it filters, and ended by SIGTERM with 0
    daemon: bool,
    /// it was still at it after [`LIMIT_SECONDS`]
    late: bool,
}

impl Outcome {
    fn is_good(&self) -> bool {
        !self.late && self.daemon && self.tests.passed > 0 && self.tests.failed == 0
    }

    fn read(&mut self, line: &str) {
        if let Some(release) = line.strip_prefix("kernel ") {
            release.trim().clone_into(&mut self.release);
        }
        self.daemon |= line.trim_end() == "daemon ended with 0 after it started";
        self.tests.read(line.trim_end());
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally { passed, failed, .. } = self.tests;
        let daemon = if self.daemon {
            "the daemon filters"
        } else {
            "THE DAEMON DOES NOT FILTER"
        };
        write!(
            f,
            "({}) {passed} passed, {failed} failed; {daemon}",
            self.release
        )?;
        if self.late {
            write!(f, "; GIVEN UP AFTER {LIMIT_SECONDS} s")?;
        }
        Ok(())
    }
}

fn boot(kernel: &Path, image: &Path) -> Result<Outcome> {
    let mut machine = Command::new("timeout")
        .arg(LIMIT_SECONDS.to_string())
        .args([
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
        ])
        .args([
            "-smp",
            "2",
            "-m",
            "2G",
            "-nographic",
            "-no-reboot",
            "-nic",
            "none",
        ])
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start qemu-system-x86_64")?;
    let console = machine.stdout.take().context("the machine has a console")?;
    let mut outcome = Outcome::default();
    for line in BufReader::new(console).split(b'\n') {
        let line = line.context("read the machine's console")?;
        let line = String::from_utf8_lossy(&line);
        println!("{}", line.trim_end());
        outcome.read(&line);
    }
    let ended = machine.wait().context("wait for the machine")?;
    outcome.late = ended.code() == Some(GIVEN_UP);
    Ok(outcome)
}

/// Builds the suite and the daemon, and returns the suite's executable.
fn verdict_suite() -> Result<PathBuf> {
    run(
        "build the daemon",
        Command::new("cargo").args(["build", "--bins"]),
        "see above",
    )?;
    let output = Command::new("cargo")
        .args(["test", "--test", "verdict", "--no-run"])
        .args(["--message-format", "json"])
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let executable = text.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        Some(PathBuf::from(rest.split_once('"')?.0))
    });
    executable.context("cargo names no executable of the verdict suite")
}

fn kernel_file(root: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(root.join("boot")).context("the package has no /boot")?;
    let mut paths = files.filter_map(|file| Some(file.ok()?.path()));
    let is_kernel = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("vmlinuz-"))
    };
    paths.find(is_kernel).context("the package has no kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        lines.iter().for_each(|line| outcome.read(line));
        outcome
    }

    #[test]
    fn a_machine_is_good_if_it_says_so_to_its_end() {
        let lines = [
            "kernel 6.1.0-50-cloud-amd64\r",
            "daemon ended with 0 after it started\r",
            "test result: ok. 83 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out\r",
        ];
        let good = outcome(&lines);
        assert!(good.is_good());
        let shown = good.to_string();
        assert!(
            shown.starts_with("(6.1.0-50-cloud-amd64) 83 passed, 0 failed"),
            "{shown}"
        );
        for missing in 1..lines.len() {
            let mut some = lines.to_vec();
            some.remove(missing);
            assert!(!outcome(&some).is_good(), "{some:?}");
        }
        let late = Outcome {
            late: true,
            ..outcome(&lines)
        };
        assert!(!late.is_good() && late.to_string().contains("GIVEN UP"));
    }
}
