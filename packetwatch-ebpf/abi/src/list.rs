//! Values of the lists: what stands against or for a source.

/// The deadline of what does not end.
pub const FOREVER: u64 = u64::MAX;

/// What the allow and the deny list say of a prefix: resolved by the daemon over all prefixes that
/// cover it, so that the longest match alone decides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// allowed before this time; 0 if no allow entry covers the prefix
    pub allow_until: u64,
    /// denied before this time; 0 if no deny entry covers the prefix
    pub deny_until: u64,
    /// index into `LIST_HITS` of the most specific allow entry
    pub allow_slot: u32,
    /// index into `LIST_HITS` of the most specific deny entry
    pub deny_slot: u32,
}

const _: () = assert!(size_of::<Standing>() == 24);

/// A ban. After its end it is kept for as long as a window may reach back, so that the program
/// learns when to count anew even if the daemon is gone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ban {
    /// everything of the prefix is dropped before this time
    pub until: u64,
    /// what was dropped, over all CPUs
    pub packets: u64,
    pub bytes: u64,
}

const _: () = assert!(size_of::<Ban>() == 24);

/// Packets and their bytes, from the Ethernet header on, without the checksum.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub packets: u64,
    pub bytes: u64,
}

const _: () = assert!(size_of::<Tally>() == 16);
