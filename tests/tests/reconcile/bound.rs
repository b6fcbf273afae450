//! As many bans as there may be: looked at every second all the same.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use ipnet::Ipv4Net;
use packetwatch::clock::Clock;
use packetwatch::lists::{BanOrder, BanOutcome, Capacity, Lists};
use packetwatch::rules::BanLength;
use packetwatch_abi::{Ban, BanKeyV4, capacity};
use packetwatch_tests::Kernel;

use super::{Scene, assert_line};

/// What has to come; the daemon's schedule says that it comes in a second. Without the look of each
/// second a comparison of so many bans is minutes away.
const PATIENCE: Duration = Duration::from_secs(30);

/// The n-th address of 10.64.0.0/15.
fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be_bytes([10, 64, 0, 0]) + n)
}

fn key(n: u32) -> BanKeyV4 {
    BanKeyV4 {
        addr: u32::from_ne_bytes(address(n).octets()),
        len: 32,
    }
}

/// Leaves a journal of `capacity::BANS` bans that last for ever.
fn fill(state_dir: &Path) {
    let capacity = Capacity {
        lists: 1000,
        bans: capacity::BANS,
    };
    let maps = Kernel::new().dataplane;
    let lists = Lists::open(state_dir, maps, capacity, Clock::new()).expect("open the journal");
    for n in 0..capacity::BANS {
        let order = BanOrder {
            prefix: Ipv4Net::from(address(n)).into(),
            rule: "calls".to_owned(),
            offender: address(n).into(),
            reason: "3 connections in 5s".to_owned(),
            ban: BanLength::Forever,
            escalate: 1.0,
            max_ban: Duration::from_secs(60),
            within: Duration::from_secs(5),
            trial: None,
        };
        let outcome = lists.ban(order).expect("there is room");
        assert!(matches!(outcome, BanOutcome::Banned(_)), "{n}");
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn of_65_536_bans_each_that_somebody_deletes_or_alters_is_mended() {
    let mut scene = Scene::new();
    scene.restart_with(fill);
    scene.wait_for_bans(capacity::BANS as usize);
    let mut bans = scene.intruder.bans();

    let (first, last) = (key(0), key(capacity::BANS - 1));
    let written = bans.get(&first, 0).expect("it is there");
    let line = scene.within(PATIENCE, || bans.remove(&first).expect("it was there"));
    assert_line(&line, "bans", [1, 0, 0]);
    assert_eq!(line["packetwatch.prefix"], format!("{}/32", address(0)));
    assert_eq!(bans.get(&first, 0).expect("it is there again"), written);

    let written = bans.get(&last, 0).expect("it is there");
    let altered = Ban {
        until: 1,
        ..written
    };
    let line = scene.within(PATIENCE, || {
        bans.insert(last, altered, 0).expect("alter it")
    });
    assert_line(&line, "bans", [0, 1, 0]);
    assert_eq!(bans.get(&last, 0).expect("it is there"), written);
    assert_eq!(scene.told().len(), 2, "{:?}", scene.told());
}
