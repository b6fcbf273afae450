//! Commands without a daemon, and lines that are no command.

use std::fs;
use std::process::Command;

use packetwatch_tests::daemon::binary;
use serde_json::Value;
use tempfile::TempDir;

use crate::{alone, done, failed, json};

/// As in a small image: they are for TLS, which neither the socket nor a URL of http has.
#[test]
fn a_host_without_authorities_needs_them_for_tls_alone() {
    let asked = |arguments: &[&str]| {
        let mut status = Command::new(binary());
        status.arg("status").args(arguments);
        status.env("SSL_CERT_FILE", "/dev/null");
        status.env_remove("SSL_CERT_DIR");
        failed(&status.output().expect("run the daemon's binary"), 1).to_owned()
    };
    let words = asked(&["--socket", "/nonexistent/api.sock"]);
    assert!(words.contains("no daemon answers on"), "{words}");
    let words = asked(&["--url", "http://127.0.0.1:9"]);
    assert!(words.contains("no daemon answers on"), "{words}");
    let words = asked(&["--url", "https://127.0.0.1:9"]);
    for word in ["https://127.0.0.1:9", "--ca", "ca-certificates"] {
        assert!(words.contains(word), "{words}");
    }
}

#[test]
fn without_a_daemon_every_client_command_says_what_to_do() {
    let directory = TempDir::new().expect("a directory");
    let socket = directory.path().join("api.sock").display().to_string();
    let rules = directory.path().join("rules.toml").display().to_string();
    fs::write(&rules, "rules = []\n").expect("write a file");
    let commands: [&[&str]; 14] = [
        &["status"],
        &["allow", "add", "192.0.2.1"],
        &["deny", "add", "192.0.2.1", "--force"],
        &["allow", "remove", "192.0.2.1"],
        &["deny", "list"],
        &["allow", "load", &rules, "--partial"],
        &["bans"],
        &["bans", "remove", "192.0.2.1"],
        &["callers"],
        &["explain", "192.0.2.1"],
        &["rules"],
        &["rules", "set", &rules],
        &["rules", "reset"],
        &["events"],
    ];
    for command in commands {
        let output = alone(&[command, &["--socket", &socket]].concat());
        let words = failed(&output, 1);
        assert!(
            words.starts_with("packetwatch: no daemon answers on"),
            "{command:?}: {words}"
        );
        assert!(
            words.contains(&socket) && words.contains("packetwatch run"),
            "{words}"
        );
    }
    // Nobody listens on the discard port.
    let output = alone(&["status", "--url", "http://127.0.0.1:9", "--token", "pw_0"]);
    assert!(failed(&output, 1).contains("http://127.0.0.1:9"));
    let doctor = alone(&["doctor", "--socket", &socket]);
    assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
    let findings: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let daemon = findings
        .as_array()
        .and_then(|checks| checks.iter().find(|check| check["check"] == "daemon"));
    assert_eq!(
        daemon.map(|check| &check["ok"]),
        Some(&false.into()),
        "{findings}"
    );
}

#[test]
fn wrong_usage_ends_with_2_before_anybody_is_asked() {
    let commands: [&[&str]; 15] = [
        &[],
        &["nonsense"],
        &["allow"],
        &["allow", "add"],
        &["allow", "add", "192.0.2.1", "--ttl", "0s"],
        &["allow", "add", "192.0.2.1", "--colour", "red"],
        &["bans", "remove"],
        &["callers", "--sort", "colour"],
        &["explain"],
        &["status", "--output", "xml"],
        &["deny", "list", "--limit", "0"],
        &["run", "--nonsense"],
        &["run", "--mode", "colour", "--config", "/dev/null"],
        &["run", "--api", "nowhere", "--config", "/dev/null"],
        &["completions", "cobol"],
    ];
    for command in commands {
        failed(&alone(command), 2);
    }
}

#[test]
fn what_needs_no_daemon_needs_none() {
    for (command, shown) in [
        (&["--version"][..], "packetwatch 0."),
        (&["--help"], "Usage: packetwatch"),
        (&["man"], ".TH packetwatch"),
        (&["completions", "bash"], "complete -F"),
        (&["completions", "zsh"], "#compdef packetwatch"),
        (&["completions", "fish"], "complete -c packetwatch"),
        (&["config", "template"], "state_dir"),
    ] {
        let output = alone(command);
        let text = done(&output);
        assert!(text.contains(shown), "{command:?}: {text}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    assert!(json(&alone(&["openapi"]))["paths"]["/v1/bans"].is_object());

    let directory = TempDir::new().expect("a directory");
    let written = |text: &str| {
        let path = directory.path().join("packetwatch.toml");
        fs::write(&path, text).expect("write a file");
        path.display().to_string()
    };
    let good = written("mode = \"observe\"\n");
    assert_eq!(done(&alone(&["config", "check", "--config", &good])), "");
    for form in ["json", "jsonl", "table"] {
        let shown = alone(&["config", "show", "--config", &good, "--output", form]);
        assert!(done(&shown).contains("observe"), "{form}");
    }
    let origin = alone(&[
        "config", "show", "--origin", "--config", &good, "--output", "table",
    ]);
    assert!(done(&origin).contains(&format!("{good}:1")), "{origin:?}");

    let bad = written("mode = \"observe\"\nstate_dri = \"/tmp\"\n");
    for command in ["check", "show"] {
        let words = alone(&["config", command, "--config", &bad]);
        let words = failed(&words, 1);
        assert!(words.contains(&format!("{bad}:2")), "{words}");
        assert!(words.contains("state_dir"), "{words}");
    }
}
