//! What it costs to count, by how many sources come: one, or a flood of spoofed ones. Beside it what
//! most filters do: an LRU hash that each new source is put into.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Result, ensure};
use packetwatch_abi::{Admission, capacity};

use crate::{
    bpf,
    curve::{Contestant, Curve, Packets, Program, Turn, take_turns},
    family::{Family, call, datagram},
    lists,
    prefixes::{FLOOD, counting},
    reel::Reel,
    references::{Lru, nothing},
};

/// As many as the table has room for by default have entries of their own, from before the flood; of
/// more the sketch counts most.
const KNOWN: u32 = capacity::CALLERS;

/// Measures with as many different sources as each of `counts` says, 2^24 at most.
///
/// # Errors
/// The kernel refuses a program or a map, or a good packet was dropped.
pub(crate) fn measure(counts: &[u32], rounds: usize, repeat: u32) -> Result<Curve> {
    let mut kernels = Vec::new();
    let mut references = Vec::new();
    let mut turns = Vec::new();
    let harness = nothing()?;
    for family in Family::ALL {
        for &count in counts {
            let reel = Reel::new(family, lists::distinct(family, count))?;
            let mut put = |contestant, packets, program: BorrowedFd<'_>, frame| {
                let program = Program::Reel(reel.in_front_of(program)?);
                turns.push(Turn {
                    family,
                    contestant,
                    packets,
                    at: count.into(),
                    program,
                    frame,
                });
                anyhow::Ok(())
            };
            for (packets, frame) in [
                (Packets::Calls, call(family)),
                (Packets::Datagrams, datagram(family)),
            ] {
                let kernel = counting()?;
                let program = kernel.dataplane.program()?;
                if count <= KNOWN {
                    kernel.dataplane.set_admission(Admission {
                        threshold: 1,
                        places: KNOWN.into(),
                    })?;
                    let front = reel.in_front_of(program.as_fd())?;
                    bpf::run(front.program(), &frame, count)?;
                    let known = kernel.dataplane.callers()?.len();
                    ensure!(
                        known == count as usize,
                        "{known} of {count} sources have an entry"
                    );
                    kernel.dataplane.set_admission(FLOOD)?;
                }
                put(Contestant::Packetwatch, packets, program.as_fd(), frame)?;
                kernels.push(kernel);
            }
            let lru = Lru::of(family)?;
            let program = lru.program.as_fd();
            put(Contestant::Lru, Packets::Calls, program, call(family))?;
            references.push(lru);
            put(
                Contestant::Harness,
                Packets::Calls,
                harness.as_fd(),
                call(family),
            )?;
        }
    }
    take_turns(&mut kernels, &turns, (rounds, repeat))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root: loads XDP programs"]
    fn every_contestant_lets_pass_what_it_counts() {
        let curve = measure(&[1, 1000], 1, 10_000).unwrap();
        assert_eq!(curve.lines.len(), 2 * 4);
        assert!(curve.lines.iter().all(|line| line.points.len() == 2));
    }
}
