//! `xtask test-kernels`: the program on the kernels of Debian, each in a machine emulated by software.
//!
//! What is run is what is shipped: the verdict tables against the real verifier, and the daemon, on the
//! loopback interface of the machine and between its namespaces. No kernel is installed here and none of
//! this host's is touched.

mod archive;
mod image;
mod suite;

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    install::{programs, say},
    tests_run::Tally,
};
use archive::Archive;
use image::Image;
use suite::{SUITES, Suite};

/// A kernel's series, and the suite of Debian 12's archive that has it.
const KERNELS: [(&str, &str); 2] = [("6.1", "bookworm"), ("6.12", "bookworm-backports")];

/// What is downloaded and unpacked here, and what the tests run in the machine.
const PROGRAMS: [(&str, &str); 8] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("gzip", "gzip"),
    ("xz", "xz-utils"),
    ("strip", "binutils"),
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
];

/// Emulated, the verifier takes some seconds for a program that is loaded two hundred times: half an
/// hour on two CPUs that are busy otherwise too, of which this is three times as much.
const LIMIT_SECONDS: u32 = 5400;

/// Without cmpxchg16b: QEMU 7.2 spoils the flags of some, on which Linux 6.12, whose allocator uses it,
/// panics.
const CPU: &str = "max,-cx16";

/// What `timeout` exits with when the time is over.
const GIVEN_UP: i32 = 124;

/// Boots each kernel and runs the tests in it; `wanted` is one series, or `all`. `words` are libtest's
/// filters, of tests that are run instead of all.
///
/// # Errors
///
/// A kernel is not known, cannot be had or booted, or a test failed in it.
pub(crate) fn test_kernels(wanted: &str, words: &[&str]) -> Result<()> {
    let is_wanted = |series: &str| wanted == "all" || wanted == series;
    if !KERNELS.iter().any(|(series, _)| is_wanted(series)) {
        let known = KERNELS.map(|(series, _)| series).join(", ");
        bail!("there is no kernel {wanted}: name one of {known}, or all");
    }
    programs(&PROGRAMS)?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let directory = std::path::absolute(target.join("kernels"))?;
    let archive = Archive::new(&directory)?;
    suite::build_daemon()?;
    let daemon = target.join("debug/packetwatch");
    let suites = SUITES.iter().map(Suite::build);
    let suites = suites.collect::<Result<Vec<_>>>()?;
    let mut failed = Vec::new();
    for (series, release) in KERNELS.iter().filter(|(series, _)| is_wanted(series)) {
        let root = archive
            .kernel(release)
            .with_context(|| format!("Linux {series}"))?;
        let mut image = Image::new(&root)?;
        image.add_binary("packetwatch", &daemon)?;
        for (suite, executable) in SUITES.iter().zip(&suites) {
            image.add_binary(suite.name, executable)?;
        }
        let file = directory.join(format!("{series}.initrd"));
        image.pack(&suite::script(words), &file)?;
        say(&format!(
            "booting Linux {series}; emulated, this takes a while"
        ));
        let outcome = boot(&kernel_file(&root)?, &file)?;
        println!("test-kernels: Linux {series}: {outcome}");
        if !outcome.is_good() {
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
    /// suites that came to their end with every test passed
    suites: usize,
    /// the daemon told that it filters, and ended by SIGTERM with 0
    daemon: bool,
    /// it was still at it after [`LIMIT_SECONDS`]
    late: bool,
}

impl Outcome {
    fn is_good(&self) -> bool {
        let tests = self.tests.passed > 0 && self.tests.failed == 0;
        !self.late && self.daemon && tests && self.suites == SUITES.len()
    }

    fn read(&mut self, line: &str) {
        if let Some(release) = line.strip_prefix("kernel ") {
            release.trim().clone_into(&mut self.release);
        }
        self.daemon |= line.trim_end() == "daemon ended with 0 after it started";
        let is_suite = |suite: &Suite| line.trim_end() == suite::good_end(suite);
        self.suites += usize::from(SUITES.iter().any(is_suite));
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
            "({}) {passed} passed, {failed} failed in {} of {} suites that ended well; {daemon}",
            self.release,
            self.suites,
            SUITES.len()
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
            CPU,
        ])
        .args([
            "-smp",
            "2",
            "-m",
            "3G",
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
            "suite verdict ended with 0\r",
            "suite restart ended with 0\r",
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
