//! The cost of the program alone, by `BPF_PROG_TEST_RUN`: no driver, no traffic, a warm cache.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    bpf,
    peers::program_id,
    scene::{Scene, Shape, Source},
    statistic::median,
};

const XDP_DROP: u32 = 1;

/// One line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) packet: String,
    /// `drop` or `pass`
    pub(crate) verdict: String,
    /// what made it: `ban`, `deny`, or nothing
    pub(crate) because: String,
    /// nanoseconds a packet, the harness of the kernel (about 10) included
    pub(crate) packetwatch_ns: f64,
    pub(crate) xdp_filter_ns: f64,
    /// ours to the peer's in the same round, the median of them; below 1 we are faster
    pub(crate) ratio: f64,
}

/// Measures all shapes and verdicts in `rounds` of `repeat` packets, taking turns.
///
/// # Errors
/// A program does not judge a frame as expected.
pub(crate) fn measure(scene: &Scene, rounds: usize, repeat: u32) -> Result<Vec<Cost>> {
    let ours = bpf::program(program_id(&scene.lan.host, "pw0")?)?.fd()?;
    let peer = bpf::program(scene.xdp_filter.program_id()?)?.fd()?;
    let mut costs = Vec::new();
    // Test runs take the loopback interface of the caller's namespace as the ingress.
    scene.lan.host.run(|| {
        bpf::take_precedence()?;
        for shape in Shape::ALL {
            for source in [Source::Banned, Source::Denied, Source::Good] {
                costs.push(compare(
                    ours.as_fd(),
                    peer.as_fd(),
                    shape,
                    source,
                    (rounds, repeat),
                )?);
            }
        }
        anyhow::Ok(())
    })?;
    Ok(costs)
}

fn compare(
    ours: BorrowedFd<'_>,
    peer: BorrowedFd<'_>,
    shape: Shape,
    source: Source,
    (rounds, repeat): (usize, u32),
) -> Result<Cost> {
    let (verdict, because, is_drop) = match source {
        Source::Banned => ("drop", "ban", true),
        Source::Denied => ("drop", "deny", true),
        Source::Good => ("pass", "", false),
    };
    // The peer has one list: what we deny or ban, it denies.
    let theirs = if is_drop { Source::Banned } else { source };
    let contestants = [
        ("packetwatch", ours, shape.frame(source)),
        ("xdp-filter", peer, shape.frame(theirs)),
    ];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for ((name, program, frame), times) in contestants.iter().zip(&mut times) {
            let (answer, ns) = bpf::run(*program, frame, repeat)?;
            ensure!(
                (answer == XDP_DROP) == is_drop,
                "{name} answers {answer} to a packet to {verdict} ({})",
                shape.name()
            );
            times.push(ns);
        }
    }
    let [ours, peer] = times;
    let ratios: Vec<f64> = ours
        .iter()
        .zip(&peer)
        .map(|(ours, peer)| ours / peer)
        .collect();
    Ok(Cost {
        packet: shape.name().to_owned(),
        verdict: verdict.to_owned(),
        because: because.to_owned(),
        packetwatch_ns: median(&ours),
        xdp_filter_ns: median(&peer),
        ratio: median(&ratios),
    })
}
