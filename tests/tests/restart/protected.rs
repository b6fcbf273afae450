//! What is protected has a place of its own: however full the lists are, and however much it is.

use std::net::Ipv4Addr;

use nix::sys::signal::Signal;
use packetwatch_abi::capacity;
use packetwatch_tests::intruder::Intruder;
use packetwatch_tests::patience::until;
use serde_json::Value;

use crate::scene::{PORTS, PROMPT, Scene};

fn has_action(action: &str) -> impl Fn(&Value) -> bool {
    move |line| line["event.action"] == action
}

/// Puts this in the place of what `[protect]` says, and reads the line that says that SIGHUP is done.
fn protect(scene: &Scene, extra: &[String]) -> Value {
    let mark = scene.daemon.log().len();
    write(scene, extra);
    scene.daemon.signal(Signal::SIGHUP);
    let log = scene.daemon.log();
    log.wait_from(mark, has_action("reloaded"), PROMPT)
}

fn write(scene: &Scene, extra: &[String]) {
    scene.daemon.edit_config(|text| {
        let kept = text.lines().filter(|line| !line.starts_with("extra = "));
        let kept = kept.filter(|line| *line != "[protect]");
        let kept: Vec<&str> = kept.collect();
        format!("{}\n[protect]\nextra = {extra:?}\n", kept.join("\n"))
    });
}

/// Entries and capacity of a row of the maps.
fn row(scene: &Scene, map: &str) -> (u64, u64) {
    let status = scene.expect(200, "GET", "/v1/status", None);
    let rows = status["memory"]["maps"].as_array().expect("maps");
    let row = rows.iter().find(|row| row["map"] == map).expect("a row");
    let number = |key: &str| row[key].as_u64().expect("a number");
    (number("entries"), number("capacity"))
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn full_lists_leave_nothing_unprotected_and_stop_no_start() {
    let mut scene = Scene::with("10m", |builder| {
        builder.config_toml("[capacity]\nlists = 10\n")
    });
    let deny = |scene: &Scene, n: u8| {
        let path = format!("/v1/deny/203.0.113.{n}");
        scene.daemon.api("PUT", &path, None).status
    };
    let statuses: Vec<u16> = (0..11).map(|n| deny(&scene, n)).collect();
    assert_eq!(statuses[..10], [201; 10], "people have all of their room");
    assert_eq!(statuses[10], 507);
    let (protected, room) = row(&scene, "protected");
    assert_eq!(room, u64::from(capacity::PROTECTED));
    assert_eq!(row(&scene, "lists"), (10, 10));

    scene.lan.host.ip(["addr add 198.18.3.9/24 dev pw0"]);
    let is_new = |line: &Value| {
        line["event.action"] == "allow-added" && line["packetwatch.prefix"] == "198.18.3.9/32"
    };
    scene.daemon.wait_for(is_new, PROMPT);
    // Who is to be protected is when SIGHUP is done.
    let line = protect(&scene, &[scene.address(0).to_string()]);
    assert_eq!(line["error.message"], Value::Null, "{line}");
    let lines = scene.daemon.lines();
    let is_named = |line: &Value| {
        let address = format!("{}/32", scene.address(0));
        line["event.action"] == "allow-added" && line["packetwatch.prefix"] == address.as_str()
    };
    let place = |is: &dyn Fn(&Value) -> bool| lines.iter().position(is).expect("a line");
    assert!(place(&is_named) < place(&has_action("reloaded")));
    for _ in 0..2 {
        scene.assert_served(0, &PORTS);
    }
    assert!(scene.all("/v1/bans").is_empty());
    assert_eq!(row(&scene, "protected").0, protected + 2);
    scene.expect(200, "GET", "/readyz", None);

    scene.daemon.terminate();
    scene.daemon.restart();
    assert_eq!(row(&scene, "lists"), (10, 10));
    assert_eq!(row(&scene, "protected").0, protected + 2);
    assert_eq!(deny(&scene, 10), 507);
    scene.expect(200, "GET", "/readyz", None);
    for _ in 0..2 {
        scene.assert_served(0, &PORTS);
    }
    assert!(scene.all("/v1/bans").is_empty());
    scene.scan_into_ban(1);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn more_than_can_be_protected_is_told_and_stops_no_start() {
    const BEYOND: &str = "beyond the 16384 prefixes";
    let mut scene = Scene::new("10m");
    let (own, room) = row(&scene, "protected");
    // The kernel tells of each, and what is protected follows.
    let address = |n: u64| Ipv4Addr::from_bits(0x0a00_0000 + n as u32);
    let addresses = (0..room - own).map(|n| format!("addr add {}/32 dev pw0", address(n)));
    scene.lan.host.ip(addresses);
    let is_full = || (row(&scene, "protected") == (room, room)).then_some(());
    assert!(until(PROMPT, is_full).is_some(), "at the bound");
    scene.expect(200, "GET", "/readyz", None);

    // What its owner names comes first, so that something else is left out.
    let line = protect(&scene, &[scene.address(0).to_string()]);
    let told = line["error.message"].as_str().expect("SIGHUP says so");
    assert!(told.contains(BEYOND), "{told}");
    for _ in 0..2 {
        scene.assert_served(0, &PORTS);
    }
    assert_eq!(row(&scene, "protected"), (room, room));
    let failed = scene.daemon.wait_for(has_action("protect-failed"), PROMPT);
    assert_eq!(failed["error.message"], told, "{failed}");
    let not_ready = |scene: &Scene| {
        let ready = scene.daemon.api("GET", "/readyz", None);
        assert_eq!(ready.status, 503, "{ready:?}");
        assert!(ready.text().contains(BEYOND), "{ready:?}");
    };
    not_ready(&scene);

    scene.daemon.terminate();
    scene.daemon.restart_lacking();
    scene.daemon.wait_for(has_action("protect-failed"), PROMPT);
    not_ready(&scene);
    for _ in 0..2 {
        scene.assert_served(0, &PORTS);
    }
    scene.scan_into_ban(1);

    let line = protect(&scene, &[]);
    assert_eq!(line["error.message"], Value::Null, "{line}");
    assert_eq!(row(&scene, "protected"), (room, room));
    scene.expect(200, "GET", "/readyz", None);
    let lines = scene.daemon.lines();
    let failed = lines.into_iter().filter(has_action("protect-failed"));
    assert_eq!(failed.count(), 1, "told once, not with each look");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_the_kernel_does_not_take_is_told_until_it_is_not_asked_for() {
    let scene = Scene::new("10m");
    let status = scene.expect(200, "GET", "/v1/status", None);
    let program = status["interfaces"][0]["program_id"].as_u64();
    let program = program.and_then(|id| id.try_into().ok());
    Intruder::of(program.expect("a program")).freeze("LIST_HITS");
    let readyz = || scene.daemon.api("GET", "/readyz", None);

    scene.lan.host.ip(["addr add 198.18.3.9/24 dev pw0"]);
    let failed = scene.daemon.wait_for(has_action("protect-failed"), PROMPT);
    let told = failed["error.message"].as_str().expect("why");
    assert!(told.contains("the kernel refused"), "{told}");
    let is_told = || (readyz().status == 503 && readyz().text().contains(told)).then_some(());
    assert!(until(PROMPT, is_told).is_some(), "{:?}", readyz());
    let line = protect(&scene, &[]);
    assert_eq!(line["error.message"], told, "SIGHUP says so");

    scene.lan.host.ip(["addr del 198.18.3.9/24 dev pw0"]);
    let is_ready = || (readyz().status == 200).then_some(());
    assert!(until(PROMPT, is_ready).is_some(), "{:?}", readyz());
}
