//! Output that goes on, and readers that do not.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use packetwatch_tests::daemon::{binary, validate};
use packetwatch_tests::{Daemon, Lan};
use serde_json::Value;

use crate::{PROMPT, daemon, done, json};

/// Kills what it runs when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `packetwatch events` with these arguments, and its standard output.
fn events(daemon: &Daemon, arguments: &[&str]) -> (Running, Receiver<String>) {
    let mut command = Command::new(binary());
    command.arg("events").args(arguments).arg("--socket");
    command.arg(daemon.socket()).stdout(Stdio::piped());
    let mut child = Running(command.spawn().expect("run the binary"));
    let stdout = child.0.stdout.take().expect("stdout is piped");
    let (sender, lines) = mpsc::channel();
    // It ends with the command.
    thread::spawn(move || {
        let mut read = BufReader::new(stdout).lines().map_while(Result::ok);
        read.try_for_each(|line| sender.send(line))
    });
    (child, lines)
}

/// Reads lines until there is an event with this action for this prefix, and returns how many.
#[track_caller]
fn read_to(events: &Receiver<String>, action: &str, prefix: Option<&str>) -> usize {
    for n in 1..1000 {
        let line = events.recv_timeout(PROMPT).expect("an event in time");
        let event: Value = serde_json::from_str(&line).expect("a line of JSON");
        validate(&event).expect("a line of the log");
        assert!(event["event.action"].is_string(), "{event}");
        let is_it = prefix.is_none_or(|prefix| event["packetwatch.prefix"] == prefix);
        if event["event.action"] == action && is_it {
            return n;
        }
    }
    panic!("no {action} of {prefix:?} among a thousand events");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn recent_events_are_printed_and_that_is_all() {
    let lan = Lan::new();
    let daemon = daemon(&lan);
    for n in 1..=3 {
        done(&daemon.cli(&["deny", "add", &format!("192.0.2.{n}")]));
    }
    let output = daemon.cli(&["events"]);
    let lines: Vec<Value> = done(&output)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let actions = lines.iter().map(|line| &line["event.action"]);
    let actions: Vec<_> = actions.filter_map(Value::as_str).collect();
    // From the start of the daemon on, in order.
    let expected = [
        "attached",
        "started",
        "deny-added",
        "deny-added",
        "deny-added",
    ];
    let told: Vec<_> = actions
        .into_iter()
        .filter(|action| expected.contains(action))
        .collect();
    assert_eq!(told, expected);
    let last = daemon.cli(&["events", "--limit", "2", "--output", "json"]);
    let tail: Vec<Value> = done(&last)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert_eq!(tail, lines[lines.len() - 2..]);
    let table = daemon.cli(&["events", "--limit", "1", "--output", "table"]);
    let line = done(&table);
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(
        line.contains("Z  deny-added") && line.contains("192.0.2.3/32"),
        "{line}"
    );
    assert_eq!(done(&daemon.cli(&["events", "--limit", "0"])), "");
    let wrong = daemon.cli(&["events", "--limit", "1001"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn events_are_followed_over_a_restart_of_the_daemon() {
    let lan = Lan::new();
    let mut daemon = daemon(&lan);
    done(&daemon.cli(&["deny", "add", "192.0.2.1"]));
    let (mut child, lines) = events(&daemon, &["--follow"]);
    read_to(&lines, "deny-added", Some("192.0.2.1/32"));
    // Nothing lies between those of late and those that happen.
    done(&daemon.cli(&["deny", "add", "192.0.2.2"]));
    assert_eq!(read_to(&lines, "deny-added", Some("192.0.2.2/32")), 1);
    daemon.kill();
    daemon.restart();
    read_to(&lines, "started", None);
    done(&daemon.cli(&["deny", "add", "192.0.2.3"]));
    read_to(&lines, "deny-added", Some("192.0.2.3/32"));
    assert_eq!(child.0.try_wait().expect("look at the command"), None);
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
