//! The ground the tests and the demo stand on: network namespaces with real links between them, the
//! real daemon in one of them, real sockets and hand-made frames in the others.
//!
//! ```text
//!   client namespace          host namespace
//!   traffic, frames ──veth──► pwN ─ XDP ─ servers (traffic)
//!                                    ▲
//!                              daemon: process, log lines, API over the unix socket, CLI
//! ```
//!
//! * [`netns`]: a namespace that lives as long as its value.
//! * [`topology`]: namespaces joined by veth pairs, with addresses and routes.
//! * [`daemon`]: starts, asks and stops the daemon; checks every line it logs.
//! * [`disk`]: file systems of their own, small ones and one that fails.
//! * [`environment`]: how often, and from which seed, as the caller wants it.
//! * [`notes`]: what a test says that does not fail: that it cannot be run where it is, or what it did.
//! * [`intruder`]: somebody else with root, who meddles with the daemon's maps and links.
//! * [`programs`]: somebody else's XDP programs, of a few instructions.
//! * [`systemd`]: a service manager of the test's own.
//! * [`traffic`]: HTTP servers and callers with real sockets.
//! * [`kernel`]: the XDP program alone, on frames and at times of the test's choosing.
//! * [`runner`]: the same program from several threads, as several CPUs run it.
//! * [`mod@reference`]: the filter in plain Rust, which the program is compared with.
//! * [`random`]: numbers that follow from a seed.
//! * [`generator`]: live frames at millions a second, and [`bpf`], the calls that it takes.
//! * [`frames`] and [`packet`]: raw frames on a link, and the builder that makes them.
//!
//! Everything here panics instead of returning errors: a test has nothing better to do, and the panic
//! names the line that asked. Needs root, except for [`packet`], [`random`] and
//! [`mod@reference`].

pub mod bpf;
pub mod daemon;
pub mod disk;
pub mod environment;
pub mod frames;
pub mod generator;
pub mod http;
pub mod intruder;
pub mod kernel;
pub mod netns;
pub mod notes;
pub mod packet;
pub mod patience;
pub mod programs;
pub mod random;
pub mod reference;
pub mod runner;
pub mod seccomp;
pub mod systemd;
pub mod topology;
pub mod traffic;

pub use daemon::{Daemon, PinDirectory};
pub use disk::{FailingDisk, SmallDisk};
pub use frames::Frames;
pub use kernel::Kernel;
pub use netns::Netns;
pub use notes::{skip, tell};
pub use packet::Frame;
pub use programs::{Program, Runs};
pub use runner::Runner;
pub use topology::{Family, Lan, Segment};
pub use traffic::{Server, answered, call, connect, serve_http};
