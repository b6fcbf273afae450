//! The loaded program, run from a thread of the test's own: `BPF_PROG_TEST_RUN` without the lock
//! that [`packetwatch::dataplane::Dataplane::probe`] takes, so that CPUs really meet.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use packetwatch_abi::Action;

use crate::Kernel;

/// Runs frames through the program of a [`Kernel`]; one for each thread.
pub struct Runner(OwnedFd);

/// The fields of `union bpf_attr` for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    _pad: u32,
}

impl Runner {
    pub fn of(kernel: &Kernel) -> Self {
        Self(kernel.dataplane.program().expect("a descriptor"))
    }

    /// What the program answers to `frame` the last of `repeat` times. More than once costs
    /// milliseconds before the first, for which the kernel keeps others out.
    pub fn run(&self, frame: &[u8], repeat: u32) -> Action {
        const BPF_PROG_TEST_RUN: libc::c_long = 10;
        const XDP_DROP: u32 = 1;
        let mut attr = TestRun {
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            data_size_in: u32::try_from(frame.len()).expect("a frame"),
            data_in: frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        };
        // SAFETY: pointer and size are those of `attr`, and the frame outlives the call.
        let answer = unsafe {
            let attr = (&raw mut attr, size_of::<TestRun>());
            libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, attr.0, attr.1)
        };
        assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
        match attr.retval {
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
