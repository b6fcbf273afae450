//! From prefixes that overlap to ranges that do not.

use std::{
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use packetwatch_abi::{Standing, index::SLOT_BITS};

/// A family's part of the index that begins with the same 16 bits: what is rewritten at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region {
    pub is_v6: bool,
    /// leading bits of the addresses
    pub slot: u16,
}

impl Region {
    pub const PER_FAMILY: usize = 1 << SLOT_BITS;

    /// The regions that a prefix lies in: several if it is shorter than a region.
    pub fn of(prefix: IpNet) -> impl ExactSizeIterator<Item = Self> {
        let (is_v6, first, last) = (
            matches!(prefix, IpNet::V6(_)),
            Self::containing(prefix.network()).slot,
            Self::containing(prefix.broadcast()).slot,
        );
        (0..usize::from(last - first) + 1).map(move |n| Self {
            is_v6,
            slot: first + n as u16,
        })
    }

    pub fn containing(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self {
                is_v6: false,
                slot: (v4.to_bits() >> 16) as u16,
            },
            IpAddr::V6(v6) => Self {
                is_v6: true,
                slot: (v6.to_bits() >> 112) as u16,
            },
        }
    }

    /// The number of its slot.
    pub(super) fn number(self) -> u32 {
        u32::from(self.is_v6) << SLOT_BITS | u32::from(self.slot)
    }

    /// Its addresses as a prefix.
    pub fn prefix(self) -> IpNet {
        let address = match self.is_v6 {
            false => IpAddr::V4((u32::from(self.slot) << 16).into()),
            true => IpAddr::V6((u128::from(self.slot) << 112).into()),
        };
        IpNet::new(address, SLOT_BITS as u8).expect("16 is a length of both families")
    }

    /// First and last address, as numbers.
    pub(super) fn bounds(self) -> (u128, u128) {
        let host_bits = if self.is_v6 { 112 } else { 16 };
        let first = u128::from(self.slot) << host_bits;
        (first, first | ((1 << host_bits) - 1))
    }
}

/// A range begins here and ends where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) at: u128,
    pub(super) standing: Standing,
}

/// The ranges of one region, from its first address on. Neighbours differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RegionRanges {
    pub(super) region: Region,
    pub(super) begins: Vec<Begin>,
}

/// Resolves prefixes of one family into ranges, and visits them in order.
///
/// `nodes`: prefixes in the order of a walk down the trie, each with the standing of what no longer
/// prefix in it covers. The ranges begin before the first prefix and end with nothing listed.
pub(super) fn each_range(
    nodes: impl IntoIterator<Item = (IpNet, Standing)>,
    mut visit: impl FnMut(Begin),
) {
    // What begins last may yet be narrowed by a longer prefix that begins at the same address.
    let mut pending = Begin {
        at: 0,
        standing: Standing::default(),
    };
    let mut before: Option<Standing> = None;
    let mut put = |at: u128, standing: Standing| {
        if pending.at != at {
            if before != Some(pending.standing) {
                visit(pending);
                before = Some(pending.standing);
            }
            pending.at = at;
        }
        pending.standing = standing;
    };
    // What covers the place reached, the widest first, each with its last address.
    let mut around: Vec<(u128, Standing)> = Vec::new();
    let leave = |around: &mut Vec<(u128, Standing)>, put: &mut dyn FnMut(u128, Standing)| {
        let (last, _) = around.pop().expect("asked for when there is one");
        let outer = around.last().map_or_else(Standing::default, |(_, s)| *s);
        // Behind the last address of all there is nothing.
        if let Some(next) = last.checked_add(1) {
            put(next, outer);
        }
    };
    for (prefix, standing) in nodes {
        let (first, last) = (number(prefix.network()), number(prefix.broadcast()));
        while around.last().is_some_and(|(end, _)| *end < first) {
            leave(&mut around, &mut put);
        }
        put(first, standing);
        around.push((last, standing));
    }
    while !around.is_empty() {
        leave(&mut around, &mut put);
    }
    if before != Some(pending.standing) {
        visit(pending);
    }
}

fn ranges(nodes: impl IntoIterator<Item = (IpNet, Standing)>) -> Vec<Begin> {
    let mut begins = Vec::new();
    each_range(nodes, |begin| begins.push(begin));
    begins
}

/// Regions from one to another that are one range each, of one standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) is_v6: bool,
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) standing: Standing,
}

impl Run {
    pub(super) fn regions(self) -> impl Iterator<Item = Region> {
        let is_v6 = self.is_v6;
        (self.first..=self.last).map(move |slot| Region { is_v6, slot })
    }
}

/// Part of a family's ranges, cut at the edges of regions.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// a region of several ranges
    Region(&'a RegionRanges),
    Run(Run),
}

/// Cuts the ranges of a family at the edges of regions, and visits the pieces in order. Regions
/// with nothing listed are left out. Only one region is held in memory at a time.
pub(super) fn each_piece(
    is_v6: bool,
    nodes: impl IntoIterator<Item = (IpNet, Standing)>,
    mut visit: impl FnMut(Piece<'_>),
) {
    let (width, host_bits) = if is_v6 { (128, 112) } else { (32, 16) };
    let last_of_all = u128::MAX >> (128 - width);
    let mut open: Option<RegionRanges> = None;
    let mut cut = |begin: Begin, end: u128| {
        let of = |at: u128| Region {
            is_v6,
            slot: (at >> host_bits) as u16,
        };
        let (first, last) = (of(begin.at), of(end));
        let begins_inside = begin.at > first.bounds().0;
        let ends_inside = end < last.bounds().1;
        if begins_inside || (first == last && ends_inside) {
            let ranges = open.get_or_insert_with(|| RegionRanges {
                region: first,
                begins: Vec::new(),
            });
            ranges.begins.push(begin);
        }
        // What goes on to the edge of the region closes it.
        if (first != last || !ends_inside)
            && let Some(done) = open.take()
        {
            visit(Piece::Region(&done));
        }
        let whole = (u32::from(first.slot) + u32::from(begins_inside))
            ..(u32::from(last.slot) + 1 - u32::from(ends_inside));
        if !whole.is_empty() && begin.standing != Standing::default() {
            visit(Piece::Run(Run {
                is_v6,
                first: whole.start as u16,
                last: (whole.end - 1) as u16,
                standing: begin.standing,
            }));
        }
        if ends_inside && first != last {
            let at = last.bounds().0;
            open = Some(RegionRanges {
                region: last,
                begins: vec![Begin { at, ..begin }],
            });
        }
    };
    let mut before: Option<Begin> = None;
    each_range(nodes, |begin| {
        if let Some(before) = before.replace(begin)
            && before.at <= last_of_all
        {
            cut(before, begin.at - 1);
        }
    });
    if let Some(begin) = before.filter(|begin| begin.at <= last_of_all) {
        cut(begin, last_of_all);
    }
}

/// The ranges of one region. `nodes`: what covers it and what lies inside, as for [`ranges`].
pub(super) fn of_region(
    region: Region,
    nodes: impl IntoIterator<Item = (IpNet, Standing)>,
) -> RegionRanges {
    let (first, last) = region.bounds();
    let all = ranges(nodes);
    let inside = all.partition_point(|begin| begin.at <= first);
    let mut begins: Vec<Begin> = all[inside.saturating_sub(1)..]
        .iter()
        .filter(|begin| begin.at <= last)
        .copied()
        .collect();
    if let Some(begin) = begins.first_mut() {
        begin.at = first;
    }
    let nothing = matches!(begins.as_slice(), [only] if only.standing == Standing::default());
    if nothing {
        begins.clear();
    }
    RegionRanges { region, begins }
}

pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The largest prefix that begins at an address and ends no later than another.
pub(super) fn prefix_at(region: Region, first: u128, last: u128) -> IpNet {
    let (width, address): (u32, IpAddr) = match region.is_v6 {
        false => (32, Ipv4Addr::from_bits(first as u32).into()),
        true => (128, Ipv6Addr::from_bits(first).into()),
    };
    // A region has at most 2^112 addresses, so this does not overflow.
    let by_length = (last - first + 1).ilog2();
    let host_bits = by_length.min(first.trailing_zeros()).min(width);
    IpNet::new_assert(address, (width - host_bits) as u8)
}

/// The addresses from `first` to `last` of a region as the fewest prefixes.
pub(super) fn prefixes_of(region: Region, first: u128, last: u128) -> impl Iterator<Item = IpNet> {
    let mut next = Some(first);
    iter::from_fn(move || {
        let first = next.filter(|first| *first <= last)?;
        let prefix = prefix_at(region, first, last);
        next = number(prefix.broadcast()).checked_add(1);
        Some(prefix)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deny(until: u64) -> Standing {
        Standing {
            deny_until: until,
            ..Standing::default()
        }
    }

    fn node(prefix: &str, until: u64) -> (IpNet, Standing) {
        (prefix.parse().unwrap(), deny(until))
    }

    fn shown(begins: &[Begin]) -> Vec<(u128, u64)> {
        begins
            .iter()
            .map(|b| (b.at, b.standing.deny_until))
            .collect()
    }

    fn pieces(is_v6: bool, nodes: &[(IpNet, Standing)]) -> (Vec<RegionRanges>, Vec<Run>) {
        let (mut regions, mut runs) = (Vec::new(), Vec::new());
        each_piece(is_v6, nodes.iter().copied(), |piece| match piece {
            Piece::Region(ranges) => regions.push(ranges.clone()),
            Piece::Run(run) => runs.push(run),
        });
        (regions, runs)
    }

    #[test]
    fn neighbours_of_one_standing_are_one_range() {
        let two = [node("0.0.0.0/25", 1), node("0.0.0.128/25", 1)];
        assert_eq!(shown(&ranges(two)), [(0, 1), (256, 0)]);
    }

    #[test]
    fn a_prefix_inside_another_interrupts_it() {
        let nodes = [
            node("0.0.1.0/24", 1),
            node("0.0.1.16/28", 2),
            node("0.0.1.16/32", 1),
        ];
        let expected = [(0, 0), (256, 1), (273, 2), (288, 1), (512, 0)];
        assert_eq!(shown(&ranges(nodes)), expected);
    }

    #[test]
    fn the_whole_family_leaves_nothing_behind_it() {
        for all in ["0.0.0.0/0", "::/0"] {
            let begins = ranges([node(all, 1)]);
            let rest = if all == "::/0" {
                vec![]
            } else {
                vec![(1 << 32, 0)]
            };
            assert_eq!(shown(&begins), [vec![(0, 1)], rest].concat());
            let is_v6 = all == "::/0";
            let (regions, runs) = pieces(is_v6, &[node(all, 1)]);
            assert_eq!(regions, []);
            assert_eq!(runs.len(), 1);
            assert_eq!(runs[0].regions().count(), Region::PER_FAMILY);
        }
    }

    #[test]
    fn a_region_begins_with_what_covers_it() {
        let nodes = [node("10.0.0.0/8", 1), node("10.1.2.0/24", 2)];
        let region = Region::containing("10.1.0.0".parse().unwrap());
        let at = |a: &str| number(a.parse().unwrap());
        let expected = [
            (at("10.1.0.0"), 1),
            (at("10.1.2.0"), 2),
            (at("10.1.3.0"), 1),
        ];
        assert_eq!(shown(&of_region(region, nodes).begins), expected);
        let (cut, runs) = pieces(false, &nodes);
        assert_eq!((cut.len(), cut[0].region), (1, region));
        assert_eq!(shown(&cut[0].begins), expected);
        let runs: Vec<_> = runs.iter().map(|run| (run.first, run.last)).collect();
        assert_eq!(runs, [(0x0a00, 0x0a00), (0x0a02, 0x0aff)]);
        let elsewhere = Region::containing("11.1.0.0".parse().unwrap());
        assert_eq!(of_region(elsewhere, nodes).begins, []);
    }

    #[test]
    fn a_prefix_knows_its_regions() {
        let of = |p: &str| Region::of(p.parse().unwrap()).map(|r| r.prefix().to_string());
        assert_eq!(of("10.1.2.3/32").collect::<Vec<_>>(), ["10.1.0.0/16"]);
        assert_eq!(of("10.0.0.0/14").last().unwrap(), "10.3.0.0/16");
        assert_eq!(Region::of("::/0".parse().unwrap()).len(), 1 << 16);
        assert_eq!(of("2001:db8::/32").collect::<Vec<_>>(), ["2001::/16"]);
    }
}
