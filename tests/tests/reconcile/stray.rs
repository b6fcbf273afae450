//! Keys among the bans that no ban has: no packet is dropped by them, but they take room.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use packetwatch_abi::{Ban, BanKeyV6, FOREVER, Family, Prefix, capacity};
use packetwatch_tests::packet::SYN;
use packetwatch_tests::{Frame, Frames, intruder::STRAYS, patience};
use serde_json::Value;

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
        let of = |line: &Value| line["packetwatch.foreign"].as_u64();
        let all: u64 = lines.iter().filter_map(of).sum();
        (all == u64::from(capacity::BANS)).then_some(())
    };
    let thrown_out = patience::until(PATIENCE, foreign);
    assert!(thrown_out.is_some(), "{:?}", scene.told());
    assert_eq!(scene.intruder.bans().keys().count(), 0);
    let scanners = scene.scan(1..=3);
    scene.wait_for_bans(scanners);
}

/// Among the callers: the next sweep, ten seconds later at most, throws them out.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn keys_that_no_caller_has_are_thrown_out() {
    const SWEEP: Duration = Duration::from_secs(12);
    let scene = Scene::new();
    scene.scan(1..=1);
    scene.wait_for_bans(1);
    let of = |len, family| Prefix {
        len,
        family,
        ..Prefix::address_v4(u32::from_ne_bytes([198, 19, 7, 1]))
    };
    let (v4, v6) = (Family::V4 as u32, Family::V6 as u32);
    let strays = [
        of(33, v4),
        of(u32::MAX, v4),
        of(24, v4),
        of(129, v6),
        of(32, 7),
    ];
    let line = scene.within(SWEEP, || scene.intruder.enter_callers(strays));
    // Those that a sweep under way has passed already are the next one's.
    let first = line["packetwatch.foreign"].as_u64().unwrap();
    if first < 5 {
        scene.within(SWEEP, || {});
    }
    scene.assert_counted("callers", "foreign", 5);
    let callers = scene.daemon.api("GET", "/v1/callers", None).json();
    let all = callers["callers"].as_array().unwrap().iter();
    let of_scanner = |caller: &&Value| {
        let prefix = caller["prefix"].as_str().unwrap();
        prefix.starts_with("198.19.7.")
    };
    assert_eq!(all.filter(of_scanner).count(), 1, "{callers}");
}

/// An entry may be given to another source while a packet is judged by it. Here one stays so.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn an_entry_that_is_anothers_bans_nobody() {
    let scene = Scene::new();
    let link = Frames::open(&scene.lan.segment().client, "eth0");
    let host = scene.lan.segment().host(packetwatch_tests::Family::V4);
    let call = |n: u8, port: u16| {
        let source = IpAddr::from([198, 19, 7, n]);
        link.send(&Frame::new().ip(source, host).tcp(4000, port, SYN).build());
    };
    (80..83).for_each(|port| call(1, port));
    let key = |n| Prefix::address_v4(u32::from_ne_bytes([198, 19, 7, n]));
    let counted = || scene.intruder.has_caller(key(1)).then_some(());
    patience::until(PATIENCE, counted).expect("it is counted");
    // With as many calls as the rule lets pass.
    scene.intruder.copy_caller(key(1), key(2));
    call(2, 80);
    scene.scan(3..=3);
    scene.wait_for_bans(1);
    let bans = scene.daemon.api("GET", "/v1/bans", None).json();
    assert_eq!(bans["entries"][0]["prefix"], "198.19.7.3/32", "{bans}");
}
