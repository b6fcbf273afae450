//! What somebody else has written among the bans of a filter that was left: it stops no start, and
//! what is no ban becomes none.

use std::net::{IpAddr, Ipv4Addr};

use packetwatch_abi::{BanKeyV4, capacity};
use packetwatch_tests::intruder::{Intruder, STRAYS};
use packetwatch_tests::patience::until;
use serde_json::Value;

use crate::scene::{PORTS, PROMPT, Scene};

/// The n-th address of 10.64.0.0/15.
fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be_bytes([10, 64, 0, 0]) + n)
}

/// A daemon that has banned client 0, and is killed; and who meddles with the filter that it left.
fn killed(capacity: &str) -> (Scene, Intruder) {
    let capacity = capacity.to_owned();
    let mut scene = Scene::with("10m", |builder| builder.config_toml(&capacity));
    scene.scan_into_ban(0);
    let status = scene.expect(200, "GET", "/v1/status", None);
    let program = status["interfaces"][0]["program_id"].as_u64().unwrap();
    scene.daemon.kill();
    (scene, Intruder::of(program.try_into().unwrap()))
}

fn prefixes(scene: &Scene) -> Vec<String> {
    let bans = scene.all("/v1/bans");
    let prefix = |ban: &Value| ban["prefix"].as_str().unwrap_or_default().to_owned();
    bans.iter().map(prefix).collect()
}

fn foreign(scene: &Scene) -> Option<u64> {
    let is = |line: &Value| line["event.action"] == "reconciled";
    scene.daemon.wait_for(is, PROMPT)["packetwatch.foreign"].as_u64()
}

/// The ban of client 0 is the only one, in force, and others can be set.
fn assert_ours_alone(scene: &Scene) {
    assert_eq!(prefixes(scene), [format!("{}/32", scene.address(0))]);
    let is = |line: &Value| line["event.action"] == "recovered";
    assert!(!scene.daemon.lines().iter().any(is));
    scene.assert_silence(0);
    scene.scan_into_ban(1);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn keys_that_no_ban_has_are_not_inherited() {
    let (mut scene, intruder) = killed("");
    intruder.ban(STRAYS);
    scene.daemon.restart();
    assert_eq!(foreign(&scene), Some(STRAYS.len() as u64));
    assert_ours_alone(&scene);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn keys_that_no_ban_has_are_not_copied() {
    let (mut scene, intruder) = killed("");
    intruder.ban(STRAYS);
    scene
        .daemon
        .edit_config(|text| format!("{text}\n[capacity]\nbans = 100\n"));
    scene.daemon.restart();
    assert_ours_alone(&scene);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_table_full_of_such_keys_stops_no_start() {
    let (mut scene, intruder) = killed("");
    let full = capacity::BANS - 1;
    intruder.ban((0..full).map(|n| (address(n), u32::MAX)));
    scene.daemon.restart();
    assert_eq!(foreign(&scene), Some(full.into()));
    assert_ours_alone(&scene);
}

/// Takes the ban of client 0 out of the tables that are left, and writes others in its place: 100 of
/// IPv4, and 100 of IPv6, to which no slot is left.
fn fill(scene: &Scene, intruder: &Intruder) {
    let IpAddr::V4(banned) = scene.address(0) else {
        panic!("a client of IPv4");
    };
    let mut bans = intruder.bans();
    let addr = u32::from_ne_bytes(banned.octets());
    let key = BanKeyV4 { addr, len: 32 };
    let ban = bans.get(&key, 0).expect("it is banned");
    bans.remove(&key).expect("it was there");
    intruder.ban((0..100).map(|n| (address(n), 32)));
    let mut bans = intruder.bans_v6();
    for n in 0..100 {
        let key = packetwatch_abi::BanKeyV6 {
            addr: [0x20, 0, 0, n],
            len: 128,
        };
        bans.insert(key, ban, 0).expect("there is room");
    }
}

/// All that there is room for stands, and client 0 is banned, as the journal has it.
fn assert_mended(scene: &Scene) {
    let says = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains("bans more than there is room for")
    };
    scene.daemon.wait_for(says, PROMPT);
    let is_served = || (!scene.is_served(0)).then_some(());
    assert!(until(PROMPT, is_served).is_some(), "client 0 is not banned");
    let prefixes = prefixes(scene);
    assert_eq!(prefixes.len(), 100);
    assert!(prefixes.contains(&format!("{}/32", scene.address(0))));
    scene.assert_served(1, &PORTS);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn more_bans_than_there_is_room_for_stop_no_start() {
    let (mut scene, intruder) = killed("[capacity]\nbans = 100\n");
    fill(&scene, &intruder);
    scene.daemon.restart();
    assert_mended(&scene);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn more_bans_than_there_is_room_for_in_fewer_stop_no_start() {
    let (mut scene, intruder) = killed("");
    fill(&scene, &intruder);
    scene
        .daemon
        .edit_config(|text| format!("{text}\n[capacity]\nbans = 100\n"));
    scene.daemon.restart();
    assert_mended(&scene);
}
