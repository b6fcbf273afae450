//! The daemon under a load: a million denied prefixes, a hundred thousand bans, and a million sources
//! seen in a minute.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use packetwatch_tests::{Daemon, Frames, Lan, http::Request};
use serde::{Deserialize, Serialize};

use crate::{
    bpf,
    family::Family,
    idle,
    latency::{self, BanLatency},
    lists,
    memory::Memory,
    peers::program_id,
    scene::{FREE_PORTS, call, destination},
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

/// A list of a million may take a slow machine so long.
const ANSWER: Duration = Duration::from_secs(55);
/// Sources that come in one go.
const BURST: u32 = 50;

/// # Errors
/// The daemon refuses the list, or does not ban who is to be banned.
pub(crate) fn measure(load: Load) -> Result<Laden> {
    let lan = Lan::new();
    let capacity = load.bans.next_power_of_two();
    let daemon = Daemon::builder(&lan.host)
        .interface("pw0")
        .config_toml(&format!(
            "[capacity]\nbans = {capacity}\n[log]\nconnections_per_second = 0\n"
        ))
        .start();
    let list_seconds = deny(&daemon, &denied(load.prefixes)?)?;
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

/// So many prefixes, of which a fifth is IPv6.
fn denied(count: usize) -> Result<Vec<IpNet>> {
    let ours: [IpNet; 2] = [
        IpNet::new(Ipv4Addr::new(198, 18, 0, 0).into(), 15)?,
        IpNet::new(Ipv4Addr::new(10, 0, 0, 0).into(), 8)?,
    ];
    // Without those that cover the sources here; there are few.
    let is_elsewhere = |prefix: &IpNet| {
        !ours
            .iter()
            .any(|our| our.contains(prefix) || prefix.contains(our))
    };
    let v4 = lists::denied(Family::V4, count - count / 5 + count / 50);
    let v4 = v4.into_iter().filter(is_elsewhere).take(count - count / 5);
    let list: Vec<IpNet> = v4.chain(lists::denied(Family::V6, count / 5)).collect();
    ensure!(list.len() == count, "{} prefixes, of {count}", list.len());
    Ok(list)
}

/// Replaces the deny list over the socket. Returns the seconds that took.
fn deny(daemon: &Daemon, list: &[IpNet]) -> Result<f64> {
    let count = list.len();
    let mut text = String::new();
    for prefix in list {
        text += &format!("{prefix}\n");
    }
    let mut request = Request::new("PUT", "/v1/deny");
    request.headers.push(("Content-Type", "text/plain"));
    request.body = text.into_bytes();
    let start = Instant::now();
    let stream = UnixStream::connect(daemon.socket())?;
    stream.set_read_timeout(Some(ANSWER))?;
    let answer = request.exchange(stream).context("replace the deny list")?;
    let took = start.elapsed().as_secs_f64();
    ensure!(
        answer.status == 200,
        "deny {count} prefixes: {}",
        answer.text()
    );
    let listed = &answer.json()["added"];
    ensure!(
        *listed == count,
        "{listed} prefixes were listed, of {count}"
    );
    Ok(took)
}

/// Has the default rule on ports ban so many sources.
fn ban(daemon: &Daemon, link: &Frames, count: u32) -> Result<()> {
    const SCANNERS: u32 = 0x0a00_0000;
    let source = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(SCANNERS + n));
    // Whose places were taken, or whose offence was lost, has another chance.
    const ROUNDS: u32 = 20;
    let mut banned = 0;
    for _ in 0..ROUNDS {
        for n in 0..count {
            for port in 1..=FREE_PORTS + 1 {
                link.send(&call(source(n), destination(), port));
            }
            // 7000 sources a second: half of those that find places.
            if n.is_multiple_of(7) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        banned = bans_of(daemon)?;
        if banned >= u64::from(count) {
            return Ok(());
        }
    }
    anyhow::bail!("{banned} of {count} scanners were banned in {ROUNDS} rounds")
}

fn bans_of(daemon: &Daemon) -> Result<u64> {
    // The rule loop may have some before it.
    thread::sleep(Duration::from_millis(500));
    let status = daemon.api("GET", "/v1/status", None).json();
    status["lists"]["bans"]
        .as_u64()
        .context("status names no bans")
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
