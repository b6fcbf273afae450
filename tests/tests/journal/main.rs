//! What was acknowledged is on the disk: of the lists and tokens alone, without a daemon, some dozen
//! times a minute and more.
//!
//! * `crash`: the process is killed at any moment.
//! * `abort`: the file system meets an error under writers.
//! * `model`: the writes of a crash test, and what is there after each of them.

mod abort;
mod crash;
mod maps;
mod model;
