//! One entry at a time: what is answered, what a prefix and a ttl may be, what is protected.

use std::time::Duration;

use packetwatch_tests::Family;
use packetwatch_tests::patience::until;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::stage::{Stage, entries, keys, problem, text};

const LISTS: [&str; 2] = ["allow", "deny"];

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn an_entry_is_made_changed_read_and_removed() {
    let stage = Stage::shared();
    for list in LISTS {
        let path = format!("/v1/{list}/192.0.2.16%2F28");
        let body = json!({"reason": "a guest", "ttl": "10m"});
        let made = stage.ask("PUT", &path, Some(body));
        assert_eq!(made.status, 201, "{made:?}");
        let entry = made.json();
        let expected = ["created_at", "expires_at", "prefix", "reason", "source"];
        assert_eq!(keys(&entry), expected);
        assert_eq!(entry["prefix"], "192.0.2.16/28");
        assert_eq!(
            (&entry["reason"], &entry["source"]),
            (&json!("a guest"), &json!("api"))
        );
        let length = time(&entry["expires_at"]) - time(&entry["created_at"]);
        assert!((length - time::Duration::minutes(10)).abs() < time::Duration::SECOND);

        let page = stage.expect(200, "GET", &format!("/v1/{list}?contains=192.0.2.20"));
        let page = page.json();
        assert_eq!(keys(&page), ["entries", "next"]);
        let [listed] = &entries(&page)[..] else {
            panic!("one entry covers the address: {page}");
        };
        let expected = [
            "bytes",
            "created_at",
            "expires_at",
            "packets",
            "prefix",
            "reason",
            "source",
        ];
        assert_eq!(keys(listed), expected);
        assert_eq!(
            (&listed["packets"], &listed["bytes"]),
            (&json!(0), &json!(0))
        );

        // Without a body the entry is replaced whole: no reason, no end.
        let changed = stage.expect(200, "PUT", &path).json();
        assert_eq!(
            (&changed["reason"], &changed["expires_at"]),
            (&Value::Null, &Value::Null)
        );

        let removed = stage.expect(204, "DELETE", &path);
        assert!(removed.body.is_empty(), "{removed:?}");
        problem(&stage.ask("DELETE", &path, None), 404, Some("prefix"));
    }
}

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
    let long = json!({"reason": "x".repeat(257)}).to_string();
    problem(&put(json_type, long.as_bytes()), 422, Some("reason"));
    problem(
        &put(json_type, b"{\"reason\":\"two\\nlines\"}"),
        422,
        Some("reason"),
    );
    for no_json in [&b"{"[..], b"nonsense", b"{}{}", b"\xff\xfe"] {
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

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_deny_works_around_what_is_allowed_and_says_so() {
    let stage = Stage::shared();
    stage.expect(201, "PUT", "/v1/allow/198.51.100.77");
    stage.expect(201, "PUT", "/v1/allow/198.51.100.80/30");
    let entry = stage.expect(201, "PUT", "/v1/deny/198.51.100.64/26").json();
    let carved = ["198.51.100.77/32", "198.51.100.80/30"];
    assert_eq!(entry["carved_out"], json!(carved), "{entry}");
    // A mere allow entry protects nothing: to deny exactly it is accepted, and the allow wins.
    stage.expect(201, "PUT", "/v1/deny/198.51.100.77");
    let explained = stage.expect(200, "GET", "/v1/explain/198.51.100.77").json();
    assert_eq!(explained["verdict"], "pass", "{explained}");
    for (list, prefix) in [
        ("allow", "198.51.100.77"),
        ("allow", "198.51.100.80/30"),
        ("deny", "198.51.100.64/26"),
        ("deny", "198.51.100.77"),
    ] {
        stage.expect(204, "DELETE", &format!("/v1/{list}/{prefix}"));
    }
}

/// On a daemon of its own, since it takes the host's own protection away for a while.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_protected_address_is_denied_by_force_alone() {
    let stage = Stage::own();
    for family in [Family::V4, Family::V6] {
        let address = stage.lan.segment().host(family);
        let single = format!("{address}/{}", family.address_bits());
        let source = || {
            let page = stage.expect(200, "GET", &format!("/v1/allow?contains={address}"));
            entries(&page.json())
                .first()
                .map(|entry| entry["source"].clone())
        };
        assert_eq!(source(), Some(json!("protect")));

        let path = format!("/v1/deny/{address}");
        let refused = problem(&stage.ask("PUT", &path, None), 409, Some("prefix"));
        assert!(text(&refused["detail"]).contains("force"), "{refused}");
        assert_eq!(stage.listed("deny"), [""; 0]);
        // Nor can the protection be removed or replaced as if it were an entry of the API.
        let allow = format!("/v1/allow/{address}");
        problem(&stage.ask("DELETE", &allow, None), 409, Some("prefix"));

        // Denying what merely covers it is accepted.
        let wide = match family {
            Family::V4 => format!("/v1/deny/{address}/30"),
            Family::V6 => format!("/v1/deny/{address}/126"),
        };
        let entry = stage.expect(201, "PUT", &wide).json();
        assert_eq!(entry["carved_out"], json!([single]), "{entry}");
        stage.expect(204, "DELETE", &wide);

        stage.expect(201, "PUT", &format!("{path}?force=true"));
        assert_eq!(source(), None, "a forced deny ends the protection");
        let explained = stage
            .expect(200, "GET", &format!("/v1/explain/{address}"))
            .json();
        assert_eq!(explained["verdict"], "drop", "{explained}");
        stage.expect(204, "DELETE", &path);
        assert_eq!(
            source(),
            Some(json!("protect")),
            "it returns with the end of the deny"
        );
    }
}

/// A time of the API: RFC 3339 and UTC.
#[track_caller]
fn time(value: &Value) -> OffsetDateTime {
    let written = text(value);
    assert!(written.ends_with('Z'), "{written} is not UTC");
    OffsetDateTime::parse(written, &Rfc3339).unwrap_or_else(|error| panic!("{written}: {error}"))
}
