//! A host with servers behind a daemon, and somebody who scans it.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use packetwatch_tests::daemon::validate;
use packetwatch_tests::{Daemon, Family, Lan, Server, answered, serve_http};
use serde_json::Value;

use crate::stage::{PROMPT, keys};

pub(crate) const PORTS: [u16; 3] = [8086, 8087, 8088];

/// For a call that must not be answered: shorter than TCP's second attempt.
pub(crate) const SILENCE: Duration = Duration::from_millis(700);

const RULE: &str = "[[rules]]\nname = \"port-scan\"\ndistinct_ports = 3\nwithin = \"60s\"\n\
                    ban = \"10m\"\nprefix_v6 = 128\n";

/// A host with servers, and somebody who scans it.
pub(crate) struct Scan {
    pub(crate) daemon: Daemon,
    pub(crate) family: Family,
    _servers: Vec<Server>,
    pub(crate) lan: Lan,
}

impl Scan {
    pub(crate) fn new(family: Family) -> Self {
        let lan = Lan::new();
        let host = lan.segment().host(family);
        let servers = PORTS.map(|port| serve_http(&lan.host, host, port)).into();
        let daemon = Daemon::builder(&lan.host)
            .interface("pw0")
            .rules_toml(RULE)
            .start();
        Self {
            daemon,
            family,
            _servers: servers,
            lan,
        }
    }

    pub(crate) fn scanner(&self) -> IpAddr {
        self.lan.segment().client(self.family, 0)
    }

    pub(crate) fn single(&self) -> String {
        format!("{}/{}", self.scanner(), self.family.address_bits())
    }

    pub(crate) fn call(&self, port: u16, limit: Duration) -> bool {
        let server = SocketAddr::new(self.lan.segment().host(self.family), port);
        answered(
            &self.lan.segment().client,
            Some(self.scanner()),
            server,
            limit,
        )
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.daemon.api("GET", path, None);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    #[track_caller]
    pub(crate) fn change(&self, status: u16, method: &str, path: &str) {
        let answer = self.daemon.api(method, path, None);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }

    #[track_caller]
    pub(crate) fn explain(&self) -> Value {
        let explained = self.get(&format!("/v1/explain/{}", self.scanner()));
        for because in explained["because"].as_array().expect("because is a list") {
            for key in ["prefix", "since", "until", "reason"] {
                assert!(because.get(key).is_some(), "{key}: {explained}");
            }
        }
        explained
    }

    #[track_caller]
    pub(crate) fn caller(&self) -> Value {
        let callers = self.get(&format!("/v1/callers/{}", self.scanner()));
        assert_eq!(keys(&callers), ["callers", "mode"]);
        let callers = callers["callers"].as_array().expect("callers are a list");
        let single = self.single();
        let entry = callers
            .iter()
            .find(|entry| entry["prefix"] == single.as_str());
        entry
            .unwrap_or_else(|| panic!("{single} is not among {callers:?}"))
            .clone()
    }

    /// A reader of the event stream, begun when this returns.
    pub(crate) fn events(&self) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(self.daemon.socket()).expect("the socket answers");
        stream.set_read_timeout(Some(PROMPT)).expect("set a limit");
        stream
            .write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect("ask for events");
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).expect("a head"), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let lower = head.to_ascii_lowercase();
        assert!(lower.contains("content-type: text/event-stream"), "{head}");
        reader
    }
}

/// The data of the first event with this action.
pub(crate) fn event(events: &mut BufReader<UnixStream>, action: &str) -> Value {
    let end = Instant::now() + PROMPT;
    let mut line = String::new();
    while Instant::now() < end {
        line.clear();
        assert_ne!(
            events.read_line(&mut line).expect("an event in time"),
            0,
            "the stream ended"
        );
        // Between the data are the sizes of chunks and empty lines.
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        let event: Value = serde_json::from_str(data).expect("an event is a line of the log");
        validate(&event).expect("a line of the log");
        if event["event.action"] == action {
            return event;
        }
    }
    panic!("no event {action} in {PROMPT:?}");
}
