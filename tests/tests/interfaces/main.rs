//! Interfaces that change under the running daemon, and programs that somebody takes off them.
//!
//! * `links`: down and up, made again, renamed, moved away, other addresses, another MTU.
//! * `programs`: taken off, replaced, another's in its place.

mod links;
mod programs;
mod scene;
