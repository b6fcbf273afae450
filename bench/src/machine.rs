//! What the numbers were taken on: they mean nothing elsewhere, their ratios a little.

use std::{fs, thread};

use anyhow::Result;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
}

impl Machine {
    pub(crate) fn here() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        Ok(Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            cpu: model.unwrap_or_else(|| "unknown CPU".to_owned()),
            cores: thread::available_parallelism()?.get(),
        })
    }
}
