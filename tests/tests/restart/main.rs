//! Ends and beginnings of the daemon: what a kill leaves in force, what the next start takes up, and what
//! keeps a start or a change from happening.
//!
//! * `kill`: kill -9, an orphaned filter, `detach`, `--on-exit keep`.
//! * `chain`: the user's own program behind the filter.
//! * `takeover`: the filter that a killed daemon left, in another mode, under another name, of another
//!   ABI version; dead, or elsewhere.
//! * `traffic`: the same under a flood and a stream of good packets (`streams`), of which none slips
//!   through and none is lost.
//! * `stopped`: a daemon that does not run, and is not dead.
//! * `inherit`: what a start goes on with that is in the kernel; `inherit_strays`: that somebody else has
//!   written there.
//! * `leftovers`: pins, directories and locks that nobody needs, and filters that nobody configures.
//! * `holder`: another's program on the interface.
//! * `refused`: a second daemon, wrong configurations, state that may be sound.
//! * `damaged`: state that is not.
//! * `listen`: an API that cannot listen yet.
//! * `reload`: SIGHUP.
//! * `protected`: full lists, and more than can be protected.
//! * `output`: a stdout that closes or blocks.
//! * `steps`: a wall clock that is set by a year.
//! * `state`: a state directory that is full or read-only, a journal of a newer version.
//! * `clients`: clients that write over the socket while the whole daemon is killed.
//! * `unwritten`: rules, trials and the bypass that a full disk does not take.
//! * `writes`: writers at work while the disk fills up, or its file system turns read-only.
//!
//! Every test has a network and a daemon of its own: each ends or stops it.

mod chain;
mod clients;
mod damaged;
mod holder;
mod inherit;
mod inherit_strays;
mod kill;
mod leftovers;
mod listen;
mod output;
mod protected;
mod refused;
mod reload;
mod restores;
mod scene;
mod state;
mod steps;
mod stopped;
mod streams;
mod takeover;
mod traffic;
mod trials;
mod unwritten;
mod wire;
mod writes;
