//! Values of the lists: what stands against or for a source.

use crate::prefix::Prefix;

/// The deadline of what does not end.
pub const FOREVER: u64 = u64::MAX;

/// The slot of an entry whose packets are not counted.
pub const NO_SLOT: u32 = u32::MAX;

/// What the allow and the deny list say of a prefix: resolved by the daemon over all prefixes that
/// cover it, so that the longest match alone decides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Standing {
    /// allowed before this time; 0 if no allow entry covers the prefix
    pub allow_until: u64,
    /// denied before this time; 0 if no deny entry covers the prefix
    pub deny_until: u64,
    /// index into `LIST_HITS` of the most specific allow entry; [`NO_SLOT`] for none
    pub allow_slot: u32,
    /// the same of the most specific deny entry
    pub deny_slot: u32,
    /// Allowed as an address of the host's own surroundings alone: who reads the lists back leaves it
    /// out. The program does not look.
    pub is_derived: bool,
    /// The length of the longest unit around the source that holds an allowed address; so do those around
    /// it. Under a rule whose unit is as long or shorter the source is counted by itself. 0 if no unit does.
    /// Of no use while the source is allowed itself.
    pub shared_len: u8,
}

/// A ban. After its end it is kept for as long as a window may reach back, so that the program
/// learns when to count anew even if the daemon is gone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ban {
    /// everything of the prefix is dropped before this time
    pub until: u64,
    /// index into `BAN_HITS`
    pub slot: u32,
    pub _pad: u32,
}

const _: () = assert!(size_of::<Ban>() == 16);

/// Key of a ban of IPv4. Short keys hash faster than a [`Prefix`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BanKeyV4 {
    pub addr: u32,
    pub len: u32,
}

/// Key of a ban of IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BanKeyV6 {
    pub addr: [u32; 4],
    pub len: u32,
}

const _: () = assert!(size_of::<BanKeyV4>() == 8 && size_of::<BanKeyV6>() == 20);

/// Words of the presence filter of bans: 128 KiB, 16 bits a ban with the default capacity.
pub const BAN_FILTER_WORDS: u32 = 1 << (BAN_FILTER_BITS - 6);

const BAN_FILTER_BITS: u32 = 20;

/// The bit of a prefix in the presence filter of bans. Who picks a source that shares the bit of a
/// banned one makes his own packet look into the table, no more; so the hash has no secret.
#[inline(always)]
pub const fn ban_filter_bit(prefix: &Prefix) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let [a, b, c, d] = prefix.addr;
    let front = (a as u64) << 32 | b as u64;
    let back = (c as u64) << 32 | d as u64;
    let mixed = (front ^ prefix.len as u64).wrapping_mul(ODD) ^ back;
    ((mixed ^ mixed >> 32).wrapping_mul(ODD) >> (64 - BAN_FILTER_BITS)) as u32
}

/// Packets and their bytes, from the Ethernet header on, without the checksum.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub packets: u64,
    pub bytes: u64,
}

const _: () = assert!(size_of::<Tally>() == 16);
