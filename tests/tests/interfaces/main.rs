//! Interfaces that change under the running daemon, and programs that somebody takes off them.
//!
//! * `links`: down and up, made again, renamed, moved away, other addresses, another MTU.
//! * `programs`: taken off, replaced, another's in its place.
//! * `pins`: taken away, another's in their place, and the file system that they are on.

mod links;
mod pins;
mod programs;
mod scene;
