//! What the daemon takes from a host on which nothing happens.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result};
use packetwatch_tests::Daemon;
use serde::{Deserialize, Serialize};

use crate::memory::Memory;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Idle {
    pub(crate) seconds: u64,
    /// of one core
    pub(crate) cpu_percent: f64,
    /// with the default configuration and empty lists
    pub(crate) memory: Memory,
}

/// Watches the daemon do nothing for so long.
pub(crate) fn measure(daemon: &Daemon, seconds: u64) -> Result<Idle> {
    let pid = daemon.pid();
    let before = cpu_ns(pid)?;
    thread::sleep(Duration::from_secs(seconds));
    let used = cpu_ns(pid)? - before;
    Ok(Idle {
        seconds,
        cpu_percent: used as f64 / (seconds as f64 * 1e9) * 100.0,
        memory: Memory::of(daemon)?,
    })
}

/// Time on a core of all threads. `/proc/PID/stat` counts in ticks of 10 ms, too coarse for this.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the daemon has ended")? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let on_core = text.split(' ').next().unwrap_or_default();
        sum += on_core.parse::<u64>().context("schedstat is no number")?;
    }
    Ok(sum)
}
