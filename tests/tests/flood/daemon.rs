//! The daemon under a flood: it says so, still finds who calls much, and says when it is over.

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

use super::{spoofed, spoofed_in_both};

const PROMPT: Duration = Duration::from_secs(20);

/// Of the 200 that the rule has: who is halfway there has a place that the flood does not fill.
const CALLS: u16 = 120;

const RULE: &str =
    "[[rules]]\nname = \"calls\"\nconnections = 200\nwithin = \"60s\"\nban = \"10m\"\n";

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_flood_is_told_and_hides_no_heavy_source() {
    let lan = Lan::new();
    let daemon = Daemon::builder(&lan.host)
        .interface("pw0")
        .rules_toml(RULE)
        .config_toml("[log]\nconnections_per_second = 0\n")
        .start();
    let host = lan.segment().host(Family::V4);
    let call = |source, port| Frame::new().ip(source, host).tcp(40_000, port, SYN).build();
    let known = IpAddr::from([198, 19, 1, 1]);
    let link = Frames::open(&lan.segment().client, "eth0");
    (1..=CALLS).for_each(|port| link.send(&call(known, port)));

    let over = AtomicBool::new(false);
    let ban = thread::scope(|scope| {
        let _end = Raised(&over);
        scope.spawn(|| {
            let link = Frames::open(&lan.segment().client, "eth0");
            let mut frame = call(known, 443);
            for n in 0..1 << 22 {
                if over.load(Relaxed) {
                    return;
                }
                super::readdress(&mut frame, spoofed(n));
                link.send(&frame);
                // Some 30 000 a second, of which 4096 get a place; more, and the link is full.
                if n % 32 == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let began = |line: &Value| line["event.action"] == "flood-began";
        let began = daemon.log().wait_from(0, began, PROMPT);
        assert!(
            began["packetwatch.admission_threshold"].as_u64() >= Some(4),
            "{began}"
        );
        let counting = status(&daemon)["counting"].clone();
        assert_eq!(counting["flood"], true, "{counting}");
        assert!(
            counting["admission_threshold"].as_u64() >= Some(4),
            "{counting}"
        );
        let shown = daemon.cli(&["status", "--output", "table"]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(
            shown.contains("flood       new sources are counted from"),
            "{shown}"
        );

        let heavy = IpAddr::from([198, 19, 2, 2]);
        for port in 0..2000 {
            link.send(&call(heavy, port));
            thread::sleep(Duration::from_millis(1));
        }
        let banned = |line: &Value| {
            line["event.action"] == "ban" && line["source.ip"] == heavy.to_string().as_str()
        };
        daemon.log().wait_from(0, banned, PROMPT)
    });
    assert_eq!(ban["rule.name"], "calls");
    let ended = |line: &Value| line["event.action"] == "flood-ended";
    let ended = daemon.log().wait_from(0, ended, PROMPT);
    assert!(
        ended["packetwatch.not_admitted"].as_u64() > Some(1000),
        "{ended}"
    );

    let status = status(&daemon);
    assert_eq!(status["counting"]["flood"], false, "{status}");
    assert_eq!(status["counting"]["admission_threshold"], 1, "{status}");
    assert_eq!(status["lists"]["bans"], 1, "{status}");
    let metrics = daemon.api("GET", "/metrics", None);
    let line = "packetwatch_admission_threshold 1";
    assert!(
        metrics.text().lines().any(|is| is == line),
        "{}",
        metrics.text()
    );
    let counted = daemon
        .api("GET", &format!("/v1/callers/{known}"), None)
        .json();
    assert_eq!(counted["callers"][0]["connections"], CALLS, "{counted}");
    super::assert_nothing_reconciled(&daemon);
}

/// Datagrams by rules that look at calls alone: who calls among them is counted from its first call on,
/// and `status` tells so.
#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn what_no_rule_looks_at_is_no_flood_and_hides_nobody() {
    const DATAGRAMS: u32 = 60_000;
    const SCANNERS: u32 = 40;
    let lan = Lan::new();
    let daemon = Daemon::builder(&lan.host)
        .interface("pw0")
        .rules_toml(RULE)
        // Full after two seconds of a flood.
        .config_toml("[capacity]\ncallers = 1024\n[log]\nconnections_per_second = 0\n")
        .start();
    let link = Frames::open(&lan.segment().client, "eth0");
    let to = |source: IpAddr| {
        let family = if source.is_ipv6() {
            Family::V6
        } else {
            Family::V4
        };
        Frame::new().ip(source, lan.segment().host(family))
    };
    let scanner = |n| spoofed_in_both(DATAGRAMS + n);
    let mut datagrams = [0, 1].map(|n| to(spoofed_in_both(n)).udp(53, 53).build());
    for n in 0..DATAGRAMS {
        let source = spoofed_in_both(n);
        let datagram = &mut datagrams[usize::from(source.is_ipv6())];
        super::readdress(datagram, source);
        link.send(datagram);
        if n % (DATAGRAMS / SCANNERS) == 0 {
            let calls = to(scanner(n / (DATAGRAMS / SCANNERS)));
            for port in [22, 23] {
                link.send(&calls.clone().tcp(40_000, port, SYN).build());
            }
        }
        // Some 30 000 a second; more, and the link is full.
        if n % 32 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    for scanner in (0..SCANNERS).map(scanner) {
        let mut counted = Value::Null;
        let both = until(PROMPT, || {
            let path = format!("/v1/callers/{scanner}");
            counted = daemon.api("GET", &path, None).json()["callers"][0].clone();
            (counted["connections"] == 2).then_some(())
        });
        assert!(both.is_some(), "{scanner}: {counted}");
    }
    let counting = status(&daemon)["counting"].clone();
    assert_eq!(counting["flood"], false, "{counting}");
    assert_eq!(counting["admission_threshold"], 1, "{counting}");
    assert!(
        counting["not_admitted"].as_u64() > Some(u64::from(DATAGRAMS) / 2),
        "{counting}"
    );
    let mut told = daemon.lines();
    told.retain(|line| line["event.action"] == "flood-began");
    assert!(told.is_empty(), "{told:?}");
    super::assert_nothing_reconciled(&daemon);
}

fn status(daemon: &Daemon) -> Value {
    daemon.api("GET", "/v1/status", None).json()
}
