//! `xtask test-kernels`: the program on the kernels of Debian, each in a machine emulated by software.
//!
//! What is run is what is shipped: the verdict tables against the real verifier, and the daemon on the
//! loopback interface of the machine. No kernel is installed here and none of this host's is touched.

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

/// A kernel's series, and the suite of Debian 12's archive that has it.
const KERNELS: [(&str, &str); 2] = [("6.1", "bookworm"), ("6.12", "bookworm-backports")];

/// What is downloaded and unpacked here.
const PROGRAMS: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("gzip", "gzip"),
    ("busybox", "busybox-static"),
];

/// Emulated, the verifier takes a second or more for a program that is loaded a hundred times.
const LIMIT_SECONDS: u32 = 3600;

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
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.daemon && self.tests.passed > 0 && self.tests.failed == 0
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
        )
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
    machine.wait().context("wait for the machine")?;
    Ok(outcome)
}

/// Builds the suite and the daemon, and returns the suite's executable.
fn verdict_suite() -> Result<PathBuf> {
    run(
        "build the daemon",
        Command::new("cargo").args(["build", "--package", "packetwatch"]),
        "see above",
    )?;
    let output = Command::new("cargo")
        .args([
            "test",
            "--package",
            "packetwatch-tests",
            "--test",
            "verdict",
            "--no-run",
        ])
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

/// Debian's archive, at the mirror that this host uses, with lists of its own: other suites than the
/// host's are looked into without changing what the host installs from.
struct Archive {
    directory: PathBuf,
}

impl Archive {
    fn new(directory: &Path) -> Result<Self> {
        let lists = directory.join("apt/lists/partial");
        for made in [&lists, &directory.join("apt/cache/archives/partial")] {
            fs::create_dir_all(made).with_context(|| format!("make {}", made.display()))?;
        }
        let targets = Command::new("apt-get")
            .args([
                "indextargets",
                "--format",
                "$(SITE) $(RELEASE)",
                "Created-By: Packages",
            ])
            .output()
            .context("start apt-get: kernels are taken from Debian's archive")?;
        let targets = String::from_utf8_lossy(&targets.stdout);
        let site = targets
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find_map(|(site, release)| (release == "bookworm").then_some(site))
            .context("this host has no mirror of Debian 12 in its sources of apt")?;
        let sources: String = KERNELS
            .iter()
            .map(|(_, suite)| {
                let key = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg";
                format!("deb [{key}] {site} {suite} main\n")
            })
            .collect();
        let at = directory.join("apt");
        fs::write(at.join("sources.list"), sources)?;
        let configuration = format!(
            "Dir::Etc::SourceList \"{0}/sources.list\";\nDir::Etc::SourceParts \"-\";\n\
             Dir::State::Lists \"{0}/lists\";\nDir::Cache \"{0}/cache\";\n",
            at.display()
        );
        fs::write(at.join("apt.conf"), configuration)?;
        let archive = Self {
            directory: directory.to_owned(),
        };
        run(
            "fetch the lists of Debian's kernels",
            archive.apt("apt-get").args(["-qq", "update"]),
            "check the network",
        )?;
        Ok(archive)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.directory.join("apt/apt.conf"))
            .current_dir(&self.directory);
        command
    }

    /// Downloads and unpacks a suite's kernel for virtual machines, if that was not done yet.
    fn kernel(&self, suite: &str) -> Result<PathBuf> {
        let wanted = format!("linux-image-cloud-amd64/{suite}");
        let output = self.apt("apt-cache").args(["depends", &wanted]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        let package = lines.find_map(|line| line.trim().strip_prefix("Depends: "));
        let package = package.with_context(|| format!("the mirror has no {wanted}"))?;
        let root = self.directory.join(package);
        if root.join("boot").is_dir() {
            return Ok(root);
        }
        let step = format!("download {package}");
        run(
            &step,
            self.apt("apt-get").args(["-qq", "download", package]),
            "check the network",
        )?;
        let prefix = format!("{package}_");
        let files = fs::read_dir(&self.directory)?;
        let mut files = files.filter_map(|file| Some(file.ok()?.path()));
        let is_it = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(&prefix))
        };
        let file = files.find(is_it).context("apt-get downloaded no package")?;
        run(
            "unpack the kernel",
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(file)
                .arg(&root),
            "remove it and try again",
        )?;
        Ok(root)
    }
}
