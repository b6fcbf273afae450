//! The daemon under a load: a million denied prefixes, a hundred thousand bans, and a million sources
//! seen in a minute.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use packetwatch_tests::{Daemon, Frames, Lan};
use serde::{Deserialize, Serialize};

use crate::{
    bpf,
    fill::{ban, denied, deny, with_room_for},
    idle,
    latency::{self, BanLatency},
    memory::Memory,
    peers::program_id,
    scene::{call, destination},
};

/// How much the daemon is laden with.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) prefixes: usize,
    pub(crate) bans: u32,
    /// seen in `seconds`
    pub(crate) sources: u32,
    pub(crate) seconds: u32,
    pub(crate) ban_samples: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Laden {
    pub(crate) load: Load,
    /// from the request that replaces the deny list to the answer, which comes when it is in force
    /// and on the disk
    pub(crate) list_seconds: f64,
    /// the same of the same list, sent once more: a feed that is refreshed
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) again_seconds: Option<f64>,
    /// of one core, all of the daemon's threads, while the sources came
    pub(crate) cpu_percent: f64,
    /// while they came
    pub(crate) ban_latency: BanLatency,
    /// at the end
    pub(crate) memory: Memory,
    /// after all that
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) freeing: Option<Freeing>,
}

/// What it takes to let go of the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Freeing {
    /// from the request to the answer
    pub(crate) seconds: f64,
    /// one run of the program after the other on a good packet, the longest by the wall clock:
    /// meanwhile, and in as long a time after
    pub(crate) slowest_ms: f64,
    pub(crate) slowest_after_ms: f64,
}

/// Sources that come in one go.
const BURST: u32 = 50;

/// # Errors
/// The daemon refuses the list, or does not ban who is to be banned.
pub(crate) fn measure(load: Load) -> Result<Laden> {
    let lan = Lan::new();
    let daemon = Daemon::builder(&lan.host)
        .interface("pw0")
        .config_toml(&with_room_for(load.bans))
        .start();
    let list = denied(load.prefixes)?;
    let list_seconds = deny(&daemon, &list)?;
    // What it leaves behind is in the memory below.
    let again_seconds = Some(deny(&daemon, &list)?);
    drop(list);
    let link = Frames::open(&lan.segment().client, "eth0");
    ban(&daemon, &link, load.bans)?;

    let bans = latency::open_bans(&lan.host, "pw0")?;
    let scanners: Vec<IpAddr> = (0..load.ban_samples as u32)
        .map(|n| latency::source(128, n))
        .collect();
    // They are known before the flood, in which a new one is counted from its threshold on alone.
    for scanner in &scanners {
        latency::scan(&link, *scanner);
    }
    let before = idle::cpu_ns(daemon.pid())?;
    let start = Instant::now();
    let times = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let link = Frames::open(&lan.segment().client, "eth0");
            send_sources(
                &link,
                load.sources,
                Duration::from_secs(load.seconds.into()),
            );
        });
        let pause = Duration::from_secs(load.seconds.into()) / (load.ban_samples as u32 + 1) / 2;
        let times: Result<Vec<f64>> = scanners
            .iter()
            .map(|scanner| {
                thread::sleep(pause);
                latency::cross(&link, &bans, *scanner)
            })
            .collect();
        sending.join().ok().context("the sender has panicked")?;
        times
    })?;
    let used = idle::cpu_ns(daemon.pid())? - before;
    Ok(Laden {
        load,
        list_seconds,
        again_seconds,
        cpu_percent: used as f64 / start.elapsed().as_nanos() as f64 * 100.0,
        ban_latency: BanLatency::of(&times, load.sources),
        memory: Memory::of(&daemon)?,
        freeing: Some(free(&daemon, &lan)?),
    })
}

/// Denies one prefix instead of the many, and looks how the program fares meanwhile.
fn free(daemon: &Daemon, lan: &Lan) -> Result<Freeing> {
    let program = bpf::program(program_id(&lan.host, "pw0")?)?.fd()?;
    let frame = call(IpAddr::V4(Ipv4Addr::new(11, 0, 0, 9)), destination(), 443);
    let slowest_while = |is_over: &(dyn Fn() -> bool + Sync)| {
        let mut slowest = Duration::ZERO;
        while !is_over() {
            let start = Instant::now();
            bpf::run(program.as_fd(), &frame, 1)?;
            slowest = slowest.max(start.elapsed());
        }
        anyhow::Ok(slowest.as_secs_f64() * 1e3)
    };
    let is_freed = AtomicBool::new(false);
    let (seconds, slowest_ms) = thread::scope(|scope| {
        let packets = scope.spawn(|| slowest_while(&|| is_freed.load(Ordering::Relaxed)));
        let seconds = deny(
            daemon,
            &[IpNet::new(Ipv4Addr::new(192, 0, 2, 0).into(), 24)?],
        );
        is_freed.store(true, Ordering::Relaxed);
        let slowest = packets.join().ok().context("the sender has panicked")?;
        anyhow::Ok((seconds?, slowest?))
    })?;
    let start = Instant::now();
    Ok(Freeing {
        seconds,
        slowest_ms,
        slowest_after_ms: slowest_while(&|| start.elapsed().as_secs_f64() > seconds)?,
    })
}

/// A call of each source, evenly over the time.
fn send_sources(link: &Frames, count: u32, over: Duration) {
    const FIRST: u32 = 0x0a80_0000;
    let start = Instant::now();
    for n in 0..count {
        let source = IpAddr::V4(Ipv4Addr::from_bits(FIRST + n));
        link.send(&call(source, destination(), 443));
        if n.is_multiple_of(BURST) {
            let due = over.mul_f64(f64::from(n) / f64::from(count));
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
}
