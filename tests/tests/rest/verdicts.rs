//! What the API says of real calls: callers, explanations, bans and events.

use std::net::SocketAddr;

use packetwatch_tests::{Family, answered};
use serde_json::json;
use time::OffsetDateTime;

use crate::metrics::metrics_tell;
use crate::scan::{PORTS, SILENCE, Scan, event};
use crate::stage::{PROMPT, entries, keys, problem, text, time};

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_scan_over_ipv4_is_told_everywhere() {
    told_everywhere(Family::V4);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_scan_over_ipv6_is_told_everywhere() {
    told_everywhere(Family::V6);
}

fn told_everywhere(family: Family) {
    let scan = Scan::new(family);
    let single = scan.single();
    let mut events = scan.events();

    let begun = OffsetDateTime::now_utc();
    assert!(scan.call(PORTS[0], PROMPT));
    let explained = scan.explain();
    assert_eq!(explained["verdict"], "pass", "{explained}");
    assert_eq!(explained["because"], json!([]), "{explained}");
    assert_eq!(scan.caller()["state"], "counted");

    let between = OffsetDateTime::now_utc();
    assert!(scan.call(PORTS[1], PROMPT) && scan.call(PORTS[2], PROMPT));
    let caller = scan.caller();
    let (first, last) = (time(&caller["first_seen"]), time(&caller["last_seen"]));
    // The kernel's clock is coarse: it is up to 10 ms behind.
    let coarse = time::Duration::milliseconds(20);
    assert!(
        begun - coarse < first && first < between,
        "{begun} {caller} {between}"
    );
    assert!(
        between - coarse < last && last < OffsetDateTime::now_utc(),
        "{between} {caller}"
    );
    let expected = [
        "bytes",
        "connections",
        "distinct_ports",
        "dropped",
        "first_seen",
        "last_seen",
        "packets",
        "prefix",
        "rule",
        "state",
    ];
    assert_eq!(keys(&caller), expected);
    assert_eq!(
        (
            &caller["connections"],
            &caller["distinct_ports"],
            &caller["dropped"]
        ),
        (&json!(3), &json!(3), &json!(0))
    );
    assert_eq!(caller["state"], "over-threshold", "{caller}");
    // The N-th call has passed; the next would not.
    let explained = scan.explain();
    assert_eq!(explained["verdict"], "drop", "{explained}");
    assert_eq!(explained["because"][0]["rule"], "port-scan", "{explained}");

    assert!(!scan.call(PORTS[0], SILENCE));
    let ban = event(&mut events, "ban");
    assert_eq!(ban["packetwatch.prefix"], single.as_str(), "{ban}");
    assert_eq!(ban["source.ip"], scan.scanner().to_string(), "{ban}");
    drop(events);

    let bans = scan.get(&format!("/v1/bans?contains={}", scan.scanner()));
    let [ban] = &entries(&bans)[..] else {
        panic!("one ban: {bans}");
    };
    for key in [
        "prefix",
        "reason",
        "source",
        "created_at",
        "expires_at",
        "packets",
        "bytes",
    ] {
        assert!(ban.get(key).is_some(), "{key}: {ban}");
    }
    assert_eq!(
        (&ban["prefix"], &ban["source"]),
        (&json!(single), &json!("port-scan"))
    );
    assert_eq!(scan.caller()["state"], "banned");
    let explained = scan.explain();
    assert_eq!(explained["verdict"], "drop", "{explained}");
    assert_eq!(explained["because"][0]["rule"], "port-scan", "{explained}");
    assert_eq!(
        explained["because"][0]["until"], ban["expires_at"],
        "{explained}"
    );
    assert!(!scan.call(PORTS[0], SILENCE));
    metrics_tell(&scan);

    // A deny outranks the ban, an allow both.
    scan.change(201, "PUT", &format!("/v1/deny/{single}"));
    let explained = scan.explain();
    assert_eq!(explained["because"][0]["list"], "deny", "{explained}");
    scan.change(201, "PUT", &format!("/v1/allow/{single}"));
    let explained = scan.explain();
    assert_eq!(explained["verdict"], "pass", "{explained}");
    assert_eq!(explained["because"][0]["list"], "allow", "{explained}");
    assert_eq!(
        explained["because"][0]["prefix"],
        single.as_str(),
        "{explained}"
    );
    assert!(scan.call(PORTS[0], PROMPT));
    let page = scan.get(&format!("/v1/allow?contains={}", scan.scanner()));
    let passed = entries(&page)[0]["packets"].as_u64();
    assert!(passed >= Some(3), "packets that the entry let pass: {page}");
    scan.change(204, "DELETE", &format!("/v1/allow/{single}"));
    scan.change(204, "DELETE", &format!("/v1/deny/{single}"));
    scan.change(204, "DELETE", &format!("/v1/bans/{single}"));
    problem(
        &scan
            .daemon
            .api("DELETE", &format!("/v1/bans/{single}"), None),
        404,
        Some("prefix"),
    );

    // The gateway is protected, and that is what lets it pass.
    let gateway = scan.lan.segment().gateway(family);
    let explained = scan.get(&format!("/v1/explain/{gateway}"));
    assert_eq!(explained["verdict"], "pass", "{explained}");
    assert_eq!(explained["because"][0]["list"], "allow", "{explained}");
    assert_eq!(
        explained["because"][0]["reason"], "next hop of pw0",
        "{explained}"
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_ban_is_explained_though_no_rule_has_its_length_any_more() {
    let scan = Scan::new(Family::V4);
    let rules = |prefix_v4| {
        let rule = json!({
            "name": "port-scan", "distinct_ports": 3, "within": "60s", "ban": "10m",
            "prefix_v4": prefix_v4,
        });
        let body = Some(json!({ "rules": [rule] }));
        let answer = scan.daemon.api("PUT", "/v1/rules", body.as_ref());
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    rules(30);
    let mut events = scan.events();
    for port in PORTS {
        assert!(scan.call(port, PROMPT));
    }
    assert!(!scan.call(PORTS[0], SILENCE));
    let ban = event(&mut events, "ban");
    rules(32);
    assert!(!scan.call(PORTS[0], SILENCE));
    let explained = scan.explain();
    assert_eq!(explained["verdict"], "drop", "{explained}");
    assert_eq!(
        explained["because"][0]["prefix"], ban["packetwatch.prefix"],
        "{explained}"
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn callers_are_sorted_by_what_is_asked() {
    let scan = Scan::new(Family::V4);
    let segment = scan.lan.segment();
    let server = |port| SocketAddr::new(segment.host(Family::V4), port);
    // One calls two ports, another one port three times.
    let (wide, often) = (segment.client(Family::V4, 1), segment.client(Family::V4, 2));
    for (source, port) in [
        (wide, PORTS[0]),
        (wide, PORTS[1]),
        (often, PORTS[0]),
        (often, PORTS[0]),
        (often, PORTS[0]),
    ] {
        assert!(answered(
            &segment.client,
            Some(source),
            server(port),
            PROMPT
        ));
    }
    let first = |sort: &str| {
        let callers = scan.get(&format!("/v1/callers?limit=1&sort={sort}"));
        let callers = callers["callers"].as_array().expect("a list").clone();
        assert_eq!(callers.len(), 1);
        text(&callers[0]["prefix"]).to_owned()
    };
    assert_eq!(first("ports"), format!("{wide}/32"));
    for sort in ["connections", "packets", "bytes"] {
        assert_eq!(first(sort), format!("{often}/32"), "{sort}");
    }
}
