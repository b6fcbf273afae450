//! What the daemon is asked and told.

use std::fs;
use std::net::SocketAddr;

use packetwatch_tests::{Family, Lan, answered, serve_http};
use serde_json::Value;
use tempfile::TempDir;

use crate::{PROMPT, SILENCE, URL, daemon, done, failed, json};

/// Commands that show something, in each of the three forms.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_is_shown_comes_as_table_json_and_lines() {
    let lan = Lan::new();
    let daemon = daemon(&lan);
    let segment = lan.segment();
    let host = segment.host(Family::V4);
    let scanner = segment.client(Family::V4, 0);
    let call = |port, limit| {
        answered(
            &segment.client,
            Some(scanner),
            SocketAddr::new(host, port),
            limit,
        )
    };
    let servers = [8086, 8087, 8088].map(|port| serve_http(&lan.host, host, port));
    for server in &servers {
        assert!(call(server.address.port(), PROMPT));
    }
    assert!(!call(8086, SILENCE));
    daemon.wait_for(|line| line["event.action"] == "ban", PROMPT);
    done(&daemon.cli(&["deny", "add", "192.0.2.0/24", "--reason", "a network"]));

    let scanner = scanner.to_string();
    let banned = format!("{scanner}/32");
    // The command, what its table shows, and the key of its rows in the JSON document.
    let table: [(&[&str], &str, &str); 9] = [
        (&["status"], "pw0", ""),
        (&["allow", "list"], "198.18.0.1/32", "entries"),
        (&["deny", "list"], "192.0.2.0/24", "entries"),
        (&["bans"], &banned, "entries"),
        (&["bans", "list"], &banned, "entries"),
        (&["callers", "--sort", "ports"], &banned, "callers"),
        (&["explain", &scanner], "port-scan", ""),
        (&["rules"], "port-scan", "rules"),
        (&["rules", "show"], "port-scan", "rules"),
    ];
    for (command, shown, rows) in table {
        let with = |form| daemon.cli(&[command, &["--output", form]].concat());
        let output = with("table");
        let text = done(&output);
        assert!(text.contains(shown), "{command:?}: {text}");
        assert!(
            serde_json::from_str::<Value>(text).is_err(),
            "{command:?}: {text}"
        );

        let document = json(&with("json"));
        assert_eq!(json(&daemon.cli(command)).is_object(), document.is_object());
        assert!(
            document.to_string().contains(shown),
            "{command:?}: {document}"
        );

        let output = with("jsonl");
        let lines = done(&output).lines();
        let lines: Vec<Value> = lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect();
        let expected = document
            .get(rows)
            .map_or(1, |rows| rows.as_array().map_or(0, Vec::len));
        assert_eq!(lines.len(), expected, "{command:?}");
        assert!(lines.iter().all(Value::is_object), "{command:?}");
    }
    done(&daemon.cli(&["bans", "remove", &banned]));
    assert_eq!(
        json(&daemon.cli(&["bans"]))["entries"],
        serde_json::json!([])
    );
    let again = daemon.cli(&["bans", "remove", &banned]);
    assert!(failed(&again, 1).contains(&banned));
    assert!(call(8086, PROMPT));
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn lists_and_rules_are_changed() {
    let lan = Lan::new();
    let daemon = daemon(&lan);
    let files = TempDir::new().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).expect("write a file");
        path.display().to_string()
    };
    let prefixes = |list: &str| {
        let document = json(&daemon.cli(&[list, "list"]));
        let entries = document["entries"].as_array().expect("entries").iter();
        let written = entries.filter(|entry| entry["source"] != "protect");
        written
            .map(|entry| entry["prefix"].as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };

    for list in ["allow", "deny"] {
        let added = daemon.cli(&[list, "add", "192.0.2.7/24", "--ttl", "10m", "--reason", "x"]);
        let entry = json(&added);
        assert_eq!(entry["prefix"], "192.0.2.0/24");
        assert!(entry["expires_at"].is_string(), "{entry}");
        let note = String::from_utf8_lossy(&added.stderr);
        assert!(note.contains("host bits cleared"), "{note}");

        let removed = daemon.cli(&[list, "remove", "192.0.2.0/24"]);
        assert_eq!(done(&removed), "");
        failed(&daemon.cli(&[list, "remove", "192.0.2.0/24"]), 1);
        let wrong = daemon.cli(&[list, "add", "192.0.2.0/33"]);
        assert!(failed(&wrong, 1).contains("192.0.2.0/33"));

        let feed = file("feed.txt", "# comment\n198.51.100.1\n198.51.100.2\n");
        assert_eq!(json(&daemon.cli(&[list, "load", &feed]))["added"], 2);
        let array = file("feed.json", r#"[{"prefix": "198.51.100.3"}]"#);
        let replaced = json(&daemon.cli(&[list, "load", &array, "--replace"]));
        assert_eq!(
            (&replaced["added"], &replaced["removed"]),
            (&1.into(), &2.into())
        );
        let bad = file("bad.txt", "198.51.100.4\nhost.example\n10.0.0.0/33\n");
        let words = daemon.cli(&[list, "load", &bad]);
        let words = failed(&words, 1);
        assert!(
            words.contains("line 2") && words.contains("line 3"),
            "{words}"
        );
        assert_eq!(prefixes(list), ["198.51.100.3/32"]);
        let nothing = daemon.cli(&[list, "load", "-", "--replace"]);
        assert!(failed(&nothing, 1).contains("stdin"));
        assert_eq!(prefixes(list), ["198.51.100.3/32"]);
        let none = file("none.txt", " \n");
        assert_eq!(json(&daemon.cli(&[list, "load", &none]))["added"], 0);
        assert_eq!(prefixes(list), ["198.51.100.3/32"]);
        let partly = daemon.cli(&[list, "load", &bad, "--partial"]);
        assert_eq!(json(&partly)["added"], 1);
        assert!(String::from_utf8_lossy(&partly.stderr).contains("host.example"));
        let emptied = daemon.cli(&[list, "load", &none, "--replace"]);
        assert_eq!(json(&emptied)["removed"], 2);
        assert!(prefixes(list).is_empty());
        let missing = daemon.cli(&[list, "load", "/nowhere/feed"]);
        assert!(failed(&missing, 1).contains("/nowhere/feed"));
    }

    let own = lan.segment().host(Family::V4).to_string();
    let refused = daemon.cli(&["deny", "add", &own]);
    assert!(failed(&refused, 1).contains("force"));
    json(&daemon.cli(&["deny", "add", &own, "--force"]));
    done(&daemon.cli(&["deny", "remove", &own]));

    let set = file(
        "rules.toml",
        "[[rules]]\nname = \"calls\"\nconnections = 100\n",
    );
    let rules = json(&daemon.cli(&["rules", "set", &set]));
    assert_eq!(
        (&rules["rules"][0]["name"], &rules["rules_from"]),
        (&"calls".into(), &"api".into())
    );
    let shown = file("shown.json", &rules.to_string());
    assert_eq!(json(&daemon.cli(&["rules", "set", &shown])), rules);
    let bad = file(
        "bad.toml",
        "[[rules]]\nname = \"calls\"\nconections = 100\n",
    );
    let words = daemon.cli(&["rules", "set", &bad]);
    let words = failed(&words, 1);
    assert!(
        words.contains("3:1") && words.contains("connections"),
        "{words}"
    );
    assert_eq!(
        json(&daemon.cli(&["rules", "reset"]))["rules"][0]["name"],
        "port-scan"
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_daemon_is_asked_over_tcp_with_a_token() {
    let lan = Lan::new();
    let daemon = daemon(&lan);
    let token = fs::read_to_string(daemon.state_dir().join("token")).expect("read the token");
    let status = daemon.cli(&["status", "--url", URL, "--token", token.trim()]);
    assert_eq!(json(&status)["mode"], "enforce");
    for wrong in [&["--token", "pw_0"][..], &[]] {
        let refused = daemon.cli(&[&["status", "--url", URL], wrong].concat());
        assert!(failed(&refused, 1).contains("token"));
    }
    let doctor = json(&daemon.cli(&["doctor"]));
    let checks = doctor.as_array().expect("a list of checks");
    assert!(checks.iter().all(|check| check["ok"] == true), "{doctor}");
    let found = |name: &str| {
        let check = checks.iter().find(|check| check["check"] == name);
        check.and_then(|check| check["found"].as_str())
    };
    assert!(found("memory").is_some_and(|found| found.contains(", maps ")));
    let callers = found("map callers").unwrap_or_default();
    assert!(callers.contains(" of 32768 entries, "), "{doctor}");
    for map in [
        "bans",
        "lists",
        "protected",
        "list_hits",
        "sketch",
        "calls",
        "offences",
        "others",
    ] {
        assert!(found(&format!("map {map}")).is_some(), "{map}: {doctor}");
    }
}
