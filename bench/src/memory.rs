//! What the daemon takes: its process and the kernel's maps.

use anyhow::{Context as _, Result, ensure};
use packetwatch_tests::Daemon;
use serde::{Deserialize, Serialize};

use crate::idle;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// MiB of the process; the index of the lists is in both figures, as it is mapped
    pub(crate) resident_mib: f64,
    /// MiB of all maps in the kernel
    pub(crate) maps_mib: f64,
}

impl Memory {
    pub(crate) fn of(daemon: &Daemon) -> Result<Self> {
        let answer = daemon.api("GET", "/v1/status", None);
        ensure!(answer.status == 200, "status: {}", answer.text());
        let maps = answer.json()["memory"]["maps_bytes"]
            .as_u64()
            .context("status names no memory")?;
        Ok(Self {
            resident_mib: idle::resident_kib(daemon.pid())? as f64 / 1024.0,
            maps_mib: maps as f64 / f64::from(1 << 20),
        })
    }

    pub(crate) fn whole_mib(&self) -> f64 {
        self.resident_mib + self.maps_mib
    }
}
