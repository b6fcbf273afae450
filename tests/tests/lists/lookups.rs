//! A million look-ups of the real bytecode in random lists that overlap, against a scan of all entries.
//!
//! `LISTS_SEED=N` replays a run; a failure names the seed of its list, with which the first list is
//! that one.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use packetwatch::{
    clock::Clock,
    lists::{Capacity, Force, List, Lists, NewEntry},
};
use packetwatch_abi::{Action, capacity};
use packetwatch_tests::{Kernel, Runner, random::Random, tell};

use super::{Frames, counts, kernel};

const LOOK_UPS: u64 = 1_000_000;
/// Look-ups in one list.
const EACH: u64 = 2500;
/// Most entries of a list.
const ENTRIES: u64 = 300;

/// The lists as people wrote them.
#[derive(Default)]
struct Naive {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl Naive {
    /// Allow beats deny, whatever the lengths: the index of what the packet is counted as.
    fn says(&self, source: IpAddr) -> usize {
        let covers = |prefix: &IpNet| prefix.contains(&source);
        if self.allow.iter().any(covers) {
            0
        } else if self.deny.iter().any(covers) {
            1
        } else {
            2
        }
    }

    fn list(&mut self, list: List) -> &mut Vec<IpNet> {
        match list {
            List::Allow => &mut self.allow,
            List::Deny => &mut self.deny,
        }
    }
}

/// Where the prefixes of one list crowd.
struct Crowd {
    is_v6: bool,
    at: u128,
    /// leading bits that all have in common
    common: u32,
}

impl Crowd {
    fn random(random: &mut Random) -> Self {
        let is_v6 = random.percent(50);
        let width = if is_v6 { 128 } else { 32 };
        Self {
            is_v6,
            at: any(random, width),
            common: random.below(width.into()) as u32,
        }
    }

    fn width(&self) -> u32 {
        if self.is_v6 { 128 } else { 32 }
    }

    fn address(&self, random: &mut Random) -> u128 {
        let low = u128::MAX >> (128 - (self.width() - self.common));
        (self.at & !low) | (any(random, self.width()) & low)
    }

    fn prefix(&self, random: &mut Random) -> IpNet {
        let width = u64::from(self.width());
        let length = match random.below(10) {
            0 => random.below(width + 1),
            1..4 => width,
            _ => random.between(u64::from(self.common), width),
        };
        let address = self.at(self.address(random));
        IpNet::new(address, length as u8).unwrap().trunc()
    }

    fn at(&self, number: u128) -> IpAddr {
        if self.is_v6 {
            Ipv6Addr::from_bits(number).into()
        } else {
            Ipv4Addr::from_bits(number as u32).into()
        }
    }

    /// At the edges of a prefix, in its crowd, or anywhere.
    fn source(&self, random: &mut Random, prefixes: &[IpNet]) -> IpAddr {
        let most = u128::MAX >> (128 - self.width());
        let near = match random.below(10) {
            0 => any(random, self.width()),
            1..4 => self.address(random),
            _ => {
                let prefix = random.of(prefixes);
                let edges = match prefix {
                    IpNet::V4(p) => {
                        [p.network().to_bits(), p.broadcast().to_bits()].map(u128::from)
                    }
                    IpNet::V6(p) => [p.network().to_bits(), p.broadcast().to_bits()],
                };
                let edge = *random.of(&edges);
                let step = random.below(3) as u128;
                return match prefix {
                    IpNet::V4(_) => {
                        let at = edge.wrapping_add(step).wrapping_sub(1) as u32;
                        Ipv4Addr::from_bits(at).into()
                    }
                    IpNet::V6(_) => {
                        Ipv6Addr::from_bits(edge.wrapping_add(step).wrapping_sub(1)).into()
                    }
                };
            }
        };
        self.at(near & most)
    }
}

fn any(random: &mut Random, width: u32) -> u128 {
    let number = u128::from(random.next()) << 64 | u128::from(random.next());
    number >> (128 - width)
}

fn entry(prefix: IpNet) -> NewEntry {
    NewEntry {
        prefix,
        reason: None,
        ttl: None,
    }
}

/// Writes random lists whole, and then a few entries of them on their own.
fn write(random: &mut Random, lists: &Lists, crowds: &[Crowd]) -> Naive {
    let mut naive = Naive::default();
    for list in [List::Allow, List::Deny] {
        // Often few, sometimes many.
        let most = *random.of(&[1, 3, 20, ENTRIES]);
        let count = random.between(1, most);
        let prefixes = (0..count).map(|_| random.of(crowds).prefix(random));
        let mut prefixes: Vec<IpNet> = prefixes.collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let entries = prefixes.iter().copied().map(entry).collect();
        lists.replace(list, entries).unwrap();
        *naive.list(list) = prefixes;
    }
    for _ in 0..random.below(4) {
        let list = *random.of(&[List::Allow, List::Deny]);
        let listed = naive.list(list);
        if listed.len() > 1 && random.percent(50) {
            let gone = listed.swap_remove(random.below(listed.len() as u64) as usize);
            lists.remove(list, gone).unwrap();
        } else {
            let new = random.of(crowds).prefix(random);
            lists.put(list, entry(new), Force(false)).unwrap();
            if !listed.contains(&new) {
                listed.push(new);
            }
        }
    }
    naive
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_million_look_ups_find_what_a_scan_finds() {
    let seed = env::var("LISTS_SEED").map_or_else(
        |_| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_millis() as u64
        },
        |text| text.parse().expect("LISTS_SEED is a number"),
    );
    println!("LISTS_SEED={seed}");
    let kernel = kernel();
    let home = tempfile::tempdir().unwrap();
    let bounds = Capacity {
        lists: capacity::LISTS,
        bans: capacity::BANS,
    };
    let maps = kernel.dataplane.clone();
    let lists = Lists::open(home.path(), maps, bounds, Clock::new()).unwrap();
    let mut totals = [0; 3];
    for n in 0..LOOK_UPS / EACH {
        let seed = seed.wrapping_add(n);
        let found = look_ups(&kernel, &lists, seed);
        totals.iter_mut().zip(found).for_each(|(sum, n)| *sum += n);
    }
    tell(&format!(
        "LISTS_SEED={seed}: allowed, denied, passed: {totals:?}"
    ));
    assert_eq!(totals.iter().sum::<u64>(), LOOK_UPS);
    // Each answer is a good part of them, or the generator misses what it is for.
    assert!(totals.iter().all(|n| *n > LOOK_UPS / 20), "{totals:?}");
}

fn look_ups(kernel: &Kernel, lists: &Lists, seed: u64) -> [u64; 3] {
    let mut random = Random::new(seed);
    let crowds: Vec<Crowd> = (0..4).map(|_| Crowd::random(&mut random)).collect();
    let naive = write(&mut random, lists, &crowds);
    let prefixes = [&naive.allow[..], &naive.deny].concat();
    let (runner, mut frames) = (Runner::of(kernel), Frames::new());
    let before = counts(kernel);
    let mut expected = [0; 3];
    for _ in 0..EACH {
        let source = random.of(&crowds).source(&mut random, &prefixes);
        let says = naive.says(source);
        expected[says] += 1;
        let action = if says == 1 {
            Action::Drop
        } else {
            Action::Pass
        };
        assert_eq!(
            frames.judge(&runner, source),
            action,
            "{source}, LISTS_SEED={seed}: of allow {:?} and deny {:?}",
            covering(&naive.allow, source),
            covering(&naive.deny, source)
        );
    }
    let after = counts(kernel);
    let found = std::array::from_fn(|n| after[n] - before[n]);
    assert_eq!(
        found, expected,
        "allowed, denied, passed: LISTS_SEED={seed}"
    );
    expected
}

fn covering(list: &[IpNet], source: IpAddr) -> Vec<IpNet> {
    let covering = list.iter().filter(|prefix| prefix.contains(&source));
    covering.copied().collect()
}
