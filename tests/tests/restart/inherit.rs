//! What a start goes on with that an earlier process has left in the kernel.

use std::fs;

use packetwatch_tests::daemon::Builder;
use packetwatch_tests::patience::until;
use serde_json::{Value, json};

use crate::scene::{PORTS, PROMPT, Scene};

const HOUR: &str =
    "[[rules]]\nname = \"port-scan\"\ndistinct_ports = 3\nwithin = \"1h\"\nban = \"10m\"\n";

/// Windows that no start of a daemon is too slow for.
fn of_an_hour(builder: Builder) -> Builder {
    builder.rules_toml(HOUR)
}

fn told(scene: &Scene, action: &str) -> Value {
    scene
        .daemon
        .wait_for(|line| line["event.action"] == action, PROMPT)
}

/// What the start has said of a filter that was left.
fn inherited(scene: &Scene) -> String {
    let line = told(scene, "inherited");
    line["message"].as_str().unwrap_or_default().to_owned()
}

/// The ban of a client, once there is one.
#[track_caller]
fn ban_of(scene: &Scene, n: u8) -> Value {
    let path = format!("/v1/bans?contains={}", scene.address(n));
    let ban = until(PROMPT, || {
        scene.daemon.api("GET", &path, None).json()["entries"]
            .get(0)
            .cloned()
    });
    ban.unwrap_or_else(|| panic!("client {n} is not banned"))
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn callers_are_counted_on_over_a_kill_and_a_clean_restart() {
    let mut scene = Scene::with("10m", of_an_hour);
    scene.set("on_exit", "\"keep\"");
    scene.daemon.restart();
    scene.assert_served(0, &PORTS[..1]);
    scene.daemon.kill();
    // Counted by the program alone.
    scene.assert_served(0, &PORTS[1..2]);
    scene.daemon.restart();
    assert!(inherited(&scene).contains("its callers and bans go on"));
    scene.assert_served(0, &PORTS[2..]);
    scene.daemon.terminate();
    scene.daemon.restart();
    // Three ports were called; one more than three is too many, and any packet tells.
    scene.assert_silence(0);
    let ban = ban_of(&scene, 0);
    assert_eq!(ban["source"], "port-scan");
}

/// What a caller did under other rules is no offence against those that are in force now.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn under_other_rules_callers_are_counted_anew() {
    let mut scene = Scene::with("10m", of_an_hour);
    scene.assert_served(0, &PORTS);
    scene.daemon.kill();
    scene
        .daemon
        .edit_config(|text| text.replace("distinct_ports = 3", "distinct_ports = 2"));
    scene.daemon.restart();
    scene.assert_served(0, &PORTS[..2]);
    scene.assert_silence(0);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_ban_goes_on_with_what_it_has_dropped() {
    let mut scene = Scene::with("10m", of_an_hour);
    scene.scan_into_ban(0);
    let dropped = |scene: &Scene| ban_of(scene, 0)["packets"].as_u64().unwrap();
    scene.assert_silence(0);
    let before = dropped(&scene);
    assert!(before > 0);
    scene.daemon.kill();
    scene.assert_silence(0);
    scene.daemon.restart();
    assert!(dropped(&scene) > before, "{} and {before}", dropped(&scene));
}

/// The state directory is gone; the filter was left.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn without_a_journal_the_filter_tells_what_stands() {
    let mut scene = Scene::with("10m", of_an_hour);
    scene.scan_into_ban(0);
    let brief = Some(json!({"ttl": "1h"}));
    let denied = scene.address(1);
    scene.expect(201, "PUT", &format!("/v1/deny/{denied}"), brief);
    scene.expect(201, "PUT", "/v1/deny/2001:db8:9::/48", None);
    scene.expect(201, "PUT", "/v1/deny/192.0.2.0/24", None);
    scene.expect(201, "PUT", "/v1/allow/192.0.2.129", None);
    // A whole list, in lines of its own.
    let list: Vec<Value> = (0..200)
        .map(|n| json!({"prefix": format!("203.0.113.{n}")}))
        .collect();
    scene.expect(200, "POST", "/v1/deny", Some(json!(list)));
    scene.daemon.kill();
    fs::remove_dir_all(scene.daemon.state_dir()).expect("remove the state directory");

    scene.daemon.restart();
    for what in ["1 allowed and ", " 1 bans "] {
        let tells = |line: &Value| {
            let message = line["message"].as_str().unwrap_or_default();
            line["event.action"] == "recovered" && message.contains(what)
        };
        scene.daemon.wait_for(tells, PROMPT);
    }
    scene.assert_silence(0);
    scene.assert_silence(1);
    scene.assert_served(2, &PORTS);
    let ban = ban_of(&scene, 0);
    assert_eq!(ban["source"], "unknown", "{ban}");
    let of = |address: &str, list: &str| {
        let path = format!("/v1/{list}?contains={address}");
        scene.expect(200, "GET", &path, None)["entries"].clone()
    };
    let brief = &of(&denied.to_string(), "deny")[0];
    assert!(brief["expires_at"].is_string(), "{brief}");
    assert_eq!(of("2001:db8:9::1", "deny")[0]["prefix"], "2001:db8:9::/48");
    assert_eq!(of("192.0.2.7", "deny")[0]["prefix"], "192.0.2.0/24");
    assert_eq!(of("192.0.2.129", "allow")[0]["prefix"], "192.0.2.129/32");
    assert_eq!(of("203.0.113.199", "deny").as_array().unwrap().len(), 1);
    assert_eq!(of("203.0.113.200", "deny"), json!([]));
    let own = scene.lan.segment().host(packetwatch_tests::Family::V4);
    let allowed = scene.expect(200, "GET", "/v1/allow?limit=1000", None);
    let allowed = allowed["entries"].as_array().unwrap();
    let twice = |e: &&Value| e["source"] == "api" && e["prefix"] == format!("{own}/32");
    assert!(
        !allowed.iter().any(|e| twice(&e)),
        "the host's own is derived"
    );

    // It is in the journal by now.
    scene.daemon.kill();
    scene.detach(&[]);
    scene.daemon.restart();
    scene.assert_silence(0);
    scene.assert_silence(1);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn with_other_capacities_bans_are_copied() {
    let mut scene = Scene::with("10m", of_an_hour);
    scene.scan_into_ban(0);
    scene.assert_served(1, &PORTS);
    scene.daemon.kill();
    fs::remove_dir_all(scene.daemon.state_dir()).expect("remove the state directory");
    scene
        .daemon
        .edit_config(|text| format!("{text}\n[capacity]\nbans = 100\ncallers = 1000\n"));
    scene.daemon.restart();
    let message = inherited(&scene);
    assert!(
        message.contains("bans are copied and callers count anew"),
        "{message}"
    );
    scene.assert_silence(0);
    scene.assert_served(1, &PORTS);
}

/// Where a filter goes, its maps go.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn maps_follow_their_link() {
    let mut scene = Scene::with("10m", of_an_hour);
    let maps = |scene: &Scene, interface: &str| {
        let beside = format!("/{interface}:maps/");
        let pins = scene.all_pins();
        pins.iter().filter(|pin| pin.contains(&beside)).count()
    };
    let all = maps(&scene, "pw0");
    assert!(all > 8, "{:?}", scene.all_pins());
    // Renamed with the daemon, and without.
    let rename = |scene: &Scene, from: &str, to: &str| {
        let host = &scene.lan.host;
        host.ip([
            &format!("link set {from} down"),
            &format!("link set {from} name {to}"),
        ]);
        host.ip([&format!("link set {to} up")]);
    };
    rename(&scene, "pw0", "wan0");
    let moved = until(PROMPT, || (maps(&scene, "wan0") == all).then_some(()));
    assert!(moved.is_some(), "{:?}", scene.all_pins());
    assert_eq!(maps(&scene, "pw0"), 0);
    scene.daemon.kill();
    rename(&scene, "wan0", "pw0");
    scene.daemon.restart();
    inherited(&scene);
    assert_eq!((maps(&scene, "pw0"), maps(&scene, "wan0")), (all, 0));
    scene.daemon.kill();
    scene.detach(&[]);
    assert_eq!(scene.all_pins(), [""; 0]);
}

/// The caller remembers its offence until its next packet; a ban was the answer to it.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn who_has_served_a_ban_is_not_banned_again_by_a_restart() {
    let brief = HOUR.replace("10m", "2s");
    let mut scene = Scene::with("2s", |builder| builder.rules_toml(brief));
    scene.scan_into_ban(0);
    scene
        .daemon
        .wait_for(|line| line["event.action"] == "ban-expired", PROMPT);
    scene.daemon.kill();
    scene.daemon.restart();
    inherited(&scene);
    // The rule loop looks over all callers each second.
    let looked = until(PROMPT, || {
        let status = scene.expect(200, "GET", "/v1/status", None);
        (status["uptime_seconds"].as_u64() > Some(3)).then_some(())
    });
    assert!(looked.is_some());
    let lines = scene.daemon.lines();
    assert!(!lines.iter().any(|line| line["event.action"] == "ban"));
    scene.assert_served(0, &PORTS[..1]);
}

/// Two daemons, each on one of the interfaces that one daemon has filtered before.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn two_daemons_do_not_share_what_one_has_left() {
    let mut scene = Scene::with("10m", of_an_hour);
    scene.set("interfaces", "[\"pw0\", \"pw1\"]");
    scene.daemon.restart();
    scene.scan_into_ban(0);
    scene.daemon.kill();
    scene.set("interfaces", "[\"pw0\"]");
    scene.daemon.restart();
    let message = inherited(&scene);
    assert!(
        message.contains("since the filter on pw1 uses its tables on"),
        "{message}"
    );
    let other = packetwatch_tests::Daemon::builder(&scene.lan.host)
        .interface("pw1")
        .rules_toml(HOUR)
        .bpffs(scene.daemon.bpffs().to_owned())
        .start();
    let line = other.wait_for(|line| line["event.action"] == "inherited", PROMPT);
    let message = line["message"].as_str().unwrap_or_default();
    assert!(message.contains("its callers and bans go on"), "{message}");
    // Neither takes the other's bans for foreign.
    let prefix = format!("/v1/bans/{}", scene.address(0));
    assert_eq!(other.api("DELETE", &prefix, None).status, 204);
    scene.assert_silence(0);
    ban_of(&scene, 0);
}
