//! How a cost grows with one thing: lines of points, measured in turns.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use packetwatch_abi::{Action, MAX_INTERFACES};
use packetwatch_tests::Kernel;
use serde::{Deserialize, Serialize};

use crate::{bpf, family::Family, reel::Front, statistic::median};

/// Lines over one axis, all measured in the same rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Curve {
    pub(crate) lines: Vec<Line>,
}

/// One contestant, one family, one mix of packets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) family: Family,
    pub(crate) contestant: Contestant,
    pub(crate) packets: Packets,
    pub(crate) points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    Packetwatch,
    /// the kernel's longest match, as a reference
    Trie,
    /// the kernel's LRU hash, as a reference
    Lru,
    /// a program that passes everything: what is in every other figure too
    Harness,
}

/// What the contestants are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Packets {
    /// calls of sources anywhere outside the list
    Anywhere,
    /// calls of sources next to listed ones, inside one partly listed network
    Nearby,
    /// calls of as many sources as the axis says
    Calls,
    /// packets that no default rule looks at, of as many sources
    Datagrams,
    /// calls of one source, which has an entry
    One,
    /// calls of a million sources
    Flood,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// place on the axis
    pub(crate) at: u64,
    /// nanoseconds a packet in each round, the harness and the reel included
    pub(crate) rounds: Vec<f64>,
}

impl Point {
    pub(crate) fn ns(&self) -> f64 {
        median(&self.rounds)
    }

    /// How much dearer than another, in the same round: the median of that.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        let pairs = self.rounds.iter().zip(&other.rounds);
        median(&pairs.map(|(this, that)| this / that).collect::<Vec<_>>())
    }
}

impl Line {
    pub(crate) fn at(&self, at: u64) -> Option<&Point> {
        self.points.iter().find(|point| point.at == at)
    }

    pub(crate) fn last(&self) -> Option<&Point> {
        self.points.last()
    }
}

impl Curve {
    pub(crate) fn line(
        &self,
        family: Family,
        contestant: Contestant,
        packets: Packets,
    ) -> Option<&Line> {
        let wanted = (family, contestant, packets);
        let is_wanted = |line: &&Line| (line.family, line.contestant, line.packets) == wanted;
        self.lines.iter().find(is_wanted)
    }
}

/// A contestant at one place of the axis, ready to run.
pub(crate) struct Turn {
    pub(crate) family: Family,
    pub(crate) contestant: Contestant,
    pub(crate) packets: Packets,
    pub(crate) at: u64,
    pub(crate) program: Program,
    pub(crate) frame: Vec<u8>,
}

pub(crate) enum Program {
    /// that goes through many sources
    Reel(Front),
    /// on one frame
    Alone(OwnedFd),
}

impl Program {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Reel(front) => front.program(),
            Self::Alone(program) => program.as_fd(),
        }
    }
}

/// Runs each in its turn, `rounds` times `repeat` packets, and sorts the times into lines.
///
/// `kernels` are those of our contestants: what their windows and sketches hold is out of date at
/// each round's begin, so that no round counts for another.
///
/// # Errors
/// A packet was not passed: all that is measured here is what good sources pay.
pub(crate) fn take_turns(
    kernels: &mut [Kernel],
    turns: &[Turn],
    (rounds, repeat): (usize, u32),
) -> Result<Curve> {
    const XDP_PASS: u32 = 2;
    let mut times = vec![Vec::with_capacity(rounds); turns.len()];
    bpf::take_precedence()?;
    // The first fills caches.
    for round in 0..=rounds {
        for kernel in &mut *kernels {
            kernel.advance(Duration::from_secs(600));
        }
        for (turn, times) in turns.iter().zip(&mut times) {
            let (answer, ns) = bpf::run(turn.program.fd(), &turn.frame, repeat)
                .with_context(|| format!("{:?} at {}", turn.contestant, turn.at))?;
            ensure!(
                answer == XDP_PASS,
                "{:?} at {} answers {answer} to a packet to pass",
                turn.contestant,
                turn.at
            );
            if round > 0 {
                times.push((ns * 100.0).round() / 100.0);
            }
        }
    }
    for kernel in kernels {
        nothing_was_dropped(kernel)?;
    }
    let mut curve = Curve { lines: Vec::new() };
    for (turn, rounds) in turns.iter().zip(times) {
        let Turn {
            family,
            contestant,
            packets,
            at,
            ..
        } = *turn;
        let point = Point { at, rounds };
        let known = (curve.lines.iter_mut()).find(|line| {
            (line.family, line.contestant, line.packets) == (family, contestant, packets)
        });
        match known {
            Some(line) => line.points.push(point),
            None => curve.lines.push(Line {
                family,
                contestant,
                packets,
                points: vec![point],
            }),
        }
    }
    (curve.lines).sort_by_key(|line| (line.family, line.contestant, line.packets));
    Ok(curve)
}

fn nothing_was_dropped(kernel: &Kernel) -> Result<()> {
    for slot in 0..=MAX_INTERFACES as u32 {
        for (reason, _, tally) in kernel.dataplane.outcomes_in(slot)? {
            ensure!(
                reason.action() == Action::Pass || tally.packets == 0,
                "{} packets of good sources were dropped: {}",
                tally.packets,
                reason.as_str()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_the_same_round() {
        // The machine was four times slower in the second round, for both.
        let point = |rounds: [f64; 3]| Point {
            at: 0,
            rounds: rounds.to_vec(),
        };
        let (ours, theirs) = (point([20.0, 80.0, 22.0]), point([10.0, 40.0, 10.0]));
        assert_eq!(ours.ratio_to(&theirs), 2.0);
        assert_eq!((ours.ns(), theirs.ns()), (22.0, 10.0));
    }
}
