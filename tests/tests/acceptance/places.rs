//! Where the daemon stands, what it counts as one caller, and how it leaves.

use packetwatch_tests::{Daemon, Family, Lan, patience};
use serde_json::{Value, json};

use crate::for_both_families;
use crate::scene::{PORTS, PROMPT, Scene, rule};

for_both_families![
    every_interface_is_watched,
    observe_judges_and_drops_nothing,
    sigterm_detaches,
];

fn every_interface_is_watched(family: Family) {
    let scene = Scene::on(Lan::with_interfaces(2), family, |daemon| {
        daemon.rules_toml(rule("5s", "10m", ""))
    });
    for segment in &scene.lan.segments {
        let scanner = scene.caller_at(segment, segment.client(family, 0));
        let innocent = scene.caller_at(segment, segment.client(family, 1));
        scene.scan_into_ban(&scanner);
        innocent.assert_served(&PORTS[..1]);
        let line = scene.wait_for_action(0, "connection", &scanner);
        assert_eq!(
            line["observer.ingress.interface.name"],
            segment.interface.as_str(),
            "{line}"
        );
    }
    assert_eq!(scene.bans().len(), 2);
}

fn observe_judges_and_drops_nothing(family: Family) {
    let scene = Scene::on(Lan::new(), family, |daemon| {
        daemon.rules_toml(rule("5s", "10m", "")).mode("observe")
    });
    let (scanner, denied) = (scene.caller(0), scene.caller(1));
    scanner.assert_served(&[PORTS, PORTS].concat());
    let line = scene.wait_for_action(0, "ban", &scanner);
    assert_eq!(line["rule.name"], "port-scan", "{line}");
    scanner.assert_served(&PORTS);
    scene.change("PUT", "deny", &scene.single(&denied), 201);
    denied.assert_served(&PORTS[..1]);
}

fn sigterm_detaches(family: Family) {
    let mut scene = Scene::new(family, &rule("5s", "10m", ""));
    let scanner = scene.caller(0);
    scene.scan_into_ban(&scanner);
    assert!(scene.lan.host.xdp("pw0").is_some());
    let status = scene.daemon.terminate();
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(scene.lan.host.xdp("pw0"), None);
    let stopped = |line: &Value| line["event.action"] == "stopped";
    assert!(scene.daemon.lines().iter().any(stopped));
    // Nobody watches any more.
    scanner.assert_served(&PORTS);
}

/// Without an interface in its configuration, the daemon takes that of the default route.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_default_route_names_the_interface() {
    let lan = Lan::with_interfaces(2);
    let daemon = Daemon::builder(&lan.host).start();
    assert!(lan.host.xdp("pw0").is_some());
    assert_eq!(lan.host.xdp("pw1"), None);
    let status = daemon.api("GET", "/v1/status", None).json();
    assert_eq!(status["interfaces"][0]["name"], "pw0", "{status}");
    assert_eq!(status["interfaces"].as_array().map(Vec::len), Some(1));
}

/// The default unit of IPv6 is the /64. The client sits behind a router, since a /64 with the host's own
/// address in it would be banned by single address.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_whole_64_is_one_caller() {
    let rules =
        "[[rules]]\nname = \"port-scan\"\ndistinct_ports = 3\nwithin = \"5s\"\nban = \"10m\"\n";
    let scene = Scene::on(Lan::routed(), Family::V6, |daemon| daemon.rules_toml(rules));
    let segment = scene.lan.segment();
    let at = |network, n| scene.caller_at(segment, segment.remote_client(network, Family::V6, n));
    // Two addresses share the three ports, and a third makes the call too many.
    at(0, 0).assert_served(&PORTS[..2]);
    at(0, 1).assert_served(&PORTS[2..]);
    at(0, 2).assert_silence(PORTS[0]);
    let line = scene
        .daemon
        .wait_for(|line| line["event.action"] == "ban", PROMPT);
    assert_eq!(line["packetwatch.prefix"], "2001:db8:100::/64", "{line}");
    assert_eq!(scene.bans()[0]["prefix"], "2001:db8:100::/64");
    for n in 0..4 {
        at(0, n).assert_silence(PORTS[0]);
    }
    at(1, 0).assert_served(&PORTS[..2]);
}

/// A ban of a whole /64 would cut off the neighbour that is allowed, so it falls on the address alone, and
/// for what this did alone.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_64_with_an_allowed_address_is_banned_by_single_address() {
    let rules =
        "[[rules]]\nname = \"port-scan\"\ndistinct_ports = 3\nwithin = \"5s\"\nban = \"10m\"\n";
    let scene = Scene::on(Lan::routed(), Family::V6, |daemon| daemon.rules_toml(rules));
    let segment = scene.lan.segment();
    let at = |n| scene.caller_at(segment, segment.remote_client(0, Family::V6, n));
    let (scanner, allowed) = (at(0), at(1));
    scene.change("PUT", "allow", &scene.single(&allowed), 201);
    // Three ports in all, and no more than two of one source.
    at(2).assert_served(&PORTS[..2]);
    at(3).assert_served(&PORTS[1..]);
    for n in [2, 3] {
        let rule = &scene.explained(&at(n))["rules"][0];
        assert_eq!(rule["prefix"], scene.single(&at(n)), "{rule}");
        assert_eq!([&rule["counted"], &rule["limit"]], [2, 3], "{rule}");
    }
    let line = scene.scan_into_ban(&scanner);
    assert_eq!(line["packetwatch.prefix"], scene.single(&scanner), "{line}");
    at(2).assert_served(&PORTS[..2]);
    allowed.assert_served(&[PORTS, PORTS].concat());
    scanner.assert_silence(PORTS[0]);

    // By other rules' units, too, which tell first whom they would drop.
    let rules = json!({"rules": [{"name": "wide", "distinct_ports": 2, "prefix_v6": 48}]});
    let answer = scene.daemon.api("PUT", "/v1/rules", Some(&rules));
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let told = answer["would_drop"].as_array().expect("a list");
    for n in [2, 3] {
        let single = scene.single(&at(n));
        assert!(
            told.iter().any(|caller| caller["prefix"] == single),
            "{answer}"
        );
    }
    at(2).assert_served(&PORTS[..1]);
    let rule = &scene.explained(&at(2))["rules"][0];
    assert_eq!(rule["prefix"], scene.single(&at(2)), "{rule}");
    assert_eq!(rule["counted"], 1, "{rule}");
}

/// What was counted of a source is all that holds it back when the full table of bans has no room for it.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn beside_an_allowed_address_a_ban_that_is_refused_forgives_nothing() {
    let rules =
        "[[rules]]\nname = \"port-scan\"\ndistinct_ports = 3\nwithin = \"10m\"\nban = \"10m\"\n";
    let scene = Scene::on(Lan::routed(), Family::V6, |daemon| {
        daemon.rules_toml(rules).config_toml("[capacity]\nbans = 1")
    });
    let segment = scene.lan.segment();
    let at = |n| scene.caller_at(segment, segment.remote_client(0, Family::V6, n));
    let (scanner, allowed, next) = (at(0), at(1), at(2));
    scene.change("PUT", "allow", &scene.single(&allowed), 201);
    scene.scan_into_ban(&scanner);
    let refused = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains("bans could not be set")
    };
    let is_refused = || {
        next.call(&PORTS);
        scene.daemon.lines().iter().any(refused).then_some(())
    };
    patience::until(PROMPT, is_refused).expect("its ban is refused");
    for port in [PORTS, PORTS].concat() {
        next.assert_silence(port);
    }
    assert_eq!(scene.bans().len(), 1);
    allowed.assert_served(&PORTS);
}
