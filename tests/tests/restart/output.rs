//! Consumers that fail the daemon: the filter goes on.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use nix::sys::signal::Signal;
use packetwatch_tests::daemon::validate;
use packetwatch_tests::http::Request;
use packetwatch_tests::patience::until;
use serde_json::Value;

use crate::scene::{PROMPT, Running, Scene};

/// Starts the scene's daemon again with a stdout of the test's own, which is handed out.
fn start(scene: &mut Scene) -> Running {
    scene.daemon.terminate();
    let mut command = scene.daemon.command();
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let running = Running(command.spawn().expect("run nsenter (package util-linux)"));
    let ready = until(PROMPT, || {
        let stream = std::os::unix::net::UnixStream::connect(scene.daemon.socket()).ok()?;
        let answer = Request::new("GET", "/readyz").exchange(stream).ok()?;
        (answer.status == 200).then_some(())
    });
    assert!(ready.is_some(), "the daemon was not ready in {PROMPT:?}");
    running
}

/// A line that the daemon has written, which is as promised.
#[track_caller]
fn valid(line: &str) -> Value {
    let line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    validate(&line).expect("a line of the log");
    line
}

/// Many times what a pipe holds.
fn make_lines(scene: &Scene) {
    for n in 0..600 {
        let path = format!("/v1/deny/192.0.2.{}", n % 250);
        let answer = scene.daemon.api("PUT", &path, None);
        assert!([200, 201].contains(&answer.status), "{answer:?}");
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_stdout_that_closes_does_not_stop_the_filter() {
    let mut scene = Scene::new("10m");
    let mut running = start(&mut scene);
    let stdout = running.0.stdout.take().expect("stdout is piped");
    for line in BufReader::new(stdout).lines() {
        let line = valid(&line.expect("a line"));
        if line["event.action"] == "started" {
            break;
        }
    }
    // It is closed now.
    make_lines(&scene);
    scene.scan_into_ban(0);
    scene.assert_silence(0);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code(), Some(0));
    assert!(!scene.is_filtered());
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_stdout_that_blocks_does_not_stop_the_filter() {
    let mut scene = Scene::new("10m");
    let mut running = start(&mut scene);
    // Held open and never read.
    let mut unread = running.0.stdout.take().expect("stdout is piped");
    make_lines(&scene);
    scene.scan_into_ban(0);
    scene.assert_silence(0);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code(), Some(0));
    assert!(!scene.is_filtered());
    let mut held = String::new();
    unread
        .read_to_string(&mut held)
        .expect("what the pipe holds");
    // The last is cut off where the pipe was full.
    let (whole, _) = held.rsplit_once('\n').expect("lines");
    whole.lines().for_each(|line| drop(valid(line)));
}
