//! Sources that are halfway to a threshold fill the table, and hide no scanner.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use packetwatch_tests::{
    Daemon, Family, Frame, Frames, Lan,
    packet::SYN,
    patience::{Raised, until},
};
use serde_json::Value;

use super::spoofed;

const PROMPT: Duration = Duration::from_secs(30);

/// What it counts is held for longer than any test.
const RULE: &str = "[[rules]]\nname = \"scan\"\ndistinct_ports = 10\nwithin = \"24h\"\nban = \
                    \"10m\"\nprefix_v4 = 32\n";

/// The least of which a tick's places are a sixteenth.
const CALLERS: u64 = 1024;
const CAPACITY: &str = "[capacity]\ncallers = 1024\n[log]\nconnections_per_second = 0\n";

fn start(lan: &Lan) -> Daemon {
    Daemon::builder(&lan.host)
        .interface("pw0")
        .rules_toml(RULE)
        .config_toml(CAPACITY)
        .start()
}

/// Calls nine ports from one source after another, some hundreds of them a second, while `go_on` says so.
fn fill(lan: &Lan, mut go_on: impl FnMut() -> bool) {
    let host = lan.segment().host(Family::V4);
    let link = Frames::open(&lan.segment().client, "eth0");
    let call = |port| {
        let frame = Frame::new().ip(spoofed(0), host);
        frame.tcp(40_000, port, SYN).build()
    };
    let mut calls: Vec<_> = (1..=9).map(call).collect();
    for n in 0..1 << 20 {
        // The first sixty of each tick get a place at once, others from their fourth call on.
        if n % 50 == 0 && !go_on() {
            return;
        }
        for call in &mut calls {
            super::readdress(call, spoofed(n));
            link.send(call);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Calls a port after the other, until it is banned.
#[track_caller]
fn is_found(lan: &Lan, daemon: &Daemon, scanner: IpAddr) {
    let host = lan.segment().host(Family::V4);
    let link = Frames::open(&lan.segment().client, "eth0");
    let mut port = 0;
    let banned = |line: &Value| {
        line["event.action"] == "ban" && line["source.ip"] == scanner.to_string().as_str()
    };
    let found = until(PROMPT, || {
        port += 1;
        let call = Frame::new().ip(scanner, host).tcp(40_000, port, SYN);
        link.send(&call.build());
        daemon.log().lines().iter().any(banned).then_some(())
    });
    assert!(found.is_some(), "{port} ports called: {}", status(daemon));
}

fn status(daemon: &Daemon) -> Value {
    daemon.api("GET", "/v1/status", None).json()["counting"].clone()
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn sources_halfway_to_a_threshold_hide_no_scanner() {
    let lan = Lan::new();
    let daemon = start(&lan);
    // Whoever is let in keeps its place for a day, unless the sweep makes room.
    fill(&lan, || {
        status(&daemon)["admitted"].as_u64() < Some(CALLERS)
    });
    is_found(&lan, &daemon, IpAddr::from([198, 19, 9, 9]));

    let began = |line: &Value| line["event.action"] == "crowd-began";
    daemon.log().wait_from(0, began, PROMPT);
    let counting = status(&daemon);
    assert_eq!(counting["crowded"], true, "{counting}");
    let shown = daemon.cli(&["status", "--output", "table"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("crowd       room is short"), "{shown}");
    let metrics = daemon.api("GET", "/metrics", None);
    let line = "packetwatch_callers_crowded 1";
    assert!(metrics.text().lines().any(|is| is == line));
    super::assert_nothing_reconciled(&daemon);
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_full_table_is_told_and_hides_no_scanner_for_long() {
    let lan = Lan::new();
    let daemon = start(&lan);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = Raised(&over);
        scope.spawn(|| fill(&lan, || !over.load(Relaxed)));
        let full = |line: &Value| {
            let message = line["message"].as_str().unwrap_or_default();
            message.contains("the table of callers is full with 1024")
        };
        daemon.log().wait_from(0, full, PROMPT);
        is_found(&lan, &daemon, IpAddr::from([198, 19, 9, 9]));
        // Several rounds of the sweep make room for so many.
        let many = || (status(&daemon)["admitted"].as_u64() > Some(4 * CALLERS)).then_some(());
        until(PROMPT, many).expect("there is room again and again");
    });
    super::assert_nothing_reconciled(&daemon);
}
