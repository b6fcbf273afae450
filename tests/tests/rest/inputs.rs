//! What a prefix, a ttl and a body may be, and how the others are refused.

use std::time::Duration;

use packetwatch_tests::patience::until;
use serde_json::json;

use crate::stage::{Stage, entries, problem, text};

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_prefix_is_canonical_however_it_is_written() {
    let stage = Stage::shared();
    let table = [
        ("203.0.113.0/26", "203.0.113.0/26", false),
        ("203.0.113.64%2F26", "203.0.113.64/26", false),
        ("203.0.113.128%2f26", "203.0.113.128/26", false),
        ("203.0.113.200", "203.0.113.200/32", false),
        ("203.0.113.77/30", "203.0.113.76/30", true),
        ("::ffff:203.0.113.9", "203.0.113.9/32", false),
        ("::FFFF:203.0.113.240%2F124", "203.0.113.240/28", false),
        ("2001:DB8:aa:0::1", "2001:db8:aa::1/128", false),
        ("2001%3Adb8%3Abb%3A%3A%2F48", "2001:db8:bb::/48", false),
        ("2001:db8:cc::7/64", "2001:db8:cc::/64", true),
    ];
    for (written, canonical, cleared) in table {
        let entry = stage
            .expect(201, "PUT", &format!("/v1/deny/{written}"))
            .json();
        assert_eq!(entry["prefix"], canonical, "{written}");
        let note = entry.get("note").map(text);
        assert_eq!(
            note.is_some_and(|note| note.contains("host bits cleared")),
            cleared,
            "{written}: {entry}"
        );
        // The canonical form is the same entry.
        stage.expect(200, "PUT", &format!("/v1/deny/{canonical}"));
        stage.expect(204, "DELETE", &format!("/v1/deny/{written}"));
        stage.expect(404, "DELETE", &format!("/v1/deny/{canonical}"));
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_is_no_prefix_is_refused_by_name() {
    let stage = Stage::shared();
    let long = "9".repeat(3000);
    let table = [
        "192.0.2.0/33",
        "2001:db8::/129",
        "192.0.2.0/",
        "192.0.2.0/-1",
        "192.0.2.0/+8",
        "192.0.2.0/0x8",
        "192.0.2.0/8.0",
        "192.0.2.0/99999999999999999999",
        "192.0.2.0/255.255.255.0",
        "192.0.2.0/24/24",
        "192.0.2.0%252F24",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.010",
        "0x7f.0.0.1",
        "3221225985",
        "192.0.2.1-192.0.2.9",
        "192.0.2.1,192.0.2.2",
        "192.0.2.1%20192.0.2.2",
        "%20",
        "192.0.2.1:80",
        "%5B2001:db8::1%5D",
        "fe80::1%25eth0",
        "2001:db8::1::2",
        "2001:db8",
        "::ffff:192.0.2.0/95",
        "host.example",
        "any",
        "%00",
        "%ff",
        "%F0%9F%A6%80",
        &long,
    ];
    for written in table {
        for (method, list) in [
            ("PUT", "allow"),
            ("PUT", "deny"),
            ("DELETE", "deny"),
            ("DELETE", "bans"),
        ] {
            let path = format!("/v1/{list}/{written}");
            let problem = problem(&stage.ask(method, &path, None), 400, Some("prefix"));
            // A remedy, and no page of it.
            let detail = text(&problem["detail"]);
            assert!(
                detail.len() > 20 && detail.len() < 500,
                "{written}: {detail}"
            );
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_ttl_lies_between_a_second_and_ten_years() {
    let stage = Stage::shared();
    let path = "/v1/allow/198.51.100.1";
    for ttl in ["10y", "3650d", "1h 30m", "1s"] {
        let answer = stage.ask("PUT", path, Some(json!({"ttl": ttl})));
        assert!([200, 201].contains(&answer.status), "{ttl}: {answer:?}");
        assert!(answer.json()["expires_at"].is_string(), "{ttl}");
    }
    // The last one was a second long.
    let gone = until(Duration::from_secs(5), || {
        let page = stage.expect(200, "GET", "/v1/allow?contains=198.51.100.1");
        entries(&page.json()).is_empty().then_some(())
    });
    assert!(gone.is_some(), "an entry outlives its ttl");

    let path = "/v1/allow/198.51.100.2";
    for ttl in [
        "0s",
        "999ms",
        "-1s",
        "10y 1s",
        "99999999999999999999999s",
        "18446744073709551615s",
        "18446744073709551615y",
        "",
        " ",
        "10",
        "1e3s",
        "forever",
        "NaN",
        "1 fortnight",
    ] {
        problem(
            &stage.ask("PUT", path, Some(json!({"ttl": ttl}))),
            422,
            Some("ttl"),
        );
    }
    stage.expect(404, "DELETE", path);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_body_is_judged_by_type_form_and_size() {
    let stage = Stage::shared();
    let path = "/v1/deny/198.51.100.3";
    let json_type = "application/json";
    let put = |media, body: &[u8]| stage.send("PUT", path, media, body);
    problem(
        &put(json_type, b"{\"colour\":\"red\"}"),
        422,
        Some("colour"),
    );
    problem(
        &put(json_type, b"{\"ttl\":\"1m\",\"ttl\":\"2m\"}"),
        422,
        Some("ttl"),
    );
    problem(&put(json_type, b"{\"ttl\":600}"), 422, Some("ttl"));
    problem(&put(json_type, b"{\"reason\":[]}"), 422, Some("reason"));
    let long = json!({"reason": "x".repeat(257)}).to_string();
    problem(&put(json_type, long.as_bytes()), 422, Some("reason"));
    problem(
        &put(json_type, b"{\"reason\":\"two\\nlines\"}"),
        422,
        Some("reason"),
    );
    // Nobody is told of an order of fields.
    for array in [&b"[\"ours\", \"1h\"]"[..], b"[]", b" [null]"] {
        let told = problem(&put(json_type, array), 422, Some("body"));
        assert!(text(&told["detail"]).contains("write an object"), "{told}");
    }
    for no_json in [&b"{"[..], b"[", b"[]{}", b"nonsense", b"{}{}", b"\xff\xfe"] {
        problem(&put(json_type, no_json), 400, Some("body"));
    }
    problem(&put("text/plain", b"{}"), 415, Some("Content-Type"));
    problem(&put("", b"{}"), 415, Some("Content-Type"));
    problem(
        &stage.announce("PUT", path, 64 * 1024 + 1),
        413,
        Some("body"),
    );
    let longest = [b"{}".to_vec(), vec![b' '; 64 * 1024 - 2]].concat();
    assert_eq!(put(json_type, &longest).status, 201);
    stage.expect(204, "DELETE", path);
    problem(
        &stage.ask("PUT", "/v1/deny/198.51.100.3?colour=red", None),
        400,
        Some("colour"),
    );
    problem(
        &stage.ask("PUT", "/v1/deny/198.51.100.3?force=perhaps", None),
        400,
        Some("force"),
    );
    stage.expect(404, "DELETE", path);

    let full = json!({"reason": "ä".repeat(256)});
    assert_eq!(stage.ask("PUT", path, Some(full)).status, 201);
    stage.expect(204, "DELETE", path);
}
