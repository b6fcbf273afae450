//! Keys among the bans that no ban has: no packet is dropped by them, but they take room.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use packetwatch_abi::{Ban, BanKeyV6, FOREVER, capacity};
use packetwatch_tests::{intruder::STRAYS, patience};

use super::{Scene, assert_line};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn keys_that_no_ban_has_are_thrown_out() {
    let scene = Scene::new();
    scene.scan(1..=1);
    scene.wait_for_bans(1);
    let bans = scene.intruder.bans();
    let ours: Vec<_> = bans.iter().map(Result::unwrap).collect();
    for stray in STRAYS {
        let line = scene.after(|| scene.intruder.ban([stray]));
        assert_line(&line, "bans", [0, 0, 1]);
        let left: Vec<_> = bans.iter().map(Result::unwrap).collect();
        assert_eq!(left, ours, "{stray:?}");
    }

    let mut bans = scene.intruder.bans_v6();
    let address: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let ban = Ban {
        until: FOREVER,
        ..Ban::default()
    };
    for len in [64, 129, 255] {
        let octets = address.octets();
        let word = |at| u32::from_ne_bytes(std::array::from_fn(|n| octets[at * 4 + n]));
        let key = BanKeyV6 {
            addr: std::array::from_fn(word),
            len,
        };
        let line = scene.after(|| bans.insert(key, ban, 0).unwrap());
        assert_line(&line, "bans", [0, 0, 1]);
        assert_eq!(bans.keys().count(), 0, "{len}");
    }
    let all = STRAYS.len() + 3;
    scene.assert_counted("bans", "foreign", all as u64);
    assert_eq!(scene.told().len(), all, "{:?}", scene.told());
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn of_a_table_full_of_such_keys_there_is_room_again() {
    let scene = Scene::new();
    let address = |n: u32| Ipv4Addr::from_bits(u32::from_be_bytes([10, 64, 0, 0]) + n);
    let keys = (0..capacity::BANS).map(|n| (address(n), u32::MAX));
    scene.intruder.ban(keys);
    let foreign = || {
        let lines = scene.told();
        let of = |line: &serde_json::Value| line["packetwatch.foreign"].as_u64();
        let all: u64 = lines.iter().filter_map(of).sum();
        (all == u64::from(capacity::BANS)).then_some(())
    };
    let thrown_out = patience::until(PATIENCE, foreign);
    assert!(thrown_out.is_some(), "{:?}", scene.told());
    assert_eq!(scene.intruder.bans().keys().count(), 0);
    let scanners = scene.scan(1..=3);
    scene.wait_for_bans(scanners);
}
