//! The filter once more, in plain Rust: what `interface.md`'s meanings and the RFCs say of a frame
//! and of a sequence of frames, for the differential test to hold the XDP program against.
//!
//! It shares the plain types of `packetwatch-abi` with the program and no function. It is written
//! to be read: slices instead of cursors, a log of events instead of buckets, maps of the standard
//! library instead of the kernel's.
//!
//! Where the meanings allow a range, this says which value the program has, so that both are equal:
//!
//! * a window of T counts what happened in the eighth of T that it is now (counted from the clock's
//!   zero) and in the seven before it ([`window::Window`]);
//! * ports are remembered with their last call's time in steps of 65 536 ns, 64 of them
//!   ([`window::Ports`]);
//! * counting begins anew at such a step, and only what lies in a later one counts as after it;
//! * the end of a ban begins it for the units inside the banned prefix, not for a wider one;
//! * of several bans that cover a source, the widest counts the packet;
//! * an offence is told again after 100 ms, if it goes on.

pub mod caller;
pub mod limit;
pub mod parse;
pub mod seen;
pub mod verdict;
pub mod window;

pub use caller::{Caller, Offence};
pub use parse::{Packet, Parsed, parse};
pub use verdict::{Judged, Reference};
