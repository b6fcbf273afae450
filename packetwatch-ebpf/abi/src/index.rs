//! The prefixes of both lists as sorted ranges of addresses: one look-up, whatever their number.
//!
//! The daemon resolves all prefixes that overlap into ranges that do not, each with one
//! [`Standing`], so that the program finds a source's standing by its place among them:
//!
//! ```text
//!  front     slots   one word for each /16 of IPv4, then for each /16 of IPv6: where the ranges of
//!                    its addresses are, in lines; 0 if nothing is listed there
//!            filter  2^n bits: a hashed presence of each /24, /32 and /48 that may be listed
//!  lines             of 64 bytes, a cache line each: ranges and standings, in any order, added at
//!                    the end; the first is left free
//! ```
//!
//! A good source costs one word, and one or two more if something nearby is listed; only a source
//! that may be listed pays for the search. No line is written twice while an index is in force: a
//! change of a slot adds its new ranges at the end and then swings the slot's word to them, in one
//! store.
//!
//! There are two halves, of which one is in force: the fronts of both are one array, since a look-up
//! in an array that is known when the program is loaded costs no call; the lines of each are a map
//! of their own size. What replaces all lists is built in the other half, and put in force by the
//! store of its number.

use crate::{list::Standing, prefix::Prefix};

pub type Line = [u64; WORDS];

pub const WORDS: usize = 8;

/// Leading bits of an address that choose its slot.
pub const SLOT_BITS: u32 = 16;

/// Slots of both families, a word each.
pub const SLOTS: u32 = 2 << SLOT_BITS;

/// The largest filter, 2 MiB: beyond a million blocks more good sources take the longer way.
pub const MOST_FILTER_BITS: u32 = 24;

/// Words of slots and filter of one half.
pub const FRONT: u32 = SLOTS + filter_words(MOST_FILTER_BITS);

/// One in force, one to build the next in.
pub const HALVES: u32 = 2;

/// Ranges of a line: of IPv4 a word each, of IPv6 two words and half of one.
pub const RANGES_V4: usize = 8;
pub const RANGES_V6: usize = 3;

/// Most lines of a slot: 12.5 million ranges of IPv6. IPv4 never has more than 8192.
pub const MAX_SLOT_LINES: u32 = (1 << LINES_BITS) - 1;

/// Most lines of an index: 16 GiB.
pub const MAX_LINES: u32 = (1 << FIRST_BITS) - 1;

/// A search halves `MAX_SLOT_LINES` down to one.
const STEPS: u32 = LINES_BITS;

const FIRST_BITS: u32 = 28;
const LINES_BITS: u32 = 22;
const FILTER_BITS: u32 = 6;
const WIDE: u64 = 1 << 63;

/// Where the ranges of a slot are. The first range begins at the slot's first address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot(pub u64);

impl Slot {
    pub const NOTHING: Self = Self(0);

    /// `filter_bits`: the filter has two to the power of that many bits, at most
    /// [`MOST_FILTER_BITS`]. `wide`: a prefix in it is too short for the filter.
    pub const fn new(first: u32, lines: u32, filter_bits: u32, wide: bool) -> Self {
        Self(
            first as u64
                | (lines as u64) << FIRST_BITS
                | (filter_bits as u64) << (FIRST_BITS + LINES_BITS)
                | if wide { WIDE } else { 0 },
        )
    }

    /// The line of its first range.
    #[inline(always)]
    pub const fn first(self) -> u32 {
        self.0 as u32 & ((1 << FIRST_BITS) - 1)
    }

    #[inline(always)]
    pub const fn lines(self) -> u32 {
        (self.0 >> FIRST_BITS) as u32 & ((1 << LINES_BITS) - 1)
    }

    #[inline(always)]
    pub const fn filter_bits(self) -> u32 {
        (self.0 >> (FIRST_BITS + LINES_BITS)) as u32 & ((1 << FILTER_BITS) - 1)
    }

    #[inline(always)]
    pub const fn is_wide(self) -> bool {
        self.0 & WIDE != 0
    }
}

/// What the filter knows an address by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// the /24 of an IPv4 address
    V4(u32),
    /// the /48 of an IPv6 address
    V6Long(u64),
    /// the /32 of an IPv6 address
    V6Short(u32),
}

/// A block in the filter: two bits of one word, which take one load and are seldom both set by
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// of the filter
    pub word: u32,
    pub bits: u64,
}

impl Block {
    /// Its mark in a filter of `1 << bits`. Who picks a source that shares the mark of a listed one
    /// makes his own packet search, no more; so the hash has no secret.
    #[inline(always)]
    pub const fn mark(self, bits: u32) -> Mark {
        let key = match self {
            Self::V4(block) => block as u64,
            Self::V6Long(block) => block ^ 6 << 56,
            Self::V6Short(block) => block as u64 ^ 5 << 56,
        };
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The leading bits are the best mixed ones. Wrapping, as on the machine: a slot that somebody
        // else has written may tell any number of bits.
        let place = hash.wrapping_shr(64u32.wrapping_sub(bits));
        let other = hash.wrapping_shr(58u32.wrapping_sub(bits));
        Mark {
            word: (place / 64) as u32,
            bits: 1 << (place % 64) | 1 << (other % 64),
        }
    }
}

/// Words of a filter of `1 << bits`.
pub const fn filter_words(bits: u32) -> u32 {
    1 << (bits - u64::BITS.ilog2())
}

/// The number of the slot of `source`, an address: below [`SLOTS`].
#[inline(always)]
pub const fn slot_of(source: &Prefix) -> u32 {
    let region = u32::from_be(source.addr[0]) >> (32 - SLOT_BITS);
    (source.row() as u32) << SLOT_BITS | region
}

/// Whether `source`, an address, may be listed at all: its slot and the filter say so. `filter` reads
/// a word of it.
#[inline(always)]
pub fn may_be_listed(source: &Prefix, slot: Slot, filter: impl Fn(u32) -> Option<u64>) -> bool {
    if slot.0 == Slot::NOTHING.0 {
        return false;
    }
    if slot.is_wide() {
        return true;
    }
    let is_present = |block: Block| {
        let mark = block.mark(slot.filter_bits());
        filter(mark.word).is_some_and(|word| word & mark.bits == mark.bits)
    };
    if source.row() == 0 {
        return is_present(Block::V4(u32::from_be(source.addr[0]) >> 8));
    }
    let [high, _] = halves(source.addr);
    is_present(Block::V6Long(high >> 16)) || is_present(Block::V6Short((high >> 32) as u32))
}

/// What the lists say of `source`, an address that may be listed and whose slot is given; `None` if
/// nothing. `line` reads a line.
#[inline(always)]
pub fn look_up<'a>(
    source: &Prefix,
    slot: Slot,
    line: impl Fn(u32) -> Option<&'a Line> + Copy,
) -> Option<Standing> {
    let number = if source.row() == 0 {
        number_v4(u32::from_be(source.addr[0]), slot, line)?
    } else {
        let [high, low] = halves(source.addr);
        number_v6(high, low, slot, line)?
    };
    standing(number, line)
}

/// The two halves of an IPv6 address as numbers, the leading one first.
#[inline(always)]
pub const fn halves(addr: [u32; 4]) -> [u64; 2] {
    let [a, b, c, d] = addr;
    [
        (u32::from_be(a) as u64) << 32 | u32::from_be(b) as u64,
        (u32::from_be(c) as u64) << 32 | u32::from_be(d) as u64,
    ]
}

#[inline(always)]
fn number_v4<'a>(
    addr: u32,
    slot: Slot,
    line: impl Fn(u32) -> Option<&'a Line> + Copy,
) -> Option<u32> {
    // Behind any range that begins at the address, whatever its standing.
    let place = (addr as u64) << 32 | u32::MAX as u64;
    let ranges = line(last_line(slot, |first| {
        line(first).is_some_and(|l| l[0] <= place)
    }))?;
    let mut at = if ranges[4] <= place { 4 } else { 0 };
    at += if ranges[at + 2] <= place { 2 } else { 0 };
    at += if ranges[at + 1] <= place { 1 } else { 0 };
    Some(ranges[at] as u32)
}

#[inline(always)]
fn number_v6<'a>(
    high: u64,
    low: u64,
    slot: Slot,
    line: impl Fn(u32) -> Option<&'a Line> + Copy,
) -> Option<u32> {
    let begins_before = |h: u64, l: u64| h < high || (h == high && l <= low);
    let ranges = line(last_line(slot, |first| {
        line(first).is_some_and(|l| begins_before(l[0], l[1]))
    }))?;
    Some(if begins_before(ranges[4], ranges[5]) {
        ranges[7] as u32
    } else if begins_before(ranges[2], ranges[3]) {
        (ranges[6] >> 32) as u32
    } else {
        ranges[6] as u32
    })
}

/// The last line of a slot whose first range begins no later than what is looked for: the one that
/// holds it, since the slot's first range begins where the slot does.
#[inline(always)]
fn last_line(slot: Slot, begins_before: impl Fn(u32) -> bool) -> u32 {
    let mut first = slot.first();
    let mut lines = slot.lines();
    for _ in 0..STEPS {
        if lines <= 1 {
            break;
        }
        let half = lines / 2;
        if begins_before(first + half) {
            first += half;
        }
        lines -= half;
    }
    first
}

/// The standing of a range by its number: two a line, and number 0 is none, since the first line is
/// left free.
#[inline(always)]
pub fn standing<'a>(number: u32, line: impl Fn(u32) -> Option<&'a Line>) -> Option<Standing> {
    if number == 0 {
        return None;
    }
    let line = line(number / 2)?;
    let half = (number as usize % 2) * 4;
    Some(Standing {
        allow_until: line[half],
        deny_until: line[half + 1],
        allow_slot: line[half + 2] as u32,
        deny_slot: (line[half + 2] >> 32) as u32,
        is_derived: line[half + 3] & 1 != 0,
        shared_len: (line[half + 3] >> 8) as u8,
    })
}

/// A standing as half a line.
pub const fn half_line(standing: Standing) -> [u64; WORDS / 2] {
    [
        standing.allow_until,
        standing.deny_until,
        standing.allow_slot as u64 | (standing.deny_slot as u64) << 32,
        standing.is_derived as u64 | (standing.shared_len as u64) << 8,
    ]
}
