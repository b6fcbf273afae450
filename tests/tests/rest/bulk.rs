//! Whole lists at a time: added to, replaced, and refused with every bad line.

use packetwatch_tests::http::Response;
use serde_json::{Value, json};

use crate::stage::{Stage, keys, problem, text};

const TEXT: &str = "text/plain; charset=utf-8";

/// As much as a list body may have.
const LIST_BODY: usize = 96 << 20;

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_post_adds_and_updates() {
    let stage = Stage::own();
    for list in ["allow", "deny"] {
        let path = format!("/v1/{list}");
        let body = json!([
            {"prefix": "192.0.2.0/28"},
            {"prefix": "2001:db8:1::/48", "reason": "a network", "ttl": "1h"},
        ]);
        let first = changed(&stage.ask("POST", &path, Some(body)));
        assert_eq!(first, json!({"added": 2, "updated": 0}));

        let feed = "# a feed\r\n192.0.2.0/28\n\n  192.0.2.77/28 # with host bits\r\n198.51.100.9";
        let second = changed(&stage.send("POST", &path, TEXT, feed.as_bytes()));
        assert_eq!(
            (&second["added"], &second["updated"]),
            (&json!(2), &json!(1))
        );
        assert_eq!(keys(&second), ["added", "note", "updated"]);
        assert!(text(&second["note"]).contains("192.0.2.64/28"), "{second}");
        let expected = [
            "192.0.2.0/28",
            "192.0.2.64/28",
            "198.51.100.9/32",
            "2001:db8:1::/48",
        ];
        assert_eq!(stage.listed(list), expected);

        let nothing = changed(&stage.send("POST", &path, TEXT, b"# nothing\n"));
        assert_eq!(nothing, json!({"added": 0, "updated": 0}));
        // Empty for the other list: a prefix in both would be carved out of the deny.
        changed(&stage.ask("PUT", &path, Some(json!([]))));
    }
}

/// What a feed job sends whose download has failed opens no filter.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_text_without_a_line_changes_nothing() {
    let stage = Stage::own();
    for list in ["allow", "deny"] {
        let path = format!("/v1/{list}");
        let feed = b"192.0.2.1\n198.51.100.1\n";
        changed(&stage.send("PUT", &path, TEXT, feed));
        for nothing in [&b""[..], b"\n", b" \r\n"] {
            for (method, query) in [("PUT", ""), ("PUT", "?partial=true"), ("POST", "")] {
                let answer = stage.send(method, &format!("{path}{query}"), TEXT, nothing);
                let told = problem(&answer, 422, Some("body"));
                let remedy = text(&told["detail"]).to_owned();
                assert!(remedy.contains("[]") && remedy.contains("# none"), "{told}");
            }
        }
        assert_eq!(stage.listed(list), ["192.0.2.1/32", "198.51.100.1/32"]);
        let none = changed(&stage.send("PUT", &path, TEXT, b"# none"));
        assert_eq!(none["removed"], 2);
        changed(&stage.send("PUT", &path, TEXT, feed));
        let none = changed(&stage.ask("PUT", &path, Some(json!([]))));
        assert_eq!(none["removed"], 2);
        assert!(stage.listed(list).is_empty());
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn replaced_lists_leave_no_memory_behind() {
    const MIB: u64 = 1 << 20;
    let stage = Stage::own();
    let feed: String = (0..50_000u32)
        .map(|n| {
            let scattered = n.wrapping_mul(0x9e37_79b1);
            format!("2a00:{:x}:{:x}::/64\n", scattered >> 16, scattered & 0xffff)
        })
        .collect();
    let resident = || {
        let status = stage.expect(200, "GET", "/v1/status").json();
        status["memory"]["resident_bytes"].as_u64().unwrap()
    };
    let before = resident();
    let mut after = Vec::new();
    for _ in 0..6 {
        for feed in [feed.as_bytes(), b"# none"] {
            changed(&stage.send("PUT", "/v1/deny", TEXT, feed));
        }
        after.push(resident().saturating_sub(before) / MIB);
    }
    // Buffers of the journal and of connections.
    assert!(after.iter().all(|mib| *mib < 16), "MiB more: {after:?}");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_put_replaces_the_list_and_leaves_protection_alone() {
    let mut stage = Stage::own();
    let protected = |stage: &Stage| {
        let all = stage.expect(200, "GET", "/v1/allow").json();
        all["entries"].as_array().map(Vec::len)
    };
    let before = protected(&stage);
    for list in ["deny", "allow"] {
        let path = format!("/v1/{list}");
        let old = b"192.0.2.1\n192.0.2.2\n192.0.2.3";
        assert_eq!(stage.send("POST", &path, TEXT, old).status, 200);
        let mark = stage.daemon.log().len();
        let answer = changed(&stage.send("PUT", &path, TEXT, b"192.0.2.3\n192.0.2.4\n"));
        assert_eq!(answer, json!({"added": 1, "updated": 1, "removed": 2}));
        assert_eq!(stage.listed(list), ["192.0.2.3/32", "192.0.2.4/32"]);

        // One line of audit, not one an entry; the line of the POST, which names none, may come late.
        let replaced = |line: &Value| line["event.action"] == "list-replaced";
        let log = stage.daemon.log();
        log.wait_from(mark, replaced, crate::stage::PROMPT);
        let lines = stage.daemon.lines();
        let singly = |line: &&Value| {
            let prefix = line["packetwatch.prefix"].as_str().unwrap_or_default();
            prefix.starts_with("192.0.2.")
        };
        assert_eq!(lines[mark..].iter().find(singly), None);
    }
    stage.daemon.restart();
    for list in ["deny", "allow"] {
        assert_eq!(stage.listed(list), ["192.0.2.3/32", "192.0.2.4/32"]);
        let path = format!("/v1/{list}");
        let answer = changed(&stage.ask("PUT", &path, Some(json!([]))));
        assert_eq!(answer, json!({"added": 0, "updated": 0, "removed": 2}));
    }
    assert_eq!(protected(&stage), before);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn bad_lines_are_all_named_and_nothing_is_taken() {
    let stage = Stage::own();
    let feed = b"192.0.2.0/24\nhost.example\n# fine\n10.0.0.0/33\n\xff\xfe\n192.0.2.1,192.0.2.2";
    for method in ["POST", "PUT"] {
        let refused = problem(
            &stage.send(method, "/v1/deny", TEXT, feed),
            422,
            Some("body"),
        );
        assert_eq!(refused["errors_total"], 4, "{refused}");
        let faults = refused["errors"].as_array().expect("errors are listed");
        let lines: Vec<_> = faults.iter().map(|fault| fault["line"].clone()).collect();
        assert_eq!(lines, [2, 4, 5, 6]);
        for fault in faults {
            assert_eq!(fault["field"], "prefix", "{fault}");
            assert!(!text(&fault["detail"]).is_empty(), "{fault}");
        }
        assert_eq!(stage.listed("deny"), [""; 0]);
    }

    let body = json!([
        {"prefix": "192.0.2.0/24"},
        {"prefix": "192.0.2.0/24", "colour": "red"},
        {"prefix": "192.0.2.0/24", "ttl": "0s"},
        {"reason": "without a prefix"},
        7,
        {"prefix": 7},
        {"prefix": "192.0.2.0/24", "ttl": 600},
    ]);
    let refused = problem(
        &stage.ask("POST", "/v1/deny", Some(body.clone())),
        422,
        Some("[1].colour"),
    );
    let places: Vec<_> = refused["errors"]
        .as_array()
        .expect("errors are listed")
        .iter()
        .map(|fault| (fault["index"].as_u64(), fault["field"].as_str()))
        .collect();
    let expected = [
        (Some(1), Some("colour")),
        (Some(2), Some("ttl")),
        (Some(3), Some("prefix")),
        (Some(4), None),
        (Some(5), Some("prefix")),
        (Some(6), Some("ttl")),
    ];
    assert_eq!(places, expected);
    assert_eq!(stage.listed("deny"), [""; 0]);

    // More faults than an answer lists are counted.
    let many = problem(
        &stage.send("POST", "/v1/deny", TEXT, "bad\n".repeat(250).as_bytes()),
        422,
        Some("body"),
    );
    let listed = many["errors"].as_array().map(Vec::len);
    assert_eq!(
        (listed, many["errors_total"].as_u64()),
        (Some(100), Some(250))
    );

    let partly = changed(&stage.ask("POST", "/v1/deny?partial=true", Some(body)));
    assert_eq!(
        (&partly["added"], &partly["refused"]),
        (&json!(1), &json!(6))
    );
    assert_eq!(stage.listed("deny"), ["192.0.2.0/24"]);
    let partly = changed(&stage.send("PUT", "/v1/deny?partial=true", TEXT, feed));
    assert_eq!(
        (&partly["updated"], &partly["removed"], &partly["refused"]),
        (&json!(1), &json!(0), &json!(4))
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_list_body_is_judged_by_type_form_and_size() {
    let stage = Stage::shared();
    for (method, path) in [("POST", "/v1/allow"), ("PUT", "/v1/deny")] {
        for media in ["application/xml", "text/csv", ""] {
            let answer = stage.send(method, path, media, b"192.0.2.1");
            problem(&answer, 415, Some("Content-Type"));
        }
        for no_array in ["", "{}", "[", "[]]", "\"192.0.2.1\"", "[{\"prefix\":}]"] {
            let answer = stage.send(method, path, "application/json", no_array.as_bytes());
            problem(&answer, 400, Some("body"));
        }
        let answer = stage.send(method, &format!("{path}?partial=perhaps"), TEXT, b"");
        problem(&answer, 400, Some("partial"));
        let answer = stage.send(method, &format!("{path}?force=true"), TEXT, b"");
        problem(&answer, 400, Some("force"));

        problem(
            &stage.announce(method, path, LIST_BODY + 1),
            413,
            Some("body"),
        );
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_list_body_as_long_as_can_be_is_taken() {
    let stage = Stage::own();
    let mut feed = b"192.0.2.1\n#".to_vec();
    feed.resize(LIST_BODY, b'x');
    let answer = changed(&stage.send("PUT", "/v1/deny", TEXT, &feed));
    assert_eq!(answer, json!({"added": 1, "updated": 0, "removed": 0}));
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_protected_address_in_a_deny_list_is_refused_whole() {
    let stage = Stage::own();
    let host = stage.lan.segment().host(packetwatch_tests::Family::V4);
    let feed = format!("192.0.2.1\n{host}\n");
    for method in ["POST", "PUT"] {
        let answer = stage.send(method, "/v1/deny", TEXT, feed.as_bytes());
        let refused = problem(&answer, 409, Some("body"));
        let fault = &refused["errors"][0];
        assert_eq!(fault["line"], 2, "{refused}");
        assert!(
            text(&fault["detail"]).contains(&host.to_string()),
            "{refused}"
        );
        assert_eq!(stage.listed("deny"), [""; 0]);
    }
}

/// The `Change` of an answer that must be 200.
#[track_caller]
fn changed(answer: &Response) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}
