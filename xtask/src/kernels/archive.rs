//! Debian's archive, and the kernels that are taken from it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::KERNELS;
use crate::install::run;

/// Debian's archive, at the mirror that this host uses, with lists of its own: other suites than the
/// host's are looked into without changing what the host installs from.
pub(super) struct Archive {
    directory: PathBuf,
}

impl Archive {
    pub(super) fn new(directory: &Path) -> Result<Self> {
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
             Dir::State::Lists \"{0}/lists\";\nDir::Cache \"{0}/cache\";\n\
             APT::Sandbox::User \"root\";\n",
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
    pub(super) fn kernel(&self, suite: &str) -> Result<PathBuf> {
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
