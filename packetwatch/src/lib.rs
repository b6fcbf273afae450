//! The daemon and command line of Packetwatch, one folder a room.
//!
//! ```text
//!  XDP program ◄─► dataplane   the only door to the kernel
//!                    ▲    │ offences, calls
//!                    │    ▼
//!                  lists ◄─ daemon (rule loop) ── rules (pure)
//!                  ▲   ▲
//!            protect   api ◄─ cli       privileges: what the process gives up
//!
//!  config: what it is told    log: what it says    netlink: what the host's network is
//! ```

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dataplane;
mod document;
mod durable;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod lists;
pub mod log;
mod memory;
pub mod metrics;
pub mod netlink;
pub mod pending;
pub mod prefix;
pub mod privileges;
pub mod protect;
mod regular_file;
pub mod rules;
mod state_file;
pub mod tokens;
