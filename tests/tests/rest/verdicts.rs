//! What the API says of real calls: callers, explanations, bans and events.

use std::net::SocketAddr;

use packetwatch_tests::{Family, Frame, Frames, answered, patience::until};
use serde_json::{Value, json};
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
    assert_eq!(explained["reason"], "threshold", "{explained}");

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
fn a_limit_tells_what_is_left_and_whom_it_drops() {
    let scan = Scan::new(Family::V4);
    // A byte a second: what is spent stays so for as long as this takes.
    let cap = json!({ "name": "cap", "action": "limit", "bytes": 1, "burst": 65_535 });
    let body = json!({ "rules": [cap] });
    let answer = scan.daemon.api("PUT", "/v1/rules", Some(&body));
    assert_eq!(answer.status, 200, "{answer:?}");

    let link = Frames::open(&scan.lan.segment().client, "eth0");
    let host = scan.lan.segment().host(Family::V4);
    let send = |payload| {
        let datagram = Frame::new().ip(scan.scanner(), host).udp(53, 53);
        link.send(&datagram.payload(vec![0; payload]).build());
    };
    // Until the program has seen what was sent.
    let told = |is_so: &dyn Fn(&Value) -> bool| {
        let mut told = Value::Null;
        let seen = until(PROMPT, || {
            told = scan.explain();
            is_so(&told).then_some(())
        });
        assert!(seen.is_some(), "{told}");
        told
    };
    send(1000);
    let explained = told(&|told| told["rules"][0]["counted"].as_u64() >= Some(1000));
    assert_eq!(explained["verdict"], "pass", "{explained}");
    assert_eq!(explained["reason"], "pass", "{explained}");
    let count = &explained["rules"][0];
    let number = |key: &str| count[key].as_u64();
    assert_eq!(
        (&count["rule"], &count["of"]),
        (&json!("cap"), &json!("bytes"))
    );
    assert_eq!((number("limit"), number("burst")), (Some(1), Some(65_535)));
    let (counted, left) = (number("counted").unwrap(), number("left").unwrap());
    assert_eq!(counted + left, 65_535, "{explained}");
    let stands = || {
        let callers = scan.get(&format!("/v1/callers/{}", scan.scanner()));
        let caller = &callers["callers"][0];
        (caller["state"].clone(), caller["rule"].clone())
    };
    assert_eq!(stands(), (json!("counted"), Value::Null));

    (0..70).for_each(|_| send(1000));
    // The smallest frames that there are, so that hardly a byte is left.
    (0..50).for_each(|_| send(0));
    let explained = told(&|told| told["verdict"] == "drop");
    assert_eq!(explained["reason"], "limit", "{explained}");
    assert_eq!(stands(), (json!("limited"), json!("cap")));
    let because = &explained["because"][0];
    assert_eq!(because["rule"], "cap", "{explained}");
    assert_eq!(because["prefix"], scan.single(), "{explained}");
    let reason = text(&because["reason"]);
    assert!(reason.contains("all of the 65535 bytes"), "{reason}");
    let source = scan.scanner().to_string();
    let shown = scan.daemon.cli(&["explain", &source, "--output", "table"]);
    let shown = String::from_utf8(shown.stdout).expect("text");
    for part in [
        " is dropped.",
        "has reached the rule cap",
        "65535 at once; ",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }

    scan.change(201, "PUT", &format!("/v1/allow/{}", scan.single()));
    let explained = scan.explain();
    assert_eq!(explained["reason"], "allow", "{explained}");
    assert_eq!(explained["overruled"][0]["rule"], "cap", "{explained}");
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
