//! Reading a list page by page, and by the address it covers.

use serde_json::{Value, json};

use crate::stage::{Stage, entries, problem, text};

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn pages_show_every_entry_once() {
    let stage = Stage::own();
    // 300 of IPv4 and 50 of IPv6, in no order.
    let v4 = (0..300_u32).map(|n| format!("10.{}.{}.0/24", n * 7 % 300 / 256, n * 7 % 300 % 256));
    let v6 = (0..50).map(|n| format!("2001:db8:{:x}::/48", n * 7 % 50 + 1));
    let mut expected: Vec<_> = v4.chain(v6).collect();
    let answer = stage.send(
        "POST",
        "/v1/deny",
        "text/plain",
        expected.join("\n").as_bytes(),
    );
    assert_eq!(answer.json(), json!({"added": 350, "updated": 0}));
    expected.sort_unstable();

    for limit in [1, 7, 100, 349, 350, 10_000] {
        let mut found = walk(&stage, limit);
        found.sort_unstable();
        assert_eq!(found, expected, "limit {limit}");
    }
    let page = stage.expect(200, "GET", "/v1/deny").json();
    assert_eq!(entries(&page).len(), 100, "the default limit");
    assert!(page["next"].is_string());

    // Entries that come and go between two pages disturb no other.
    let page = stage.expect(200, "GET", "/v1/deny?limit=10").json();
    let last = text(&entries(&page)[9]["prefix"]).to_owned();
    stage.expect(204, "DELETE", &format!("/v1/deny/{last}"));
    let next = format!("/v1/deny?limit=10000&cursor={}", escaped(&page["next"]));
    let rest = stage.expect(200, "GET", &next).json();
    assert_eq!(entries(&rest).len(), 340);
    assert_eq!(rest["next"], Value::Null);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn contains_finds_every_entry_that_covers_an_address() {
    let stage = Stage::shared();
    let nested = ["100.64.0.0/10", "100.100.0.0/16", "100.100.1.1/32"];
    for prefix in nested.iter().chain(&["100.101.0.0/16"]) {
        stage.expect(201, "PUT", &format!("/v1/allow/{prefix}"));
    }
    let covering = |query: &str| {
        let page = stage
            .expect(200, "GET", &format!("/v1/allow?{query}"))
            .json();
        let mut found: Vec<_> = entries(&page)
            .iter()
            .map(|entry| text(&entry["prefix"]).to_owned())
            .collect();
        found.sort_unstable();
        (found, page["next"].clone())
    };
    let all = ["100.100.0.0/16", "100.100.1.1/32", "100.64.0.0/10"].map(str::to_owned);
    for written in ["100.100.1.1", "::ffff:100.100.1.1", "100.100.1.1/32"] {
        let found = covering(&format!("contains={}", written.replace('/', "%2F")));
        assert_eq!(found, (all.to_vec(), Value::Null), "{written}");
    }
    assert_eq!(covering("contains=100.127.0.1").0, ["100.64.0.0/10"]);
    assert_eq!(covering("contains=2001:db8:ffff::1").0, [""; 0]);
    let (first, next) = covering("contains=100.100.1.1&limit=2");
    let cursor = escaped(&next);
    let (second, next) = covering(&format!("contains=100.100.1.1&limit=2&cursor={cursor}"));
    let mut both = [first, second].concat();
    both.sort_unstable();
    assert_eq!((both, next), (all.to_vec(), Value::Null));
    for prefix in nested.iter().chain(&["100.101.0.0/16"]) {
        stage.expect(204, "DELETE", &format!("/v1/allow/{prefix}"));
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_asks_for_no_page_is_refused_by_name() {
    let stage = Stage::shared();
    let long = format!("cursor={}", "x".repeat(257));
    let table = [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=", "cursor"),
        (&long, "cursor"),
        ("contains=192.0.2.0%2F24", "contains"),
        ("contains=host.example", "contains"),
        ("contains=", "contains"),
        ("offset=7", "offset"),
    ];
    for list in ["allow", "deny", "bans"] {
        for (query, field) in table {
            let answer = stage.ask("GET", &format!("/v1/{list}?{query}"), None);
            problem(&answer, 400, Some(field));
        }
    }
    for (query, field) in [
        ("sort=colour", "sort"),
        ("limit=0", "limit"),
        ("by=x", "by"),
    ] {
        let answer = stage.ask("GET", &format!("/v1/callers?{query}"), None);
        problem(&answer, 400, Some(field));
    }
}

/// Every prefix of the deny list, by pages of at most `limit`.
fn walk(stage: &Stage, limit: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut path = format!("/v1/deny?limit={limit}");
    loop {
        let page = stage.expect(200, "GET", &path).json();
        let entries = entries(&page);
        assert!(
            entries.len() <= limit,
            "{} entries for {limit}",
            entries.len()
        );
        found.extend(
            entries
                .iter()
                .map(|entry| text(&entry["prefix"]).to_owned()),
        );
        if page["next"].is_null() {
            return found;
        }
        assert_eq!(entries.len(), limit, "only the last page is short");
        assert!(found.len() <= 350, "the pages go round");
        path = format!("/v1/deny?limit={limit}&cursor={}", escaped(&page["next"]));
    }
}

/// A cursor as part of a query.
fn escaped(cursor: &Value) -> String {
    text(cursor)
        .replace('%', "%25")
        .replace('/', "%2F")
        .replace('+', "%2B")
}
