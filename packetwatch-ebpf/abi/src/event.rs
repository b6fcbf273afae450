//! What the program tells the daemon at once, over two ring buffers, so that a flood of calls
//! never takes the room of an offence.

use crate::prefix::Prefix;

/// A new connection: for the log, within a budget.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub at: u64,
    pub source: Prefix,
    /// as [`Prefix::addr`]
    pub destination: [u32; 4],
    /// host byte order, as the destination port
    pub source_port: u16,
    pub destination_port: u16,
    pub ifindex: u32,
    /// [`crate::Reason`] as a number
    pub reason: u32,
    /// not 0 where observe mode let a drop pass
    pub observed: u32,
    pub _pad: [u32; 2],
}

const _: () = assert!(size_of::<Call>() == 72);

/// A caller went beyond a rule. It is repeated while it goes on, no more often than
/// [`Offence::REPEAT_NS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offence {
    pub at: u64,
    /// the unit that is counted
    pub unit: Prefix,
    /// the address whose packet it was
    pub source: Prefix,
    /// index into the rules of that generation
    pub rule: u32,
    pub generation: u32,
    pub ifindex: u32,
    pub destination_port: u32,
}

const _: () = assert!(size_of::<Offence>() == 72);

impl Offence {
    pub const REPEAT_NS: u64 = 100_000_000;
}
