//! From the SYN that crosses a threshold to the ban in the kernel's map.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, Map, MapData, MapInfo, loaded_maps};
use packetwatch_abi::{Ban, BanKeyV4};
use packetwatch_tests::{Frames, Netns};
use serde::{Deserialize, Serialize};

use crate::{
    bpf,
    peers::program_id,
    scene::{FREE_PORTS, Scene, call, destination},
    statistic::{median, quantile},
};

/// Sources that keep calling meanwhile, each twice in a few seconds.
const OTHERS: u32 = 10_000;
/// Their calls in one go, and the pause behind them: 5000 calls a second.
const BURST: usize = 5;
const PAUSE: Duration = Duration::from_millis(1);
/// A ban that takes longer is a failure.
const LIMIT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BanLatency {
    pub(crate) samples: usize,
    /// sources that were calling at the time
    pub(crate) active_sources: u32,
    pub(crate) median_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) worst_us: f64,
}

impl BanLatency {
    /// Of times in microseconds; panics without one.
    pub(crate) fn of(times: &[f64], active_sources: u32) -> Self {
        Self {
            samples: times.len(),
            active_sources,
            median_us: median(times),
            p99_us: quantile(times, 0.99),
            worst_us: quantile(times, 1.0),
        }
    }
}

/// Has `samples` new sources scan ports, one after the other.
///
/// # Errors
/// One of them was not banned.
pub(crate) fn measure(scene: &Scene, samples: usize) -> Result<BanLatency> {
    let bans = open_bans(&scene.lan.host, "pw0")?;
    let frames = Frames::open(&scene.link(0).client, "eth0");
    let others: Vec<Vec<u8>> = (0..OTHERS)
        .map(|n| call(source(64, n), destination(), 443))
        .collect();
    // No faster than sources that are new find places: ten times as many were a flood.
    for burst in others.chunks(BURST) {
        burst.iter().for_each(|frame| frames.send(frame));
        thread::sleep(PAUSE);
    }
    let done = AtomicBool::new(false);
    let times = thread::scope(|scope| {
        let background = Frames::open(&scene.link(0).client, "eth0");
        let (others, done) = (&others, &done);
        scope.spawn(move || {
            for burst in others.chunks(BURST).cycle() {
                burst.iter().for_each(|frame| background.send(frame));
                thread::sleep(PAUSE);
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let times: Result<Vec<f64>> = (0..samples)
            .map(|n| ban(&frames, &bans, source(128, u32::try_from(n)?)))
            .collect();
        done.store(true, Ordering::Relaxed);
        times
    })?;
    Ok(BanLatency::of(&times, OTHERS))
}

pub(crate) type Bans = HashMap<MapData, BanKeyV4, Ban>;

fn ban(frames: &Frames, bans: &Bans, source: IpAddr) -> Result<f64> {
    scan(frames, source);
    // Away from the daemon's work on the calls before.
    thread::sleep(Duration::from_millis(2));
    cross(frames, bans, source)
}

/// As many ports as a source may call.
pub(crate) fn scan(frames: &Frames, source: IpAddr) {
    for port in 1..=FREE_PORTS {
        frames.send(&call(source, destination(), port));
    }
}

/// Microseconds from the call behind [`scan`] to its ban.
pub(crate) fn cross(frames: &Frames, bans: &Bans, source: IpAddr) -> Result<f64> {
    let IpAddr::V4(address) = source else {
        bail!("{source} is no IPv4 address");
    };
    let key = BanKeyV4 {
        addr: u32::from_ne_bytes(address.octets()),
        len: 32,
    };
    let crossing = call(source, destination(), FREE_PORTS + 1);
    if bans.get(&key, 0).is_ok() {
        bail!("{source} was banned a call too early");
    }
    let start = Instant::now();
    frames.send(&crossing);
    while bans.get(&key, 0).is_err() {
        if start.elapsed() > LIMIT {
            bail!("{source} was not banned in {LIMIT:?}");
        }
        // The daemon may be waiting for this very core.
        thread::yield_now();
    }
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

/// The `n`-th address from 198.19.`block`.0 on; a block has 64 times 256 of them.
pub(crate) fn source(block: u8, n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(
        Ipv4Addr::new(198, 19, block, 0).to_bits() + n,
    ))
}

/// The daemon's map of bans, by its program on an interface.
pub(crate) fn open_bans(netns: &Netns, interface: &str) -> Result<Bans> {
    let info = bpf::program(program_id(netns, interface)?)?;
    let ids = info.map_ids()?.context("the kernel names no maps")?;
    let map = loaded_maps()
        .filter_map(Result::ok)
        .find(|map| ids.contains(&map.id()) && map.name_as_str() == Some("BANS_V4"))
        .map(|map: MapInfo| MapData::from_id(map.id()))
        .context("the program has no map BANS_V4")??;
    Ok(HashMap::try_from(Map::from_map_data(map)?)?)
}
