//! Every command of the command line, asked of the real daemon or of none: data on stdout, words on
//! stderr, and an exit status that tells what became of it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use packetwatch_tests::daemon::binary;
use packetwatch_tests::patience::until;
use packetwatch_tests::{Daemon, Family, Lan, answered, serve_http};
use serde_json::Value;
use tempfile::TempDir;

const PROMPT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(700);

const TCP: &str = "127.0.0.1:7300";
const URL: &str = "http://127.0.0.1:7300";

const RULE: &str = "[[rules]]\nname = \"port-scan\"\ndistinct_ports = 3\nwithin = \"60s\"\n\
                    ban = \"10m\"\n";

fn daemon(lan: &Lan) -> Daemon {
    Daemon::builder(&lan.host)
        .interface(&lan.segment().interface)
        .listen(TCP.parse().expect("an address and a port"))
        .rules_toml(RULE)
        .start()
}

/// Without a daemon.
fn alone(arguments: &[&str]) -> Output {
    let output = Command::new(binary()).args(arguments).output();
    output.expect("run the binary")
}

/// Standard output of a command that must succeed.
#[track_caller]
fn done(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    std::str::from_utf8(&output.stdout).expect("stdout is UTF-8")
}

/// Standard error of a command that must end with `code` and print no data.
#[track_caller]
fn failed(output: &Output, code: i32) -> &str {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(!output.stderr.is_empty(), "{output:?}");
    std::str::from_utf8(&output.stderr).expect("stderr is UTF-8")
}

#[track_caller]
fn json(output: &Output) -> Value {
    let text = done(output);
    let value = serde_json::from_str(text);
    value.unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
}

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
        let partly = daemon.cli(&[list, "load", &bad, "--partial"]);
        assert_eq!(json(&partly)["added"], 1);
        assert!(String::from_utf8_lossy(&partly.stderr).contains("host.example"));
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
}

/// Kills what it runs when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn events_are_printed_as_they_happen_until_the_daemon_ends() {
    let lan = Lan::new();
    let mut daemon = daemon(&lan);
    let mut command = Command::new(binary());
    command.args(["events", "--socket"]).arg(daemon.socket());
    let mut child = Running(
        command
            .stdout(Stdio::piped())
            .spawn()
            .expect("run the binary"),
    );
    let mut events = BufReader::new(child.0.stdout.take().expect("stdout is piped"));
    let read = AtomicBool::new(false);
    thread::scope(|scope| {
        // Nothing says that the stream has begun but an event in it.
        scope.spawn(|| {
            until(PROMPT, || {
                done(&daemon.cli(&["deny", "add", "192.0.2.1"]));
                read.load(Ordering::Relaxed).then_some(())
            })
        });
        let mut line = String::new();
        events.read_line(&mut line).expect("an event");
        read.store(true, Ordering::Relaxed);
        let event: Value = serde_json::from_str(&line).expect("a line of JSON");
        assert!(event["event.action"].is_string(), "{event}");
    });
    daemon.terminate();
    let ended = until(PROMPT, || child.0.try_wait().expect("wait for the command"));
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}

/// As in `| head`: whoever has read enough is no failure.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_closed_stdout_ends_a_command_quietly_and_a_full_one_does_not() {
    let lan = Lan::new();
    let daemon = daemon(&lan);
    let feed: String = (0..20_000)
        .map(|n| format!("10.{}.{}.1\n", n / 256, n % 256))
        .collect();
    let mut load = Command::new(binary())
        .args(["deny", "load", "-", "--socket"])
        .arg(daemon.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run the binary");
    let mut stdin = load.stdin.take().expect("stdin is piped");
    stdin.write_all(feed.as_bytes()).expect("write the feed");
    drop(stdin);
    assert_eq!(
        json(&load.wait_with_output().expect("wait"))["added"],
        20_000
    );

    for form in ["table", "json", "jsonl"] {
        let mut list = Command::new(binary());
        list.args(["deny", "list", "--output", form, "--socket"])
            .arg(daemon.socket());
        let mut child = list
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run the binary");
        // More than a pipe holds is left unread.
        let mut first = [0; 100];
        let mut stdout = child.stdout.take().expect("stdout is piped");
        stdout.read_exact(&mut first).expect("read a little");
        drop(stdout);
        let output = child.wait_with_output().expect("wait");
        assert_eq!(output.status.code(), Some(0), "{form}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{form}");

        let full = fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("Linux has it");
        let output = list.stdout(full).output().expect("run the binary");
        assert_eq!(output.status.code(), Some(1), "{form}: {output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("stdout"),
            "{output:?}"
        );
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
