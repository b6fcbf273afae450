//! The lists at their bounds, on the real bytecode: what is refused, and that nothing else changes.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use packetwatch::{
    clock::Clock,
    dataplane::Capacities,
    lists::{Capacity, Force, List, Lists, NewEntry, PageQuery, WriteError},
};
use packetwatch_abi::{Action, capacity};
use packetwatch_tests::{Kernel, Runner};

use super::{Frames, kernel};

fn open(kernel: &Kernel, home: &tempfile::TempDir, lists: u32) -> Lists {
    let bounds = Capacity {
        lists,
        bans: capacity::BANS,
    };
    let maps = kernel.dataplane.clone();
    Lists::open(home.path(), maps, bounds, Clock::new()).unwrap()
}

fn host(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0xc613_0000 + n))
}

fn entries(numbers: impl Iterator<Item = u32>) -> Vec<NewEntry> {
    let entry = |n| NewEntry {
        prefix: IpNet::from(host(n)),
        reason: None,
        ttl: None,
    };
    numbers.map(entry).collect()
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn full_lists_refuse_and_stay_as_they_are() {
    const CAPACITY: u32 = 8;
    let kernel = kernel();
    let home = tempfile::tempdir().unwrap();
    let lists = open(&kernel, &home, CAPACITY);
    let (runner, mut frames) = (Runner::of(&kernel), Frames::new());
    let mut denied = || -> Vec<u32> {
        let is_denied = |n: &u32| frames.judge(&runner, host(*n)) == Action::Drop;
        (0..20).filter(is_denied).collect()
    };
    let is_full = |result: Result<_, WriteError>| {
        let error = result.expect_err("it is full");
        let words = error.to_string();
        assert!(words.contains("at its capacity of 8 entries"), "{words}");
    };
    lists.replace(List::Deny, entries(0..8)).unwrap();
    assert_eq!(denied(), Vec::from_iter(0..8));

    is_full(lists.replace(List::Deny, entries(10..19)).map(drop));
    is_full(lists.add(List::Deny, entries(7..9)).map(drop));
    // Both lists share the room.
    let [one] = &entries(0..1)[..] else {
        unreachable!()
    };
    is_full(lists.put(List::Allow, one.clone(), Force(false)).map(drop));
    assert_eq!(denied(), Vec::from_iter(0..8), "nothing was changed");

    // What is there can be written again, and room is room again.
    lists.put(List::Deny, one.clone(), Force(false)).unwrap();
    lists.remove(List::Deny, IpNet::from(host(3))).unwrap();
    lists.add(List::Deny, entries(8..9)).unwrap();
    assert_eq!(denied(), [0, 1, 2, 4, 5, 6, 7, 8]);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_full_list_and_all_that_can_be_protected_are_judged_and_counted() {
    const CAPACITY: u32 = 8;
    let capacities = Capacities {
        lists: CAPACITY,
        ..Capacities::default()
    };
    let kernel = Kernel::with_capacities(Vec::new(), capacities);
    let home = tempfile::tempdir().unwrap();
    let lists = open(&kernel, &home, CAPACITY);
    let (runner, mut frames) = (Runner::of(&kernel), Frames::new());
    let protected = 0..capacity::PROTECTED;
    let own = protected.map(|n| (IpNet::from(host(n)), "own address of eth0".to_owned()));
    lists.protect(own.collect()).unwrap();
    // Around what is protected: slots of hits are taken by all.
    let around = |n: u32| IpNet::new(host(n << 13), 19).unwrap();
    let denies = (0..CAPACITY).map(|n| NewEntry {
        prefix: around(n),
        reason: None,
        ttl: None,
    });
    lists.add(List::Deny, denies.collect()).unwrap();

    let packets = |list, address| {
        let query = PageQuery {
            contains: Some(address),
            ..PageQuery::default()
        };
        let page = lists.page(list, query).unwrap();
        page.entries[0].packets
    };
    for n in [0, capacity::PROTECTED - 1] {
        assert_eq!(frames.judge(&runner, host(n)), Action::Pass);
        assert_eq!(packets(List::Allow, host(n)), Some(1));
    }
    for n in [capacity::PROTECTED, (CAPACITY << 13) - 1] {
        assert_eq!(frames.judge(&runner, host(n)), Action::Drop);
        assert_eq!(packets(List::Deny, host(n)), Some(1));
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn beyond_a_hundred_thousand_entries_are_judged_and_not_counted_one_by_one() {
    const COUNTED: u32 = capacity::LIST_HITS;
    let kernel = kernel();
    let home = tempfile::tempdir().unwrap();
    let lists = open(&kernel, &home, capacity::LISTS);
    let (runner, mut frames) = (Runner::of(&kernel), Frames::new());
    let packets = |n: u32| {
        let query = PageQuery {
            contains: Some(host(n)),
            ..PageQuery::default()
        };
        let page = lists.page(List::Deny, query).unwrap();
        page.entries[0].packets
    };
    for (count, expected) in [(COUNTED, Some(1)), (COUNTED + 1, None), (COUNTED, Some(1))] {
        lists.replace(List::Deny, entries(0..count)).unwrap();
        for n in [0, COUNTED / 2, count - 1] {
            assert_eq!(frames.judge(&runner, host(n)), Action::Drop);
            assert_eq!(packets(n), expected, "entry {n} of {count}");
        }
        assert_eq!(frames.judge(&runner, host(count)), Action::Pass);
        // Entries that stay keep their counts: they are to begin anew.
        lists.replace(List::Deny, Vec::new()).unwrap();
    }
}
