//! Whether an index says what it should: whoever may write maps may have written this one.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use packetwatch_abi::{Standing, index::Block};

use super::{
    Index, Plan, Region,
    plan::Regions,
    ranges::{Begin, Piece, prefix_at},
};

/// How what is in a map differs from what should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// listed, and not in the map; of the lists, ranges of addresses
    pub missing: u64,
    /// in the map with another value, or a word that no packet is judged by and nobody here wrote
    pub changed: u64,
    /// in the map, and not listed
    pub foreign: u64,
    /// the first of them that is a prefix
    pub example: Option<IpNet>,
}

impl Differences {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn missing(&mut self, prefix: IpNet) {
        self.missing += 1;
        self.example.get_or_insert(prefix);
    }

    pub fn changed(&mut self, prefix: IpNet) {
        self.changed += 1;
        self.example.get_or_insert(prefix);
    }

    pub fn foreign(&mut self, prefix: IpNet) {
        self.foreign += 1;
        self.example.get_or_insert(prefix);
    }
}

impl Index {
    /// How this index differs from one that is built by `plan`.
    pub(in crate::dataplane) fn compare(&self, plan: &Plan<'_>) -> Differences {
        let mut differences = Differences::default();
        let mut seen = Regions::default();
        let mut look = |region: Region, expected: &[Begin]| {
            let slot = self.slot(region);
            let found = self.begins(region, slot);
            if found != expected {
                between(region, expected, &found, &mut differences);
            } else if slot.filter_bits() != self.filter_bits
                || (plan.wide.contains(region) && !slot.is_wide())
            {
                differences.changed(region.prefix());
            }
        };
        plan.each_piece(|piece| match piece {
            Piece::Region(ranges) => {
                seen.insert(ranges.region.prefix());
                look(ranges.region, &ranges.begins);
            }
            Piece::Run(run) => {
                for region in run.regions() {
                    seen.insert(region.prefix());
                    let (at, standing) = (region.bounds().0, run.standing);
                    look(region, &[Begin { at, standing }]);
                }
            }
        });
        for region in self.listed() {
            if !seen.contains(region) {
                let found = self.begins(region, self.slot(region));
                between(region, &[], &found, &mut differences);
            }
        }
        for block in plan.blocks() {
            if !self.is_noted(block) {
                // Its ranges are there, and no packet is ever compared with them.
                differences.missing(block_prefix(block));
            }
        }
        if differences.is_empty() && !self.is_as_written() {
            // A bit too many in the filter, or a line that nothing points to any more: a later write
            // may build on it, and the sum is wrong until the index is built anew.
            differences.changed += 1;
        }
        differences
    }
}

/// Counts the stretches of a region in which the two differ.
fn between(region: Region, expected: &[Begin], found: &[Begin], differences: &mut Differences) {
    let mut edges: BTreeSet<u128> = expected.iter().chain(found).map(|b| b.at).collect();
    let (first, last) = region.bounds();
    edges.insert(first);
    let at = |begins: &[Begin], place: u128| {
        let behind = begins.partition_point(|begin| begin.at <= place);
        let begin = behind.checked_sub(1).map(|index| begins[index].standing);
        begin.unwrap_or_default()
    };
    let ends: Vec<u128> = edges
        .iter()
        .skip(1)
        .map(|next| next - 1)
        .chain([last])
        .collect();
    for (place, end) in edges.into_iter().zip(ends) {
        let (wanted, there) = (at(expected, place), at(found, place));
        let prefix = || prefix_at(region, place, end);
        if wanted == there {
        } else if there == Standing::default() {
            differences.missing(prefix());
        } else if wanted == Standing::default() {
            differences.foreign(prefix());
        } else {
            differences.changed(prefix());
        }
    }
}

fn block_prefix(block: Block) -> IpNet {
    let (address, len): (IpAddr, u8) = match block {
        Block::V4(block) => (Ipv4Addr::from_bits(block << 8).into(), 24),
        Block::V6Long(block) => (Ipv6Addr::from_bits(u128::from(block) << 80).into(), 48),
        Block::V6Short(block) => (Ipv6Addr::from_bits(u128::from(block) << 96).into(), 32),
    };
    IpNet::new_assert(address, len)
}
