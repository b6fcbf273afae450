//! Deny lists and sources to measure with: of the same random sequence in every run.
//!
//! Two fifths of a list are single hosts (IPv6: /64), two fifths networks (/24, /48), the rest any
//! length from the shortest to the longest, anywhere in the family's unicast space. The first
//! entries lie together in one network, so that it is partly listed.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;
use packetwatch_tests::random::Random;

use crate::family::Family;

/// Entries of the partly listed network, and sources in it that are not listed.
const NEIGHBOURS: u32 = 32;
const NEARBY: u32 = 224;

/// What is listed, and where, for one family.
struct Shape {
    lengths: RangeInclusive<u8>,
    network: u8,
    host: u8,
    /// partly listed, and kept clear of all that is random
    partly: u128,
}

impl Shape {
    fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self {
                lengths: 20..=32,
                network: 24,
                host: 32,
                partly: Ipv4Addr::new(203, 0, 113, 0).to_bits().into(),
            },
            Family::V6 => Self {
                lengths: 32..=64,
                network: 48,
                host: 64,
                partly: Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0).to_bits(),
            },
        }
    }

    /// The `n`-th host of the partly listed network: each eighth is listed.
    fn neighbour(&self, family: Family, n: u32) -> IpNet {
        let bits = bits(family) - u32::from(self.host);
        net(family, self.partly | u128::from(n) << bits, self.host)
    }
}

fn bits(family: Family) -> u32 {
    8 * family.width() as u32
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(number as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(number).into(),
    }
}

fn net(family: Family, number: u128, length: u8) -> IpNet {
    IpNet::new_assert(address(family, number), length).trunc()
}

/// Of 1.0.0.0 to 223.255.255.255, or of 2000::/3.
fn anywhere(family: Family, random: &mut Random) -> u128 {
    match family {
        Family::V4 => {
            let first = 1 << 24;
            u128::from(first + random.below((224 << 24) - first))
        }
        Family::V6 => {
            let number = u128::from(random.next()) << 64 | u128::from(random.next());
            number >> 3 | 1 << 125
        }
    }
}

/// `count` different prefixes in order; those of a smaller count are among them.
pub(crate) fn denied(family: Family, count: usize) -> Vec<IpNet> {
    let shape = Shape::of(family);
    let kept_clear = net(family, shape.partly, *shape.lengths.start());
    let neighbours = (0..NEIGHBOURS).map(|n| shape.neighbour(family, 8 * n));
    let mut listed: HashSet<IpNet> = neighbours.take(count).collect();
    let mut random = Random::new(1);
    while listed.len() < count {
        let length = match random.below(5) {
            0 | 1 => shape.host,
            2 | 3 => shape.network,
            _ => {
                let (least, most) = (*shape.lengths.start(), *shape.lengths.end());
                random.between(least.into(), most.into()) as u8
            }
        };
        let prefix = net(family, anywhere(family, &mut random), length);
        if !kept_clear.contains(&prefix) {
            listed.insert(prefix);
        }
    }
    let mut listed: Vec<IpNet> = listed.into_iter().collect();
    listed.sort_unstable();
    listed
}

/// `count` sources that no prefix of a [`denied`] list covers, anywhere.
pub(crate) fn outside(listed: &[IpNet], family: Family, count: usize) -> Vec<IpAddr> {
    let mut random = Random::new(2);
    let mut sources = Vec::with_capacity(count);
    let longest_first = covering(listed);
    while sources.len() < count {
        let source = address(family, anywhere(family, &mut random));
        let before = longest_first.partition_point(|range| *range.start() <= source);
        let is_listed = before > 0 && longest_first[before - 1].contains(&source);
        if !is_listed {
            sources.push(source);
        }
    }
    sources
}

/// Ranges that do not overlap, in order. A prefix that begins inside another lies inside it.
fn covering(listed: &[IpNet]) -> Vec<RangeInclusive<IpAddr>> {
    let mut ranges: Vec<RangeInclusive<IpAddr>> = Vec::new();
    for prefix in listed {
        let is_inside = ranges
            .last()
            .is_some_and(|last| last.contains(&prefix.network()));
        if !is_inside {
            ranges.push(prefix.network()..=prefix.broadcast());
        }
    }
    ranges
}

/// Sources inside the partly listed network that are not listed, whatever the list.
pub(crate) fn nearby(family: Family) -> Vec<IpAddr> {
    let shape = Shape::of(family);
    let free = (0..u32::MAX).filter(|n| n % 8 != 0);
    free.take(NEARBY as usize)
        .map(|n| shape.neighbour(family, n).addr())
        .collect()
}

/// `count` different sources, in no order.
pub(crate) fn distinct(family: Family, count: u32) -> impl ExactSizeIterator<Item = IpAddr> {
    // An odd factor: each number below 2^24 comes once.
    (0..count).map(move |n| {
        let scattered = n.wrapping_mul(0x9e37_79b1) & 0x00ff_ffff;
        match family {
            Family::V4 => Ipv4Addr::from_bits(11 << 24 | scattered).into(),
            Family::V6 => {
                let network = u128::from(scattered);
                Ipv6Addr::from_bits(0x2001_0db8 << 96 | network << 64 | 1).into()
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_list_holds_the_smaller_one_and_the_lengths_are_as_told() {
        for family in Family::ALL {
            let few: HashSet<IpNet> = denied(family, 1000).into_iter().collect();
            let many = denied(family, 20_000);
            assert_eq!((few.len(), many.len()), (1000, 20_000));
            let all: HashSet<IpNet> = many.iter().copied().collect();
            assert!(few.is_subset(&all), "{family}");
            let share = |length| {
                let of = many.iter().filter(|prefix| prefix.prefix_len() == length);
                of.count() as f64 / many.len() as f64
            };
            let Shape { network, host, .. } = Shape::of(family);
            assert!((0.38..0.45).contains(&share(network)), "{}", share(network));
            assert!((0.38..0.45).contains(&share(host)), "{}", share(host));
        }
    }

    #[test]
    fn good_sources_are_covered_by_nothing() {
        for family in Family::ALL {
            for count in [0, 1, 40, 3000] {
                let listed = denied(family, count);
                let good = [outside(&listed, family, 2000), nearby(family)].concat();
                for source in good {
                    let by = listed.iter().find(|prefix| prefix.contains(&source));
                    assert_eq!(by, None, "{source}, of {count}");
                }
            }
        }
    }

    #[test]
    fn sources_outside_come_from_inside_too_where_nothing_is_listed() {
        // A list that covers half of everything is avoided, and no more than that.
        let listed: Vec<IpNet> = vec![
            "64.0.0.0/2".parse().unwrap(),
            "64.1.0.0/16".parse().unwrap(),
        ];
        let sources = outside(&listed, Family::V4, 1000);
        assert!(sources.iter().all(|source| !listed[0].contains(source)));
        let lower = sources
            .iter()
            .filter(|source| **source < listed[0].network());
        assert!((200..600).contains(&lower.count()));
    }

    #[test]
    fn distinct_sources_are() {
        for family in Family::ALL {
            let sources: HashSet<IpAddr> = distinct(family, 100_000).collect();
            assert_eq!(sources.len(), 100_000);
        }
    }
}
