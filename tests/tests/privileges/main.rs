//! What the daemon may do: its user, its capabilities, its system calls, and what its unit file adds.

mod chain;
mod sandbox;
mod service;
mod status;
mod syscalls;
mod unit;
mod user;
