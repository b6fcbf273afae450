//! A crowd makes nobody forget what a source owes a limit.

use std::{net::IpAddr, thread, time::Duration};

use packetwatch_tests::{Daemon, Family, Frame, Frames, Lan, patience::until};
use serde_json::Value;

use super::spoofed;

const PROMPT: Duration = Duration::from_secs(30);

/// A thousand seconds' worth at once.
const RULE: &str =
    "[[rules]]\nname = \"cap\"\naction = \"limit\"\npackets = 1\nburst = 1000\nprefix_v4 = 32\n";

/// The least of which a tick's places are a sixteenth.
const CAPACITY: &str = "[capacity]\ncallers = 1024\n[log]\nconnections_per_second = 0\n";

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_burst_is_not_had_again_by_way_of_a_crowd() {
    let lan = Lan::new();
    let daemon = Daemon::builder(&lan.host)
        .interface("pw0")
        .rules_toml(RULE)
        .config_toml(CAPACITY)
        .start();
    let host = lan.segment().host(Family::V4);
    let link = Frames::open(&lan.segment().client, "eth0");
    let source = IpAddr::from([198, 19, 1, 1]);
    let datagram = Frame::new().ip(source, host).udp(53, 53).build();
    let burst = || {
        for n in 0..1500 {
            link.send(&datagram);
            // The link's queue is as long.
            if n % 250 == 249 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    };
    burst();
    let spent = counted(&daemon, source, 1500);
    assert!(dropped(&spent) >= 400, "{spent}");

    // One packet each, and silent from then on, until the sweep has made room of them.
    let mut frame = super::call(spoofed(0), 80);
    let mut sent = 0;
    let made_room = until(PROMPT, || {
        // Some 300 a second: more than 64 in 134 ms are a flood, of which none gets a place.
        for _ in 0..4 {
            sent += 1;
            super::readdress(&mut frame, spoofed(sent));
            link.send(&frame);
        }
        (evicted(&daemon) >= 500.0).then_some(())
    });
    assert!(made_room.is_some(), "{sent} sent, {}", evicted(&daemon));

    burst();
    let after = counted(&daemon, source, 3000);
    // What it has paid for since is a packet a second.
    assert!(dropped(&after) >= dropped(&spent) + 1400, "{after}");
    super::assert_nothing_reconciled(&daemon);
}

/// The caller, once so many packets of it are counted.
#[track_caller]
fn counted(daemon: &Daemon, source: IpAddr, packets: u64) -> Value {
    let path = format!("/v1/callers/{source}");
    let mut caller = Value::Null;
    let all = until(PROMPT, || {
        caller = daemon.api("GET", &path, None).json()["callers"][0].clone();
        (caller["packets"] == packets).then_some(())
    });
    assert!(all.is_some(), "{packets} packets were sent: {caller}");
    caller
}

fn dropped(caller: &Value) -> u64 {
    caller["dropped"].as_u64().unwrap_or(0)
}

/// Callers that the sweep has forgotten, for either cause.
fn evicted(daemon: &Daemon) -> f64 {
    let metrics = daemon.api("GET", "/metrics", None);
    let of = |line: &str| {
        let sample = line.strip_prefix("packetwatch_callers_evicted_total{")?;
        sample.rsplit(' ').next()?.parse::<f64>().ok()
    };
    metrics.text().lines().filter_map(of).sum()
}
