//! Ends and beginnings of the daemon: what a kill leaves in force, what the next start takes up, and what
//! keeps a start or a change from happening.
//!
//! * `kill`: kill -9, an orphaned filter, `detach`, `--on-exit keep`.
//! * `refused`: a second daemon, wrong configurations, damaged state.
//! * `reload`: SIGHUP.
//! * `output`: a stdout that closes or blocks.
//! * `state`: a state directory that is full or read-only, a journal of a newer version.
//!
//! Every test has a network and a daemon of its own: each ends or stops it.

mod kill;
mod output;
mod refused;
mod reload;
mod scene;
mod state;
