//! How long a start takes until everything is in force: a daemon with long lists is killed and started
//! again, beside the filter that it has left and without it.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use packetwatch_tests::{Daemon, Frames, Lan, patience};
use serde::{Deserialize, Serialize};

use crate::{
    bpf,
    fill::{ban, denied, deny, scanner, with_room_for},
    peers::program_id,
    scene::{call, destination},
    statistic::{median, quantile},
};

/// What is to be in force, and how often that is measured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Full {
    pub(crate) prefixes: usize,
    pub(crate) bans: u32,
    /// of each kind
    pub(crate) starts: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) full: Full,
    /// what the killed process had pinned is in place
    pub(crate) from_pins: Times,
    /// there is the state directory alone
    pub(crate) from_disk: Times,
}

/// Seconds from exec until the daemon says that it is ready, and every packet of a sample is judged as
/// the lists say; one for each start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) seconds: Vec<f64>,
}

impl Times {
    pub(crate) fn median(&self) -> f64 {
        median(&self.seconds)
    }

    pub(crate) fn worst(&self) -> f64 {
        quantile(&self.seconds, 1.0)
    }
}

/// The kernel lets go of a filter without pins at once, or a little later.
const LET_GO: Duration = Duration::from_secs(30);
/// Of the prefixes and of the bans every so-many-th is looked at, and the last.
const STRIDE: usize = 1000;

/// # Errors
/// The daemon refuses the lists, or is ready without having them in force.
pub(crate) fn measure(full: Full) -> Result<Start> {
    let lan = Lan::new();
    // The loopback interface is where the kernel says a frame of a test run came from.
    let mut daemon = Daemon::builder(&lan.host)
        .interface("pw0")
        .interface("lo")
        .config_toml(&with_room_for(full.bans))
        .start();
    let listed = denied(full.prefixes)?;
    deny(&daemon, &listed)?;
    ban(
        &daemon,
        &Frames::open(&lan.segment().client, "eth0"),
        full.bans,
    )?;
    let sample = Sample::of(&listed, full.bans);
    // The last bans are on the disk when it has stopped.
    daemon.restart();
    sample.is_judged(&lan)?;

    let [mut from_pins, mut from_disk] = [(); 2].map(|()| Vec::with_capacity(full.starts));
    for _ in 0..full.starts {
        daemon.kill();
        from_pins.push(sample.seconds_to(&mut daemon, &lan)?);
        daemon.kill();
        unpin(&daemon, &lan)?;
        from_disk.push(sample.seconds_to(&mut daemon, &lan)?);
    }
    let times = |seconds| Times { seconds };
    Ok(Start {
        full,
        from_pins: times(from_pins),
        from_disk: times(from_disk),
    })
}

/// Removes what the daemon has pinned, and with it the filter.
fn unpin(daemon: &Daemon, lan: &Lan) -> Result<()> {
    for entry in fs::read_dir(daemon.bpffs())? {
        fs::remove_dir_all(entry?.path())?;
    }
    let gone = patience::until(LET_GO, || lan.host.xdp("pw0").is_none().then_some(()));
    gone.with_context(|| format!("the filter is there {LET_GO:?} after its pins"))
}

/// Packets of listed and banned sources, and of one that is neither.
struct Sample {
    dropped: Vec<(IpAddr, Vec<u8>)>,
    passed: Vec<u8>,
}

impl Sample {
    fn of(listed: &[IpNet], bans: u32) -> Self {
        let denied = listed.iter().step_by(STRIDE).chain(listed.last());
        let banned = (0..bans).step_by(STRIDE).chain(bans.checked_sub(1));
        let sources = denied.map(IpNet::network).chain(banned.map(scanner));
        Self {
            dropped: sources.map(|source| (source, call_of(source))).collect(),
            passed: call_of([198, 19, 3, 1].into()),
        }
    }

    /// How long the daemon, which was killed, takes from exec until all of it is judged.
    fn seconds_to(&self, daemon: &mut Daemon, lan: &Lan) -> Result<f64> {
        let start = Instant::now();
        daemon.restart();
        self.is_judged(lan)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// # Errors
    /// The program on `pw0` lets a packet pass that is to be dropped, or drops the other.
    fn is_judged(&self, lan: &Lan) -> Result<()> {
        const XDP_DROP: u32 = 1;
        let program = bpf::program(program_id(&lan.host, "pw0")?)?.fd()?;
        lan.host.run(|| {
            let is_dropped = |frame| anyhow::Ok(bpf::run(program.as_fd(), frame, 1)?.0 == XDP_DROP);
            for (source, frame) in &self.dropped {
                ensure!(
                    is_dropped(frame)?,
                    "the daemon is ready, and a packet of {source} passes"
                );
            }
            ensure!(!is_dropped(&self.passed)?, "a packet of nobody is dropped");
            Ok(())
        })
    }
}

fn call_of(source: IpAddr) -> Vec<u8> {
    let to = match source {
        IpAddr::V4(_) => destination(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    call(source, to, 443)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn first_and_last_of_both_lists_are_looked_at() {
        let listed: Vec<IpNet> = (0..2500)
            .map(|n| IpNet::from(IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + n))))
            .collect();
        let sample = Sample::of(&listed, 1002);
        let sources: Vec<String> = (sample.dropped.iter())
            .map(|(source, _)| source.to_string())
            .collect();
        let expected = [
            "192.0.2.0",
            "192.0.5.232",
            "192.0.9.208",
            "192.0.11.195",
            "10.0.0.0",
            "10.0.3.232",
            "10.0.3.233",
        ];
        assert_eq!(sources, expected);
        let nobody = Sample::of(&[], 0);
        assert!(nobody.dropped.is_empty());
    }

    #[test]
    #[ignore = "needs root: network namespaces and BPF"]
    fn a_start_is_measured_from_pins_and_from_the_disk() {
        let full = Full {
            prefixes: 2000,
            bans: 20,
            starts: 1,
        };
        let start = measure(full).unwrap();
        for times in [start.from_pins, start.from_disk] {
            assert_eq!(times.seconds.len(), 1);
            assert!(times.worst() > 0.0);
        }
    }

    #[test]
    #[ignore = "needs root: network namespaces and BPF"]
    fn a_ready_daemon_that_lacks_an_entry_is_no_start() {
        let lan = Lan::new();
        let daemon = Daemon::builder(&lan.host)
            .interface("pw0")
            .interface("lo")
            .start();
        let listed = denied(2000).unwrap();
        let (last, others) = listed.split_last().unwrap();
        deny(&daemon, others).unwrap();
        let error = Sample::of(&listed, 0).is_judged(&lan).unwrap_err();
        let passes = format!("a packet of {} passes", last.network());
        assert!(error.to_string().contains(&passes), "{error}");
        let answer = daemon.api("PUT", &format!("/v1/deny/{last}"), None);
        assert_eq!(answer.status, 201, "{answer:?}");
        Sample::of(&listed, 0).is_judged(&lan).unwrap();
    }
}
