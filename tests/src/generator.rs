//! A generator of live frames: the kernel sends copies of one frame from a page pool, at several
//! million a second from one core. Sockets are ten times slower and would measure themselves.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use crate::bpf;
use crate::netns::Netns;

/// For what was sent to be counted at the other end: it is there when the call returns, but for
/// what the kernel left to a thread of its own.
const SETTLE: Duration = Duration::from_secs(2);

/// Sends out of one end of a veth pair into the other.
pub struct Generator {
    program: OwnedFd,
    netns: Netns,
}

impl Generator {
    /// Sends out of `interface`, whose driver is told to take frames that are not the stack's.
    pub fn new(netns: &Netns, interface: &str) -> Result<Self> {
        accept_frames(netns, interface)?;
        let index = netns.run(|| if_nametoindex(interface))?;
        Ok(Self {
            program: bpf::load_xdp(&redirect_to(index))?,
            netns: netns.clone(),
        })
    }

    /// Sends `count` copies at full rate. Those that the link has no room for are lost, which its
    /// counters tell.
    ///
    /// # Errors
    /// The kernel cannot send live frames (before 5.18).
    pub fn flood(&self, frame: &[u8], count: u32) -> Result<()> {
        let sent = self
            .netns
            .run(|| bpf::send_live(self.program.as_fd(), frame, count));
        sent.map(drop)
    }

    /// Sends `count` copies; returns how long it took until `received` had grown by as many.
    ///
    /// # Errors
    /// They did not all arrive: then a speed would be that of losing packets.
    pub fn send(
        &self,
        frame: &[u8],
        count: u32,
        received: impl Fn() -> Result<u64>,
    ) -> Result<Duration> {
        let before = received()?;
        let sending = self.netns.run(|| {
            bpf::take_precedence()?;
            bpf::send_live(self.program.as_fd(), frame, count)
        })?;
        let sent = Instant::now();
        loop {
            // Reading the counter costs milliseconds, which are not the packets'.
            let waited = sent.elapsed();
            let arrived = received()? - before;
            if arrived >= u64::from(count) {
                ensure!(
                    arrived == u64::from(count),
                    "{arrived} packets arrived of {count} sent: something else sends here"
                );
                // The first look tells nothing of when the last one arrived, only that it has.
                let late = if waited < Duration::from_millis(1) {
                    Duration::ZERO
                } else {
                    waited
                };
                return Ok(sending + late);
            }
            ensure!(
                waited < SETTLE,
                "{arrived} packets arrived of {count} sent: the receiving ring overflows"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// `return bpf_redirect(index, 0)`. Four instructions need no tool chain: the operation in the
/// lowest byte, the destination register in the next four bits, the operand in the upper half.
fn redirect_to(index: u32) -> [u64; 4] {
    const MOV32: u64 = 0xb4;
    const CALL: u64 = 0x85;
    const EXIT: u64 = 0x95;
    const REDIRECT: u64 = 23;
    let mov = |register: u64, value: u64| MOV32 | register << 8 | value << 32;
    [mov(1, index.into()), mov(2, 0), CALL | REDIRECT << 32, EXIT]
}

/// veth takes and gives whole frames once it polls, which GRO makes it do; an XDP program on the
/// receiving end does the same there.
pub fn accept_frames(netns: &Netns, interface: &str) -> Result<()> {
    let status = netns
        .command("ethtool")
        .args(["-K", interface, "gro", "on"])
        .status()
        .context("run ethtool (package ethtool)")?;
    ensure!(status.success(), "`ethtool -K {interface} gro on` failed");
    Ok(())
}

/// The sum of a counter of an interface, such as `rx_queue_` and `_xdp_drops`, over its queues.
pub fn counter(netns: &Netns, interface: &str, queue: &str, name: &str) -> Result<u64> {
    let output = netns
        .command("ethtool")
        .args(["-S", interface])
        .output()
        .context("run ethtool (package ethtool)")?;
    ensure!(output.status.success(), "`ethtool -S {interface}` failed");
    let text = String::from_utf8(output.stdout)?;
    let counters = text.lines().filter_map(|line| line.trim().split_once(": "));
    let values: Vec<u64> = counters
        .filter(|(counter, _)| counter.starts_with(queue) && counter.ends_with(name))
        .map(|(_, value)| value.parse())
        .collect::<Result<_, _>>()?;
    ensure!(
        !values.is_empty(),
        "{interface} has no counter {queue}*{name}"
    );
    Ok(values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_names_its_interface() {
        let [index, flags, call, exit] = redirect_to(7);
        assert_eq!(index, 0x0000_0007_0000_01b4);
        assert_eq!(flags, 0x0000_0000_0000_02b4);
        assert_eq!((call, exit), (0x0000_0017_0000_0085, 0x95));
    }
}
