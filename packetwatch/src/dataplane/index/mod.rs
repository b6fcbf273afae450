//! The index of both lists, as the XDP program searches it: see [`packetwatch_abi::index`] for how
//! it is laid out.
//!
//! It is built whole for a replaced list, and changed a region at a time by single writes: new
//! lines go behind the last, and one store lets the region point to them. What they replace is
//! waste until the next building, which is due when there is no room left, so that a write costs
//! what its region holds, and the rare building is shared by many writes.

mod compare;
mod pack;
mod plan;
mod ranges;
mod written;

use std::collections::HashMap;

use ipnet::IpNet;
use packetwatch_abi::{
    Prefix, Standing,
    index::{
        Block, Line, MOST_FILTER_BITS, SLOTS, Slot, WORDS, filter_words, half_line, look_up,
        may_be_listed, slot_of, standing,
    },
};

use super::mapped::Mapped;
pub use compare::Differences;
use pack::{pack, per_line, unpack};
pub(super) use plan::Plan;
use plan::{Regions, blocks_of};
pub use ranges::Region;
use ranges::{Begin, Piece, RegionRanges, Run, of_region, prefixes_of};
use written::Written;

/// So much of it set, writes have filled the filter so far that it is to be built anew: one good
/// source in sixteen takes the longer way, where it was one in sixty-four.
const FULL_FILTER: u64 = 4;
/// The first line is left free, so that no standing has the number 0.
const FIRST_LINE: u32 = 1;

/// There is no room behind the last line, or the filter is full: build a new one.
#[derive(Debug)]
pub(super) struct Outgrown;

pub(super) struct Index {
    /// slots and filter
    front: Written,
    lines: Written,
    /// lines that there are
    room: u32,
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
}

impl Index {
    /// Writes an index into the front of a half, and into as many lines as the plan has; all zero.
    pub(super) fn build(plan: &Plan<'_>, front: Mapped, lines: Mapped) -> Self {
        let mut index = Self {
            front: Written::new(front),
            lines: Written::new(lines),
            room: plan.lines,
            next: FIRST_LINE,
            filter_bits: plan.filter_bits,
            filled: 0,
            numbers: HashMap::new(),
            half_free: None,
            whole: HashMap::new(),
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

    /// An index that another process has built, to be read.
    pub(super) fn over(front: Mapped, lines: Mapped, room: u32) -> Self {
        Self {
            front: Written::new(front),
            lines: Written::new(lines),
            room,
            next: room,
            filter_bits: 0,
            filled: 0,
            numbers: HashMap::new(),
            half_free: None,
            whole: HashMap::new(),
        }
    }

    /// What is listed, as prefixes that do not overlap, in order.
    pub(super) fn prefixes(&self) -> Vec<(IpNet, Standing)> {
        let mut prefixes = Vec::new();
        for region in self.listed() {
            let begins = self.begins(region, self.slot(region));
            let ends = begins.iter().skip(1).map(|next| next.at - 1);
            let ends = ends.chain([region.bounds().1]);
            for (begin, end) in begins.iter().zip(ends) {
                if begin.standing != Standing::default() {
                    let parts = prefixes_of(region, begin.at, end);
                    prefixes.extend(parts.map(|prefix| (prefix, begin.standing)));
                }
            }
        }
        prefixes
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
        let front = SLOTS + filter_words(self.filter_bits);
        self.front.is_as_written(front) && self.lines.is_as_written(self.next * WORDS as u32)
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
        if self.filled * FULL_FILTER > 1 << self.filter_bits && self.filter_bits < MOST_FILTER_BITS
        {
            return Err(Outgrown);
        }
        self.write(&of_region(region, nodes.iter().copied()), is_wide)
    }

    /// What the program would find for an address.
    pub(super) fn standing(&self, source: &Prefix) -> Standing {
        let slot = Slot(self.front.word(slot_of(source)));
        if !may_be_listed(source, slot, |word| self.filter_word(word)) {
            return Standing::default();
        }
        look_up(source, slot, |line| self.line(line)).unwrap_or_default()
    }

    /// Regions in which something is listed.
    fn listed(&self) -> Vec<Region> {
        // Compared a page at a time: most of them are empty.
        const NOTHING: [u64; 512] = [0; 512];
        let mut listed = Vec::new();
        let slots = &self.front.words()[..SLOTS as usize];
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

    /// Bytes of the lines.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.room) * size_of::<Line>() as u64
    }

    /// A word of the filter as the program reads it; `None` beyond the last.
    fn filter_word(&self, word: u32) -> Option<u64> {
        let at = SLOTS as usize + word as usize;
        self.front.words().get(at).copied()
    }

    /// A line as the program reads it; `None` beyond the last.
    fn line(&self, line: u32) -> Option<&Line> {
        self.lines.words().as_chunks().0.get(line as usize)
    }

    fn write_line(&mut self, line: u32, words: &Line) {
        for (at, word) in (line * WORDS as u32..).zip(words) {
            self.lines.put(at, *word);
        }
    }

    fn is_noted(&self, block: Block) -> bool {
        let mark = block.mark(self.filter_bits);
        self.front.word(SLOTS + mark.word) & mark.bits == mark.bits
    }

    fn note(&mut self, block: Block) {
        let mark = block.mark(self.filter_bits);
        let at = SLOTS + mark.word;
        let word = self.front.word(at);
        let new = mark.bits & !word;
        if new != 0 {
            self.filled += u64::from(new.count_ones());
            self.front.put(at, word | new);
        }
    }

    fn slot(&self, region: Region) -> Slot {
        Slot(self.front.word(region.number()))
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
        self.front.put(region.number(), slot.0);
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
            self.lines.put(at, value);
        }
        self.numbers.insert(standing, number);
        Ok(number)
    }

    fn take_line(&mut self) -> Result<u32, Outgrown> {
        if self.next >= self.room {
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

#[cfg(test)]
mod tests;
