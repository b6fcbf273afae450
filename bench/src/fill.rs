//! What fills a daemon: a deny list through its API, and bans by its rules.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use packetwatch_tests::{Daemon, Frames, http::Request};

use crate::{
    family::Family,
    lists,
    scene::{FREE_PORTS, call, destination},
};

/// A list of a million may take a slow machine so long.
const ANSWER: Duration = Duration::from_secs(55);

/// The tables of a configuration that has room for so many bans, and no line for each call.
pub(crate) fn with_room_for(bans: u32) -> String {
    let capacity = bans.next_power_of_two();
    format!("[capacity]\nbans = {capacity}\n[log]\nconnections_per_second = 0\n")
}

/// So many prefixes, of which a fifth is IPv6.
pub(crate) fn denied(count: usize) -> Result<Vec<IpNet>> {
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
pub(crate) fn deny(daemon: &Daemon, list: &[IpNet]) -> Result<f64> {
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
    let answer = answer.json();
    let number = |key: &str| answer[key].as_u64().unwrap_or_default();
    let listed = number("added") + number("updated");
    ensure!(
        listed == count as u64,
        "{listed} prefixes were listed, of {count}"
    );
    Ok(took)
}

/// Has the default rule on ports ban so many sources.
pub(crate) fn ban(daemon: &Daemon, link: &Frames, count: u32) -> Result<()> {
    // Whose places were taken, or whose offence was lost, has another chance.
    const ROUNDS: u32 = 20;
    let mut banned = 0;
    for _ in 0..ROUNDS {
        for n in 0..count {
            for port in 1..=FREE_PORTS + 1 {
                link.send(&call(scanner(n), destination(), port));
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

/// The `n`-th source that [`ban`] has banned.
pub(crate) fn scanner(n: u32) -> IpAddr {
    const FIRST: u32 = 0x0a00_0000;
    IpAddr::V4(Ipv4Addr::from_bits(FIRST + n))
}

fn bans_of(daemon: &Daemon) -> Result<u64> {
    // The rule loop may have some before it.
    thread::sleep(Duration::from_millis(500));
    let status = daemon.api("GET", "/v1/status", None).json();
    status["lists"]["bans"]
        .as_u64()
        .context("status names no bans")
}
