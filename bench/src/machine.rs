//! What the numbers were taken on: they mean nothing elsewhere, their ratios a little.

use std::{collections::BTreeMap, fs, thread};

use anyhow::Result;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    /// what the kernel does against faults of this CPU, each of which costs something in every
    /// program; those that it is not affected by are left out
    pub(crate) mitigations: BTreeMap<String, String>,
}

impl Machine {
    pub(crate) fn here() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        Ok(Self {
            kernel: kernel_version()?,
            cpu: model.unwrap_or_else(|| "unknown CPU".to_owned()),
            cores: thread::available_parallelism()?.get(),
            memory_gib: memory_kib()? >> 20,
            mitigations: mitigations()?,
        })
    }
}

/// Without what whoever built it appends.
fn kernel_version() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let version = release.trim().split(['-', '+']).next();
    Ok(version.unwrap_or_default().to_owned())
}

fn memory_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.unwrap_or_default().trim().trim_end_matches(" kB");
    Ok(kib.parse()?)
}

fn mitigations() -> Result<BTreeMap<String, String>> {
    let mut mitigations = BTreeMap::new();
    for file in fs::read_dir("/sys/devices/system/cpu/vulnerabilities")? {
        let file = file?;
        let state = fs::read_to_string(file.path())?.trim().to_owned();
        if state != "Not affected" {
            mitigations.insert(file.file_name().to_string_lossy().into_owned(), state);
        }
    }
    Ok(mitigations)
}
