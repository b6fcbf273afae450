//! Output that goes on, and readers that do not.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use packetwatch_tests::Lan;
use packetwatch_tests::daemon::binary;
use packetwatch_tests::patience::until;
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
