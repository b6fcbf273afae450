//! Who gets counts of its own, and the sketch that tells how much the others come.
//!
//! A count-min sketch with conservative update (Cormode and Muthukrishnan, 2005; Estan and
//! Varghese, 2002): a source raises the least of its cells, one a row, and that least is its
//! estimate. It is never below what the source did, but for the halving with age; above it by what
//! others did in the same cells. So who is admitted by an estimate starts from zero: an estimate
//! alone never leads to a ban.
//!
//! The hash is pair-multiply-shift (Thorup, "High Speed Hashing for Integers and Strings"): for
//! keys drawn at random, any two units meet in a cell with probability 1/2^17, in each row anew.
//! Who does not know the keys can aim at nobody.

use crate::prefix::Prefix;

/// Rows of the sketch.
pub const SKETCH_ROWS: usize = 3;

const CELL_BITS: u32 = 17;

/// Cells a row: a [`crate::Bucket`] each, a mebibyte together.
pub const SKETCH_CELLS: usize = 1 << CELL_BITS;

/// Counts in the sketch halve every 2^32 ns, 4.3 s. A shift, where a division would cost more.
pub const SKETCH_EPOCH_SHIFT: u32 = 32;

/// New entries are limited in ticks of 2^27 ns, 134 ms.
pub const ADMISSION_TICK_SHIFT: u32 = 27;

/// Beyond the entries of a tick, and until the daemon has set a threshold, an estimate below this
/// gets no entry.
pub const LEAST_THRESHOLD: u64 = 4;

/// Random numbers for the hashes, drawn at each start; whoever knows them can make sources collide.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SketchKeys {
    pub rows: [[u64; 7]; SKETCH_ROWS],
}

const _: () = assert!(size_of::<SketchKeys>() == 56 * SKETCH_ROWS);

impl SketchKeys {
    /// The cell of a unit in `row`, among all cells.
    #[inline(always)]
    pub const fn cell(&self, row: usize, unit: &Prefix) -> u32 {
        let [a0, a1, a2, a3, a4, a5, b] = self.rows[row];
        let [w0, w1, w2, w3] = unit.addr;
        let sum = pair(a0, w0, a1, w1)
            .wrapping_add(pair(a2, w2, a3, w3))
            .wrapping_add(pair(a4, unit.family, a5, unit.len))
            .wrapping_add(b);
        (row * SKETCH_CELLS) as u32 + (sum >> (u64::BITS - CELL_BITS)) as u32
    }
}

#[inline(always)]
const fn pair(a: u64, v: u32, b: u64, w: u32) -> u64 {
    a.wrapping_add(v as u64)
        .wrapping_mul(b.wrapping_add(w as u64))
}

/// How new sources are admitted. The daemon writes it; with the daemon gone the last one holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The estimate at which a source gets its own entry; 1: at first sight, while there are places.
    pub threshold: u64,
    /// New entries a tick at first sight, and as many by their estimate; [`Admission::unlooked_at`]
    /// beside them.
    pub places: u64,
}

const _: () = assert!(size_of::<Admission>() == 16);

impl Admission {
    /// For a table of `capacity`: at first sight it takes two seconds to fill, and the daemon sees a flood in a fifth of one.
    pub const fn of(capacity: u32) -> Self {
        const LEAST: u64 = crate::capacity::LEAST_CALLERS as u64;
        let places = capacity as u64 / 16;
        Self {
            threshold: 1,
            places: if places < LEAST { LEAST } else { places },
        }
    }

    /// New entries a tick of sources that no rule looks at, without a flood: a sixteenth as many
    /// beside the others, so that the sweep keeps up with them whatever their number.
    #[inline(always)]
    pub const fn unlooked_at(&self) -> u64 {
        self.places / 16
    }
}

macro_rules! admissions {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        /// What became of packets whose source has no entry.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Admitted { $($(#[$doc])* $name = $number,)* }

        impl Admitted {
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

admissions! {
    /// the source got an entry at its first packet
    FirstSight = 0;
    /// the source got an entry, its estimate having reached the threshold
    ByCount = 1;
    /// no entry: counted in the sketch alone
    Sketched = 2;
    /// no entry: its estimate sufficed, but the places of the tick were taken
    Deferred = 3;
    /// no entry, no rule looks at the packet, and the places for such were taken
    Ignored = 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers as random as those that are drawn (SplitMix64).
    fn keys() -> SketchKeys {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        };
        let rows = core::array::from_fn(|_| core::array::from_fn(|_| next()));
        SketchKeys { rows }
    }

    #[test]
    fn each_row_has_cells_of_its_own_and_every_part_of_a_unit_counts() {
        let (keys, unit) = (keys(), Prefix::address_v6([1, 2, 3, 4]));
        let mut others = [unit; 6];
        for (word, other) in others.iter_mut().take(4).enumerate() {
            other.addr[word] ^= 1;
        }
        others[4].family = crate::Family::V4 as u32;
        others[5].len = 64;
        for row in 0..SKETCH_ROWS {
            let first = row * SKETCH_CELLS;
            let cell = keys.cell(row, &unit);
            assert!((first..first + SKETCH_CELLS).contains(&(cell as usize)));
            for other in others {
                assert_ne!(keys.cell(row, &other), cell, "{other:?}");
            }
        }
    }

    #[test]
    fn places_follow_the_capacity_and_are_never_none() {
        assert_eq!(Admission::of(32_768).places, 2048);
        assert_eq!(Admission::of(1).places, 64);
    }
}
