//! The loaded program, run from a thread of the test's own: `BPF_PROG_TEST_RUN` without the lock
//! that [`packetwatch::dataplane::Dataplane::probe`] takes, so that CPUs really meet.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use packetwatch_abi::Action;

use crate::{Kernel, bpf::test_run};

/// Runs frames through the program of a [`Kernel`]; one for each thread.
pub struct Runner(OwnedFd);

impl Runner {
    pub fn of(kernel: &Kernel) -> Self {
        Self(kernel.dataplane.program().expect("a descriptor"))
    }

    /// What the program answers to `frame` the last of `repeat` times. More than once costs
    /// milliseconds before the first, for which the kernel keeps others out.
    pub fn run(&self, frame: &[u8], repeat: u32) -> Action {
        const XDP_DROP: u32 = 1;
        let answer = test_run(self.0.as_fd(), frame, repeat, 0).expect("run the program");
        match answer {
            XDP_DROP => Action::Drop,
            _ => Action::Pass,
        }
    }
}

/// Keeps the calling thread on one CPU, so that two threads are on two.
pub fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU's number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("a CPU that there is");
}

/// CPUs that threads may be kept on.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
