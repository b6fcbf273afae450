//! Running the program on a frame of one's own, with `BPF_PROG_TEST_RUN`: no interface, no traffic.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use aya::{TestRun as _, TestRunOptions, programs::ProgramError};
use packetwatch_abi::Action;

use super::{Dataplane, Error};

/// What XDP was told, and how long that took on average.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub action: Action,
    pub duration: Duration,
}

impl Dataplane {
    /// A descriptor of the program, for who runs it from several threads at once.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn program(&self) -> Result<OwnedFd, Error> {
        self.with_program(|program| {
            let failed = |source| Error::Refused {
                reason: String::from("no descriptor"),
                source: Box::new(source),
            };
            let fd = program.fd().map_err(failed)?;
            let fd = fd.as_fd().try_clone_to_owned();
            fd.map_err(|error| failed(ProgramError::IOError(error)))
        })
    }

    /// Judges `frame` (14 bytes at least: the kernel's bound) `repeat` times as if it had come in
    /// on the loopback interface. It counts as it would on the wire.
    ///
    /// # Errors
    /// The kernel refuses the frame or the call.
    pub fn probe(&self, frame: &[u8], repeat: u32) -> Result<Probe, Error> {
        self.with_program(|program| {
            let run = program.test_run(TestRunOptions {
                data_in: Some(frame),
                repeat,
                ..TestRunOptions::default()
            });
            let run = run.map_err(|source| Error::Refused {
                reason: source.to_string(),
                source: Box::new(source),
            })?;
            const XDP_DROP: u32 = 1;
            Ok(Probe {
                action: match run.return_value {
                    XDP_DROP => Action::Drop,
                    _ => Action::Pass,
                },
                duration: run.duration,
            })
        })
    }
}
