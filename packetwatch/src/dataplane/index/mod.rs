//! The index of both lists, as the XDP program searches it: see [`packetwatch_abi::index`] for how
//! it is laid out.
//!
//! It is built whole for a replaced list, and changed a region at a time by single writes: new
//! lines go behind the last, and one store lets the region point to them. What they replace is
//! waste until the next building, which is due when there is no room left, so that a write costs
//! what its region holds, and the rare building is shared by many writes.

mod compare;
mod ranges;
mod sum;

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::BorrowedFd,
};

use ipnet::IpNet;
use packetwatch_abi::{
    Prefix, Standing,
    index::{
        Block, FILTER, Line, MAX_LINES, MAX_SLOT_LINES, RANGES_V4, RANGES_V6, SLOT_LINES, Slot,
        WORDS, half_line, look_up, standing,
    },
};

use super::mapped::Mapped;
pub use compare::Differences;
pub use ranges::Region;
use ranges::{Begin, Piece, RegionRanges, Run, each_piece, number, of_region};

/// Bits of the filter for each block that it knows: one in sixteen is set, as many good sources
/// take the longer way.
const BITS_A_BLOCK: u64 = 16;

/// Beyond it, writes have filled the filter so far that it is to be built anew.
const FULL_FILTER: u64 = BITS_A_BLOCK / 4;

const LEAST_FILTER: u32 = 12;
/// 4 MiB: beyond two million blocks more good sources take the longer way.
const MOST_FILTER: u32 = 25;

/// A prefix is known to the filter by at most so many blocks; one that has more makes its regions
/// go without the filter.
const MOST_BLOCKS: u32 = 256;

/// Lines that a new index has left for writes, besides half of those in use.
const SPARE_LINES: u32 = 1024;

/// A write copies its region: so many of the largest find room before a new index is due.
const SPARE_REGIONS: u64 = 4;

/// There is no room behind the last line, or the filter is full: build a new one.
#[derive(Debug)]
pub(super) struct Outgrown;

pub(super) struct Index {
    memory: Mapped,
    lines: u32,
    /// the first line that was never used
    next: u32,
    filter_bits: u32,
    /// bits of the filter that are set
    filled: u64,
    /// by value, since many prefixes have the same
    numbers: HashMap<Standing, u32>,
    /// a half of the last line of standings is free
    half_free: Option<u32>,
    /// the line of a region that is one range, by family and number
    whole: HashMap<(bool, u32), u32>,
    /// of what was written
    sum: u64,
}

/// What an index is built from, and how large it is to be.
pub(super) struct Plan<'a> {
    v4: &'a [(IpNet, Standing)],
    v6: &'a [(IpNet, Standing)],
    wide: Regions,
    pub(super) lines: u32,
    filter_bits: u32,
}

/// A set of regions.
struct Regions(Vec<bool>);

impl Default for Regions {
    fn default() -> Self {
        Self(vec![false; 2 * Region::PER_FAMILY])
    }
}

impl Regions {
    fn insert(&mut self, prefix: IpNet) {
        let mut regions = Region::of(prefix);
        let count = regions.len();
        if let Some(first) = regions.next() {
            let at = word_of(first) as usize;
            self.0[at..at + count].fill(true);
        }
    }

    fn contains(&self, region: Region) -> bool {
        self.0[word_of(region) as usize]
    }
}

impl<'a> Plan<'a> {
    /// For prefixes in order, IPv4 first; `None` if they are more than an index can hold.
    pub(super) fn new(nodes: &'a [(IpNet, Standing)]) -> Option<Self> {
        let first_v6 = nodes.partition_point(|(prefix, _)| matches!(prefix, IpNet::V4(_)));
        let (v4, v6) = nodes.split_at(first_v6);
        let mut wide = Regions::default();
        let mut blocks = 0;
        for (prefix, _) in nodes {
            match blocks_of(*prefix) {
                Some(of) => blocks += of.count() as u64,
                None => wide.insert(*prefix),
            }
        }
        let wanted = (blocks * BITS_A_BLOCK).max(1);
        let filter_bits = wanted.next_power_of_two().ilog2();
        let mut plan = Self {
            v4,
            v6,
            wide,
            lines: 0,
            filter_bits: filter_bits.clamp(LEAST_FILTER, MOST_FILTER),
        };
        // Two standings a line; a region that is one range shares its line by its standing.
        let standings: HashSet<Standing> = nodes.iter().map(|(_, standing)| *standing).collect();
        let mut used = standings.len() as u64 * 3 + 1;
        let mut largest = 0;
        plan.each_piece(|piece| {
            if let Piece::Region(ranges) = piece {
                used += u64::from(lines_of(ranges));
                largest = largest.max(lines_of(ranges));
            }
        });
        let before = FILTER + (1u32 << plan.filter_bits) / (64 * WORDS as u32);
        let spare = (used / 2).max(u64::from(largest) * SPARE_REGIONS) + u64::from(SPARE_LINES);
        let fits = |lines: &u32| largest <= MAX_SLOT_LINES && *lines <= MAX_LINES;
        let lines = u32::try_from(u64::from(before) + used + spare).ok();
        plan.lines = lines.filter(fits)?;
        Some(plan)
    }

    fn each_piece(&self, mut visit: impl FnMut(Piece<'_>)) {
        each_piece(false, self.v4.iter().copied(), &mut visit);
        each_piece(true, self.v6.iter().copied(), &mut visit);
    }

    fn blocks(&self) -> impl Iterator<Item = Block> {
        let prefixes = self.v4.iter().chain(self.v6);
        prefixes
            .filter_map(|(prefix, _)| blocks_of(*prefix))
            .flatten()
    }
}

impl Index {
    /// Writes an index into a map that was made with as many lines as the plan has, all zero.
    pub(super) fn build(plan: &Plan<'_>, map: BorrowedFd<'_>) -> io::Result<Self> {
        let memory = Mapped::of_map(map, plan.lines * WORDS as u32)?;
        Ok(Self::over(memory, plan))
    }

    fn over(memory: Mapped, plan: &Plan<'_>) -> Self {
        let mut index = Self {
            memory,
            lines: plan.lines,
            next: FILTER + (1 << plan.filter_bits) / (64 * WORDS as u32),
            filter_bits: plan.filter_bits,
            filled: 0,
            numbers: HashMap::new(),
            half_free: None,
            whole: HashMap::new(),
            sum: 0,
        };
        for block in plan.blocks() {
            index.note(block);
        }
        plan.each_piece(|piece| {
            let written = match piece {
                Piece::Region(ranges) => index.write(ranges, plan.wide.contains(ranges.region)),
                Piece::Run(run) => index.write_run(run, &plan.wide),
            };
            written.expect("the plan counted the lines");
        });
        index
    }

    fn write_run(&mut self, run: Run, wide: &Regions) -> Result<(), Outgrown> {
        let line = self.whole(run.is_v6, run.standing)?;
        for region in run.regions() {
            let slot = Slot::new(line, 1, self.filter_bits, wide.contains(region));
            self.publish_slot(region, slot);
        }
        Ok(())
    }

    /// Whether the index is as it was written here, as far as a sum over it tells.
    pub(super) fn is_as_written(&self) -> bool {
        let used = &self.memory.plain()[..self.next as usize * WORDS];
        sum::of(used) == self.sum
    }

    /// Puts the standings of one region in force: `nodes` are what covers it and what lies inside,
    /// in order.
    pub(super) fn set(
        &mut self,
        region: Region,
        nodes: &[(IpNet, Standing)],
    ) -> Result<(), Outgrown> {
        let mut is_wide = false;
        for (prefix, _) in nodes {
            match blocks_of(*prefix) {
                // Set before the ranges are: who is not in the filter is not searched for.
                Some(blocks) => blocks.for_each(|block| self.note(block)),
                None => is_wide = true,
            }
        }
        if self.filled * FULL_FILTER > 1 << self.filter_bits && self.filter_bits < MOST_FILTER {
            return Err(Outgrown);
        }
        self.write(&of_region(region, nodes.iter().copied()), is_wide)
    }

    /// What the program would find for an address.
    pub(super) fn standing(&self, source: &Prefix) -> Standing {
        look_up(source, |line| self.line(line)).unwrap_or_default()
    }

    /// Regions in which something is listed.
    fn listed(&self) -> Vec<Region> {
        // Compared a page at a time: most of them are empty.
        const NOTHING: [u64; 512] = [0; 512];
        let mut listed = Vec::new();
        let slots = &self.memory.plain()[..2 * Region::PER_FAMILY];
        for (page, words) in slots.chunks(NOTHING.len()).enumerate() {
            if words == NOTHING {
                continue;
            }
            let first = page * NOTHING.len();
            let used = words.iter().enumerate().filter(|(_, word)| **word != 0);
            listed.extend(used.map(|(n, _)| Region {
                is_v6: first + n >= Region::PER_FAMILY,
                slot: (first + n) as u16,
            }));
        }
        listed
    }

    /// Bytes of the map.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.lines) * size_of::<Line>() as u64
    }

    /// A line as the program reads it; `None` beyond the last.
    fn line(&self, line: u32) -> Option<&Line> {
        self.memory.plain().as_chunks().0.get(line as usize)
    }

    fn write_line(&mut self, line: u32, words: &Line) {
        for (at, word) in (line * WORDS as u32..).zip(words) {
            self.put(at, *word);
        }
    }

    /// The one way to write, which keeps the sum: of what was there, as it is read, and of what is
    /// there now.
    fn put(&mut self, at: u32, word: u64) {
        let before = sum::term(at, self.memory.word(at));
        self.sum = self
            .sum
            .wrapping_sub(before)
            .wrapping_add(sum::term(at, word));
        self.memory.publish(at, word);
    }

    /// The bit of a block, counted from the first word of the index on.
    fn filter_bit(&self, block: Block) -> u64 {
        u64::from(FILTER) * 64 * WORDS as u64 + u64::from(block.bit(self.filter_bits))
    }

    fn slot(&self, region: Region) -> Slot {
        Slot(self.memory.word(word_of(region)))
    }

    fn note(&mut self, block: Block) {
        let bit = self.filter_bit(block);
        let (at, mask) = ((bit / 64) as u32, 1u64 << (bit % 64));
        let word = self.memory.word(at);
        if word & mask == 0 {
            self.filled += 1;
            self.put(at, word | mask);
        }
    }

    fn write(&mut self, ranges: &RegionRanges, is_wide: bool) -> Result<(), Outgrown> {
        let RegionRanges { region, begins } = ranges;
        let (first, lines) = match begins.as_slice() {
            [] => {
                self.publish_slot(*region, Slot::NOTHING);
                return Ok(());
            }
            [one] => (self.whole(region.is_v6, one.standing)?, 1),
            many => self.several(region.is_v6, many)?,
        };
        let slot = Slot::new(first, lines, self.filter_bits, is_wide);
        self.publish_slot(*region, slot);
        Ok(())
    }

    fn publish_slot(&mut self, region: Region, slot: Slot) {
        self.put(word_of(region), slot.0);
    }

    /// The line of a region that is one range.
    fn whole(&mut self, is_v6: bool, standing: Standing) -> Result<u32, Outgrown> {
        let number = self.number(standing)?;
        if let Some(line) = self.whole.get(&(is_v6, number)) {
            return Ok(*line);
        }
        let line = self.take_line()?;
        // Whichever the region, it begins no earlier than the first address.
        self.write_line(line, &pack(is_v6, &[(0, number)]));
        self.whole.insert((is_v6, number), line);
        Ok(line)
    }

    fn several(&mut self, is_v6: bool, begins: &[Begin]) -> Result<(u32, u32), Outgrown> {
        let mut numbered = Vec::with_capacity(begins.len());
        for begin in begins {
            numbered.push((begin.at, self.number(begin.standing)?));
        }
        let chunks = numbered.chunks(per_line(is_v6));
        let first = self.next;
        for chunk in chunks {
            let line = self.take_line()?;
            self.write_line(line, &pack(is_v6, chunk));
        }
        Ok((first, self.next - first))
    }

    fn number(&mut self, standing: Standing) -> Result<u32, Outgrown> {
        if standing == Standing::default() {
            return Ok(0);
        }
        if let Some(number) = self.numbers.get(&standing) {
            return Ok(*number);
        }
        let number = match self.half_free.take() {
            Some(number) => number,
            None => {
                let number = 2 * self.take_line()?;
                self.half_free = Some(number + 1);
                number
            }
        };
        for (word, value) in half_line(standing).into_iter().enumerate() {
            let at = number * (WORDS / 2) as u32 + word as u32;
            self.put(at, value);
        }
        self.numbers.insert(standing, number);
        Ok(number)
    }

    fn take_line(&mut self) -> Result<u32, Outgrown> {
        if self.next >= self.lines {
            return Err(Outgrown);
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    /// The ranges that a region points to, read back from the lines.
    fn begins(&self, region: Region, slot: Slot) -> Vec<Begin> {
        let mut begins: Vec<Begin> = Vec::new();
        for line in slot.first()..slot.first().saturating_add(slot.lines()) {
            let Some(line) = self.line(line) else {
                break;
            };
            for (at, number) in unpack(region.is_v6, line) {
                let at = at.max(region.bounds().0);
                if begins.last().is_none_or(|last| last.at != at) {
                    let standing = standing(number, |line| self.line(line));
                    begins.push(Begin {
                        at,
                        standing: standing.unwrap_or_default(),
                    });
                }
            }
        }
        begins
    }
}

fn word_of(region: Region) -> u32 {
    let family = if region.is_v6 {
        SLOT_LINES * WORDS as u32
    } else {
        0
    };
    family + u32::from(region.slot)
}

fn per_line(is_v6: bool) -> usize {
    if is_v6 { RANGES_V6 } else { RANGES_V4 }
}

fn lines_of(ranges: &RegionRanges) -> u32 {
    ranges.begins.len().div_ceil(per_line(ranges.region.is_v6)) as u32
}

/// A line of ranges; the last one is repeated, so that what is looked for beyond it finds it.
fn pack(is_v6: bool, ranges: &[(u128, u32)]) -> Line {
    let range = |n: usize| ranges[n.min(ranges.len() - 1)];
    if !is_v6 {
        return std::array::from_fn(|n| {
            let (at, number) = range(n);
            (at as u64) << 32 | u64::from(number)
        });
    }
    let [(a, x), (b, y), (c, z)] = [range(0), range(1), range(2)];
    let half = |at: u128| [(at >> 64) as u64, at as u64];
    let ([a, aa], [b, bb], [c, cc]) = (half(a), half(b), half(c));
    [
        a,
        aa,
        b,
        bb,
        c,
        cc,
        u64::from(x) | u64::from(y) << 32,
        z.into(),
    ]
}

fn unpack(is_v6: bool, line: &Line) -> Vec<(u128, u32)> {
    if !is_v6 {
        return line
            .iter()
            .map(|word| (u128::from(word >> 32), *word as u32))
            .collect();
    }
    let at = |n: usize| u128::from(line[2 * n]) << 64 | u128::from(line[2 * n + 1]);
    let numbers = [line[6] as u32, (line[6] >> 32) as u32, line[7] as u32];
    (0..RANGES_V6).map(|n| (at(n), numbers[n])).collect()
}

/// The blocks that the filter knows a prefix by; `None` if they are too many.
fn blocks_of(prefix: IpNet) -> Option<impl Iterator<Item = Block>> {
    let first = number(prefix.network());
    let len = u32::from(prefix.prefix_len());
    let (block_len, first, block): (u32, u64, fn(u64) -> Block) = match prefix {
        IpNet::V4(_) => (24, (first >> 8) as u64, |n| Block::V4(n as u32)),
        IpNet::V6(_) if len >= 40 => (48, (first >> 80) as u64, Block::V6Long),
        IpNet::V6(_) => (32, (first >> 96) as u64, |n| Block::V6Short(n as u32)),
    };
    let blocks = 1u64 << block_len.saturating_sub(len);
    (blocks <= MOST_BLOCKS.into()).then(|| (first..first + blocks).map(block))
}

#[cfg(test)]
mod tests;
