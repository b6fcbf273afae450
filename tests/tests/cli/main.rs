//! Every command of the command line, asked of the real daemon or of none: data on stdout, words on
//! stderr, and an exit status that tells what became of it.
//!
//! * `asked`: what is shown and changed, over the socket and over TCP.
//! * `streams`: events, and readers that have read enough.
//! * `alone`: without a daemon.

mod alone;
mod asked;
mod streams;

use std::process::{Command, Output};
use std::time::Duration;

use packetwatch_tests::daemon::binary;
use packetwatch_tests::{Daemon, Lan};
use serde_json::Value;

pub(crate) const PROMPT: Duration = Duration::from_secs(30);
pub(crate) const SILENCE: Duration = Duration::from_millis(700);

pub(crate) const TCP: &str = "127.0.0.1:7300";
pub(crate) const URL: &str = "http://127.0.0.1:7300";

pub(crate) const RULE: &str = "[[rules]]\nname = \"port-scan\"\ndistinct_ports = 3\nwithin = \"60s\"\n\
                    ban = \"10m\"\n";

pub(crate) fn daemon(lan: &Lan) -> Daemon {
    Daemon::builder(&lan.host)
        .interface(&lan.segment().interface)
        .listen(TCP.parse().expect("an address and a port"))
        .rules_toml(RULE)
        .start()
}

/// Without a daemon.
pub(crate) fn alone(arguments: &[&str]) -> Output {
    let output = Command::new(binary()).args(arguments).output();
    output.expect("run the binary")
}

/// Standard output of a command that must succeed.
#[track_caller]
pub(crate) fn done(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    std::str::from_utf8(&output.stdout).expect("stdout is UTF-8")
}

/// Standard error of a command that must end with `code` and print no data.
#[track_caller]
pub(crate) fn failed(output: &Output, code: i32) -> &str {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(!output.stderr.is_empty(), "{output:?}");
    std::str::from_utf8(&output.stderr).expect("stderr is UTF-8")
}

#[track_caller]
pub(crate) fn json(output: &Output) -> Value {
    let text = done(output);
    let value = serde_json::from_str(text);
    value.unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
}
