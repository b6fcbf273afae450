//! The contract between the XDP program and the daemon.
//!
//! Everything that crosses a BPF map or a ring buffer is defined here and nowhere else: plain
//! `repr(C)` types of integers and byte arrays, whose sizes are asserted, since the kernel and the
//! daemon are compiled by different compilers and may be of different builds.
//!
//! | map | key | value | written by |
//! |---|---|---|---|
//! | `POLICY`, `ACTIVE` | index | [`Policy`], index of the pair in force | daemon |
//! | `LISTS_ACTIVE` | 0 | the half of the [`index`] in force | daemon |
//! | `LIST_FRONTS` | half, then slot or word of the filter | [`index::Slot`], bits | daemon |
//! | `LISTS` | half, then line | [`index::Line`] | daemon |
//! | `LIST_HITS` | slot of an entry | [`Tally`] | program |
//! | `BANS_V4`, `BANS_V6` | [`BanKeyV4`], [`BanKeyV6`] | [`Ban`] | daemon |
//! | `BAN_FILTER` | word of a [`ban_filter_bit`] | bits | daemon |
//! | `BAN_HITS` | slot of a ban | [`Tally`] | program |
//! | `CALLERS` | [`Prefix`], exact | [`Caller`] | program; removed by the daemon |
//! | `ADMISSION` | 0 | [`Admission`] | daemon |
//! | `ADMISSIONS` | [`Admitted`] | count | program |
//! | `SKETCH_KEYS` | 0 | [`SketchKeys`] | daemon, once |
//! | `SKETCH` | [`SketchKeys::cell`] | [`Bucket`] | program |
//! | `OUTCOMES` | [`outcome_index`] | [`Tally`] | program |
//! | `FAULTS` | [`Fault`] | count | program |
//! | `CHAIN` | 0 | the user's own program, by a descriptor | daemon |
//! | `CALLS`, `OFFENCES` | ring buffers | [`Call`], [`Offence`] | program |
//!
//! Times are CLOCK_MONOTONIC nanoseconds. Addresses and ports are in network byte order, so a
//! value travels from the packet into a key untouched.
#![no_std]

mod caller;
mod event;
pub mod index;
mod limit;
mod list;
mod policy;
mod prefix;
mod reason;
mod sketch;
mod window;

pub use caller::{Caller, MAX_PORTS, PortSeen, Since};
pub use event::{Call, Offence};
pub use limit::Limit;
pub use list::{
    BAN_FILTER_WORDS, Ban, BanKeyV4, BanKeyV6, FOREVER, NO_SLOT, Standing, Tally, ban_filter_bit,
};
pub use policy::{
    MAX_BAN_LENGTHS, MAX_INTERFACES, MAX_RULES, MAX_UNITS, POLICIES, Policy, Rule, Trigger,
};
pub use prefix::{Family, Prefix};
pub use reason::{
    Action, CONNECTIONS, Fault, OUTCOMES, OUTCOMES_PER_INTERFACE, Reason, outcome_index,
};
pub use sketch::{
    ADMISSION_TICK_SHIFT, Admission, Admitted, LEAST_THRESHOLD, SKETCH_CELLS, SKETCH_EPOCH_SHIFT,
    SKETCH_ROWS, SketchKeys,
};
pub use window::{BUCKETS, Bucket, epoch, place, windowed, windowed_before};

/// Changes with every change of a type, a map or a meaning in this crate. It names the directory
/// of the pins. A build takes over links of every version, and maps of its own alone.
pub const VERSION: u32 = 6;

/// Entries of [`Standing`] hits, ban and caller maps unless the configuration says otherwise.
pub mod capacity {
    /// allow and deny entries together
    pub const LISTS: u32 = 4_194_304;
    /// Protected prefixes, which take nothing of the room of `LISTS`; no setting. Beside all sessions
    /// and API clients that are looked at, and the longest `protect.extra`, 4000 are left for addresses
    /// and next hops.
    pub const PROTECTED: u32 = 16_384;
    /// Entries whose packets are counted one by one, at most.
    pub const LIST_HITS: u32 = 100_000;
    pub const BANS: u32 = 65_536;
    /// allocated as they come; each takes 2 KiB of the kernel
    pub const CALLERS: u32 = 32_768;
    /// As many as get a place in a tick. Of fewer, one tick gives more than there are; of fewer than eight,
    /// no eighth is left to make room of.
    pub const LEAST_CALLERS: u32 = 64;
    /// bytes; a call is 72
    pub const CALL_RING: u32 = 256 * 1024;
    /// bytes; an offence is 72
    pub const OFFENCE_RING: u32 = 256 * 1024;

    /// Slots for the hits of so many list entries, and of the protected ones.
    pub const fn list_hits(lists: u32) -> u32 {
        let entries = lists.saturating_add(PROTECTED);
        if entries < LIST_HITS {
            entries
        } else {
            LIST_HITS
        }
    }
}

#[cfg(feature = "user")]
mod pod {
    use super::{
        Admission, Ban, BanKeyV4, BanKeyV6, Call, Caller, Offence, Policy, Prefix, SketchKeys,
        Tally,
    };

    // SAFETY: each is repr(C), Copy, 'static, of integers and arrays of integers without implicit
    // padding (the size assertions beside the types count every byte).
    unsafe impl aya::Pod for Admission {}
    // SAFETY: as above
    unsafe impl aya::Pod for Ban {}
    // SAFETY: as above
    unsafe impl aya::Pod for BanKeyV4 {}
    // SAFETY: as above
    unsafe impl aya::Pod for BanKeyV6 {}
    // SAFETY: as above
    unsafe impl aya::Pod for Call {}
    // SAFETY: as above
    unsafe impl aya::Pod for Caller {}
    // SAFETY: as above
    unsafe impl aya::Pod for Offence {}
    // SAFETY: as above
    unsafe impl aya::Pod for Policy {}
    // SAFETY: as above
    unsafe impl aya::Pod for Prefix {}
    // SAFETY: as above
    unsafe impl aya::Pod for SketchKeys {}
    // SAFETY: as above
    unsafe impl aya::Pod for Tally {}
}
