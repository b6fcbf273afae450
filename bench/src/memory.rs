//! What the daemon takes: its process and the kernel's maps.

use anyhow::{Context as _, Result, ensure};
use packetwatch_tests::Daemon;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// MiB of the process, without what it maps of the kernel's maps
    pub(crate) resident_mib: f64,
    /// MiB of all maps in the kernel
    pub(crate) maps_mib: f64,
}

impl Memory {
    pub(crate) fn of(daemon: &Daemon) -> Result<Self> {
        let answer = daemon.api("GET", "/v1/status", None);
        ensure!(answer.status == 200, "status: {}", answer.text());
        let memory = &answer.json()["memory"];
        let mib = |what: &str| {
            let bytes = memory[what].as_u64();
            let bytes = bytes.with_context(|| format!("status tells no {what}"))?;
            anyhow::Ok(bytes as f64 / f64::from(1 << 20))
        };
        Ok(Self {
            resident_mib: mib("resident_bytes")?,
            maps_mib: mib("maps_bytes")?,
        })
    }

    pub(crate) fn whole_mib(&self) -> f64 {
        self.resident_mib + self.maps_mib
    }
}
