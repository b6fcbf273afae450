//! The index over memory of this process, searched by the very code that the program runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packetwatch_abi::{FOREVER, index::FRONT};
use proptest::prelude::*;

use super::*;
use crate::dataplane::key::key;

fn deny(slot: u32) -> Standing {
    Standing {
        deny_until: FOREVER,
        deny_slot: slot,
        is_derived: slot.is_multiple_of(2),
        shared_len: slot as u8,
        ..Standing::default()
    }
}

fn built(nodes: &[(IpNet, Standing)]) -> Index {
    let plan = Plan::new(nodes).unwrap();
    let front = Mapped::private(FRONT);
    Index::build(&plan, front, Mapped::private(plan.lines * WORDS as u32))
}

/// Prefixes in order; the standing of each is that of its number, as if none ended.
fn numbered(mut prefixes: Vec<IpNet>) -> Vec<(IpNet, Standing)> {
    prefixes.sort_unstable();
    prefixes.dedup();
    let standing = |(n, prefix): (usize, IpNet)| (prefix, deny(1 + n as u32));
    prefixes.into_iter().enumerate().map(standing).collect()
}

/// The longest match, by looking at all of them.
fn scan(nodes: &[(IpNet, Standing)], address: IpAddr) -> Standing {
    let covering = nodes.iter().filter(|(prefix, _)| prefix.contains(&address));
    let longest = covering.max_by_key(|(prefix, _)| prefix.prefix_len());
    longest.map_or_else(Standing::default, |(_, standing)| *standing)
}

fn region_nodes(nodes: &[(IpNet, Standing)], region: Region) -> Vec<(IpNet, Standing)> {
    let around = region.prefix();
    let touches = |prefix: &IpNet| prefix.contains(&around) || around.contains(prefix);
    let nodes = nodes.iter().filter(|(prefix, _)| touches(prefix));
    nodes.copied().collect()
}

/// Addresses of few values in each byte, so that prefixes overlap and regions hold many.
fn any_address() -> impl Strategy<Value = IpAddr> {
    let byte = || prop::sample::select(vec![0u8, 1, 2, 127, 128, 255]);
    let v4 = [byte(), byte(), byte(), byte()].prop_map(IpAddr::from);
    let v6 = prop::collection::vec(byte(), 16).prop_map(|bytes| {
        let mut octets: [u8; 16] = bytes.try_into().unwrap();
        octets[0] = 0x20;
        octets[1] &= 1;
        IpAddr::from(octets)
    });
    prop_oneof![v4, v6]
}

fn any_prefix() -> impl Strategy<Value = IpNet> {
    // Short ones are seldom: each is thousands of regions.
    (any_address(), 0..=128u8, 0..100u8).prop_map(|(address, len, chance)| {
        let full = IpNet::from(address).max_prefix_len();
        let shortest = if chance == 0 { 0 } else { 11 };
        let len = shortest + len % (full + 1 - shortest);
        IpNet::new(address, len).unwrap().trunc()
    })
}

/// Where ranges begin and end, and beside it.
fn edges(nodes: &[(IpNet, Standing)]) -> Vec<IpAddr> {
    let mut edges = Vec::new();
    for (prefix, _) in nodes {
        for address in [prefix.network(), prefix.broadcast()] {
            edges.push(address);
            edges.extend(match address {
                IpAddr::V4(v4) => [v4.to_bits().wrapping_sub(1), v4.to_bits().wrapping_add(1)]
                    .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
                IpAddr::V6(v6) => [v6.to_bits().wrapping_sub(1), v6.to_bits().wrapping_add(1)]
                    .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
            });
        }
    }
    edges
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn it_finds_what_a_scan_finds(
        prefixes in prop::collection::vec(any_prefix(), 0..120),
        addresses in prop::collection::vec(any_address(), 50),
    ) {
        let nodes = numbered(prefixes);
        let index = built(&nodes);
        for address in edges(&nodes).into_iter().chain(addresses) {
            prop_assert_eq!(index.standing(&key(address.into())), scan(&nodes, address), "{}", address);
        }
        prop_assert_eq!(index.compare(&Plan::new(&nodes).unwrap()), Differences::default());
    }

    #[test]
    fn written_by_region_it_is_as_if_built_whole(
        prefixes in prop::collection::vec(any_prefix(), 1..40),
        changed in prop::collection::vec(any_prefix(), 1..10),
    ) {
        let mut nodes = numbered(prefixes);
        let mut index = built(&nodes);
        for (n, prefix) in changed.into_iter().enumerate() {
            match nodes.binary_search_by_key(&prefix, |(p, _)| *p) {
                Ok(at) if n % 2 == 0 => drop(nodes.remove(at)),
                Ok(at) => nodes[at].1 = deny(1000 + n as u32),
                Err(at) => nodes.insert(at, (prefix, deny(1000 + n as u32))),
            }
            let regions: Vec<Region> = Region::of(prefix).collect();
            let outgrown = regions
                .into_iter()
                .any(|region| index.set(region, &region_nodes(&nodes, region)).is_err());
            if outgrown {
                index = built(&nodes);
            }
            prop_assert!(index.is_as_written());
            for address in edges(&nodes) {
                let found = index.standing(&key(address.into()));
                prop_assert_eq!(found, scan(&nodes, address), "{}", address);
            }
            prop_assert_eq!(index.compare(&Plan::new(&nodes).unwrap()), Differences::default());
        }
    }
}

#[test]
fn a_region_as_full_as_can_be_is_searched() {
    let host = |n: u32| IpNet::from(IpAddr::from(Ipv4Addr::from_bits(0x0a01_0000 | n)));
    let nodes = numbered((0..1 << 16).map(host).collect());
    let index = built(&nodes);
    for (prefix, standing) in &nodes {
        assert_eq!(index.standing(&key(*prefix)), *standing, "{prefix}");
    }
}

#[test]
fn single_writes_outgrow_it_in_the_end_and_lose_nothing_before() {
    let mut nodes = Vec::new();
    let mut index = built(&nodes);
    let mut written = 0;
    loop {
        let prefix: IpNet = format!("10.0.{}.{}/32", written / 256, written % 256)
            .parse()
            .unwrap();
        nodes.push((prefix, deny(written)));
        let region = Region::containing(prefix.addr());
        if index.set(region, &nodes).is_err() {
            break;
        }
        written += 1;
        assert_eq!(index.standing(&key(prefix)), deny(written - 1));
    }
    assert!(written > 50, "{written}");
    nodes.pop();
    assert_eq!(
        index.compare(&Plan::new(&nodes).unwrap()),
        Differences::default()
    );
}

#[test]
fn the_filter_outgrows_too() {
    let mut nodes = Vec::new();
    let mut index = built(&nodes);
    // Blocks for more than a quarter of the least filter's bits, in few lines.
    let outgrown = (0..64u8).any(|n| {
        nodes.push((format!("10.{n}.0.0/17").parse().unwrap(), deny(1)));
        let region = Region::containing(nodes[usize::from(n)].0.addr());
        index.set(region, &nodes[usize::from(n)..]).is_err()
    });
    assert!(outgrown);
    assert!(built(&nodes).filter_bits > index.filter_bits);
}

#[test]
fn what_somebody_else_writes_is_found() {
    let nodes = numbered(
        ["10.1.0.0/24", "10.2.0.0/16", "2001:db8::/48"]
            .map(|p| p.parse().unwrap())
            .to_vec(),
    );
    let plan = || Plan::new(&nodes).unwrap();
    let region = |p: &str| Region::containing(p.parse().unwrap());

    let index = built(&nodes);
    assert!(index.is_as_written());
    index.front.meddle(region("10.1.0.0").number(), 0);
    assert!(!index.is_as_written());
    let found = index.compare(&plan());
    assert_eq!((found.missing, found.example), (1, Some(nodes[0].0)));

    let index = built(&nodes);
    let stolen = index.front.word(region("10.2.0.0").number());
    index.front.meddle(region("10.3.0.0").number(), stolen);
    let found = index.compare(&plan());
    assert_eq!(
        (found.foreign, found.example),
        (1, Some("10.3.0.0/16".parse().unwrap()))
    );

    let index = built(&nodes);
    let number = index.numbers[&nodes[1].1];
    index.lines.meddle(number * 4 + 1, 7);
    let found = index.compare(&plan());
    assert_eq!((found.changed, found.example), (1, Some(nodes[1].0)));

    let index = built(&nodes);
    for at in 0..filter_words(index.filter_bits) {
        index.front.meddle(SLOTS + at, 0);
    }
    assert!(!index.is_as_written());
    let found = index.compare(&plan());
    // A /24, the 256 of a /16, and a /48.
    assert_eq!((found.missing, found.changed, found.foreign), (258, 0, 0));
}

/// One word is not as written, and every prefix as it should be.
fn assert_stray(index: &Index, nodes: &[(IpNet, Standing)]) {
    assert!(!index.is_as_written());
    let found = index.compare(&Plan::new(nodes).unwrap());
    let stray = Differences {
        changed: 1,
        ..Differences::default()
    };
    assert_eq!(found, stray);
}

#[test]
fn a_word_that_nothing_is_judged_by_is_found_too() {
    let mut nodes = numbered(vec!["10.1.2.0/24".parse().unwrap()]);

    let index = built(&nodes);
    let at = SLOTS + filter_words(index.filter_bits) - 1;
    index.front.meddle(at, index.front.word(at) ^ 1);
    assert_stray(&index, &nodes);

    // What a write has replaced is waste.
    let mut index = built(&nodes);
    let region = Region::containing(nodes[0].0.addr());
    let waste = index.slot(region).first();
    nodes[0].1 = deny(7);
    index.set(region, &nodes).unwrap();
    assert!(waste != index.slot(region).first() && index.is_as_written());
    index.lines.meddle(waste * WORDS as u32, 7);
    assert_stray(&index, &nodes);

    // Behind the last line it counts when a write comes there.
    let mut index = built(&nodes);
    index.lines.meddle(index.next * WORDS as u32, 7);
    assert!(index.is_as_written());
    nodes[0].1 = deny(8);
    index.set(region, &nodes).unwrap();
    assert_stray(&index, &nodes);
}

#[test]
fn whatever_somebody_else_writes_into_a_slot_is_looked_up() {
    let nodes = numbered(vec!["10.1.0.0/24".parse().unwrap()]);
    let index = built(&nodes);
    let address: IpAddr = "10.1.0.9".parse().unwrap();
    for bit in 0..64 {
        for word in [1 << bit, !(1 << bit), u64::MAX >> bit] {
            index
                .front
                .meddle(Region::containing(address).number(), word);
            // Any answer will do; the program gives the same.
            let _ = index.standing(&key(address.into()));
        }
    }
}

#[test]
fn a_region_that_is_nearly_all_there_is_takes_several_writes() {
    let host = |n: u64| -> IpNet {
        let bits = 0x2a02_u128 << 112 | u128::from(n) << 65;
        IpNet::from(IpAddr::from(Ipv6Addr::from_bits(bits)))
    };
    let mut nodes = numbered((0..60_000).map(host).collect());
    let mut index = built(&nodes);
    let region = Region::containing(nodes[0].0.addr());
    for n in 0..4 {
        let prefix = host(70_000 + n);
        nodes.push((prefix, deny(1)));
        index.set(region, &nodes).unwrap();
        assert_eq!(index.standing(&key(prefix)), deny(1));
    }
}
