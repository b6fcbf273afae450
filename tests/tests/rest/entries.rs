//! One entry at a time: made, changed, removed; what is carved out of it and what is protected from it.

use packetwatch_tests::Family;
use serde_json::{Value, json};

use crate::stage::{Stage, entries, keys, problem, text, time};

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
fn a_deny_works_around_what_is_allowed_and_says_so() {
    let stage = Stage::shared();
    stage.expect(201, "PUT", "/v1/allow/198.51.100.77");
    stage.expect(201, "PUT", "/v1/allow/198.51.100.80/30");
    let entry = stage.expect(201, "PUT", "/v1/deny/198.51.100.64/26").json();
    let carved = ["198.51.100.77/32", "198.51.100.80/30"];
    assert_eq!(entry["carved_out"], json!(carved), "{entry}");
    // A mere allow entry protects nothing: to deny exactly it is accepted, and the allow wins.
    let entry = stage.expect(201, "PUT", "/v1/deny/198.51.100.77").json();
    assert!(
        text(&entry["note"]).contains("no effect under 198.51.100.77/32"),
        "{entry}"
    );
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

/// On a daemon of its own, whose answers name no other test's entries.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn an_answer_names_a_hundred_of_what_it_works_around() {
    let stage = Stage::own();
    let deny = |count: usize| {
        let feed: String = (0..count).map(|n| format!("203.0.113.{n}\n")).collect();
        let put = stage.send("PUT", "/v1/allow", "text/plain", feed.as_bytes());
        assert_eq!(put.status, 200, "{put:?}");
        let answer = stage.ask("PUT", "/v1/deny/203.0.113.0/24", None).json();
        let named = answer["carved_out"].as_array().expect("a list").clone();
        (named, answer["note"].clone())
    };
    let (named, note) = deny(100);
    assert_eq!((named.len(), &named[99]), (100, &json!("203.0.113.99/32")));
    assert_eq!(note, Value::Null, "all of them are named");
    let (named, note) = deny(101);
    assert_eq!(named.len(), 100);
    let note = text(&note);
    assert!(note.contains("101 prefixes inside are allowed"), "{note}");
    assert!(note.contains("first 100 are named"), "{note}");
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
        // In a list body it is refused by its line, or left out.
        let feed = format!("192.0.2.1\n{address}\n");
        let plain = "text/plain";
        let answer = stage.send("POST", "/v1/deny", plain, feed.as_bytes());
        let refused = problem(&answer, 409, Some("body"));
        assert_eq!(refused["errors"][0]["line"], 2, "{refused}");
        let answer = stage.send("POST", "/v1/deny?partial=true", plain, feed.as_bytes());
        let partly = answer.json();
        assert_eq!(
            (&partly["added"], &partly["refused"]),
            (&json!(1), &json!(1)),
            "{partly}"
        );
        stage.expect(204, "DELETE", "/v1/deny/192.0.2.1");
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
