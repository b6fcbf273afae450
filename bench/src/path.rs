//! The whole path: from the generator through a veth pair, its driver and the filter, to the drop.

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    generator::{Generator, accept_frames, counter},
    peers::nftables_dropped,
    scene::{Scene, Shape, Source},
    statistic::median,
};

/// Contestants by their names in the results.
pub(crate) const OURS: &str = "packetwatch";
pub(crate) const XDP_FILTER: &str = "xdp-filter";
pub(crate) const NFTABLES: &str = "nftables (netdev ingress)";
pub(crate) const OURS_V6: &str = "packetwatch, IPv6";
pub(crate) const EMPTY: &str = "a program that drops at once";

/// One contestant's line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Speed {
    pub(crate) contestant: String,
    /// million packets a second, generated, received and dropped, on one core
    pub(crate) mpps: f64,
    /// ours to theirs in the same round, the median of them; above 1 we are faster
    pub(crate) ratio: f64,
}

struct Contestant {
    name: &'static str,
    interface: &'static str,
    generator: Generator,
    frame: Vec<u8>,
    speeds: Vec<f64>,
}

/// Floods each contestant with `count` packets of one banned source, `rounds` times in turn.
///
/// # Errors
/// A packet that was sent was not received, or not dropped.
pub(crate) fn measure(scene: &Scene, rounds: usize, count: u32) -> Result<Vec<Speed>> {
    let mut contestants = Vec::new();
    for (name, link, shape) in [
        (OURS, 0, Shape::V4),
        (XDP_FILTER, 1, Shape::V4),
        (NFTABLES, 2, Shape::V4),
        (OURS_V6, 0, Shape::V6),
        (EMPTY, 3, Shape::V4),
    ] {
        contestants.push(Contestant {
            name,
            interface: ["pw0", "pw1", "pw2", "pw3"][link],
            generator: Generator::new(&scene.link(link).client, "eth0")?,
            frame: shape.frame(Source::Banned),
            speeds: Vec::new(),
        });
    }
    // Without an XDP program it polls for this reason alone.
    accept_frames(&scene.lan.host, "pw2")?;
    // The first fills page pools and caches.
    for round in 0..=rounds {
        for contestant in &mut contestants {
            let speed = contestant
                .flood(scene, count)
                .with_context(|| format!("{} in round {round} of {rounds}", contestant.name))?;
            if round > 0 {
                contestant.speeds.push(speed);
            }
        }
    }
    let ours = contestants[0].speeds.clone();
    Ok(contestants
        .into_iter()
        .map(|Contestant { name, speeds, .. }| {
            let ratios: Vec<f64> = ours
                .iter()
                .zip(&speeds)
                .map(|(ours, its)| ours / its)
                .collect();
            Speed {
                contestant: name.to_owned(),
                mpps: median(&speeds),
                ratio: median(&ratios),
            }
        })
        .collect())
}

impl Contestant {
    /// Million packets a second.
    fn flood(&self, scene: &Scene, count: u32) -> Result<f64> {
        let host = &scene.lan.host;
        let dropped = || match self.interface {
            "pw2" => nftables_dropped(host),
            interface => counter(host, interface, "rx_queue_", "_xdp_drops"),
        };
        let before = dropped()?;
        let took = self.generator.send(&self.frame, count, || {
            counter(host, self.interface, "rx_queue_", "_xdp_packets")
        })?;
        let dropped = dropped()? - before;
        ensure!(
            dropped == u64::from(count),
            "{dropped} packets were dropped of {count} sent"
        );
        Ok(f64::from(count) / took.as_secs_f64() / 1e6)
    }
}
