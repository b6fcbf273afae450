//! What an index is built from, and how large it is to be.

use std::collections::HashSet;

use ipnet::IpNet;
use packetwatch_abi::{
    Standing,
    index::{Block, MAX_LINES, MAX_SLOT_LINES, MOST_FILTER_BITS},
};

use super::{
    FIRST_LINE,
    pack::per_line,
    ranges::{Piece, Region, RegionRanges, each_piece, number},
};

/// Bits of the filter for each block that it knows, by two of them: at most an eighth is set, so one
/// good source in sixty-four takes the longer way.
const BITS_A_BLOCK: u64 = 16;
const LEAST_FILTER_BITS: u32 = 12;
/// A prefix is known to the filter by at most so many blocks; one that has more makes its regions
/// go without the filter.
const MOST_BLOCKS: u32 = 256;

/// Lines that a new index has left for writes, besides half of those in use.
const SPARE_LINES: u32 = 1024;

/// A write copies its region: so many of the largest find room before a new index is due.
const SPARE_REGIONS: u64 = 4;

/// What an index is built from, and how large it is to be.
pub(in crate::dataplane) struct Plan<'a> {
    v4: &'a [(IpNet, Standing)],
    v6: &'a [(IpNet, Standing)],
    pub(super) wide: Regions,
    pub(in crate::dataplane) lines: u32,
    pub(super) filter_bits: u32,
}

/// A set of regions.
pub(super) struct Regions(Vec<bool>);

impl Default for Regions {
    fn default() -> Self {
        Self(vec![false; 2 * Region::PER_FAMILY])
    }
}

impl Regions {
    pub(super) fn insert(&mut self, prefix: IpNet) {
        let mut regions = Region::of(prefix);
        let count = regions.len();
        if let Some(first) = regions.next() {
            let at = first.number() as usize;
            self.0[at..at + count].fill(true);
        }
    }

    pub(super) fn contains(&self, region: Region) -> bool {
        self.0[region.number() as usize]
    }
}

impl<'a> Plan<'a> {
    /// For prefixes in order, IPv4 first; `None` if they are more than an index can hold.
    pub(in crate::dataplane) fn new(nodes: &'a [(IpNet, Standing)]) -> Option<Self> {
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
            filter_bits: filter_bits.clamp(LEAST_FILTER_BITS, MOST_FILTER_BITS),
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
        let spare = (used / 2).max(u64::from(largest) * SPARE_REGIONS) + u64::from(SPARE_LINES);
        let fits = |lines: &u32| largest <= MAX_SLOT_LINES && *lines <= MAX_LINES;
        let lines = u32::try_from(u64::from(FIRST_LINE) + used + spare).ok();
        plan.lines = lines.filter(fits)?;
        Some(plan)
    }

    pub(super) fn each_piece(&self, mut visit: impl FnMut(Piece<'_>)) {
        each_piece(false, self.v4.iter().copied(), &mut visit);
        each_piece(true, self.v6.iter().copied(), &mut visit);
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> {
        let prefixes = self.v4.iter().chain(self.v6);
        prefixes
            .filter_map(|(prefix, _)| blocks_of(*prefix))
            .flatten()
    }
}

fn lines_of(ranges: &RegionRanges) -> u32 {
    ranges.begins.len().div_ceil(per_line(ranges.region.is_v6)) as u32
}

/// The blocks that the filter knows a prefix by; `None` if they are too many.
pub(super) fn blocks_of(prefix: IpNet) -> Option<impl Iterator<Item = Block>> {
    let first = number(prefix.network());
    let len = u32::from(prefix.prefix_len());
    let (block_len, first, block): (u32, u64, fn(u64) -> Block) = match prefix {
        IpNet::V4(_) => (24, (first >> 8) as u64, |n| Block::V4(n as u32)),
        IpNet::V6(_) if len >= 44 => (48, (first >> 80) as u64, Block::V6Long),
        IpNet::V6(_) => (32, (first >> 96) as u64, |n| Block::V6Short(n as u32)),
    };
    let blocks = 1u64 << block_len.saturating_sub(len);
    (blocks <= MOST_BLOCKS.into()).then(|| (first..first + blocks).map(block))
}
