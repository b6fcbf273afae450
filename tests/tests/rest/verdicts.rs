//! What the API says of real calls: callers, explanations, bans, events, metrics.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use packetwatch_tests::patience::until;
use packetwatch_tests::{Daemon, Family, Lan, Server, answered, serve_http};
use serde_json::{Value, json};

use crate::stage::{PROMPT, entries, keys, problem, text};

const PORTS: [u16; 3] = [8086, 8087, 8088];

/// For a call that must not be answered: shorter than TCP's second attempt.
const SILENCE: Duration = Duration::from_millis(700);

const RULE: &str = "[[rules]]\nname = \"port-scan\"\ndistinct_ports = 3\nwithin = \"60s\"\n\
                    ban = \"10m\"\nprefix_v6 = 128\n";

/// A host with servers, and somebody who scans it.
struct Scan {
    daemon: Daemon,
    family: Family,
    _servers: Vec<Server>,
    lan: Lan,
}

impl Scan {
    fn new(family: Family) -> Self {
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

    fn scanner(&self) -> IpAddr {
        self.lan.segment().client(self.family, 0)
    }

    fn single(&self) -> String {
        format!("{}/{}", self.scanner(), self.family.address_bits())
    }

    fn call(&self, port: u16, limit: Duration) -> bool {
        let server = SocketAddr::new(self.lan.segment().host(self.family), port);
        answered(
            &self.lan.segment().client,
            Some(self.scanner()),
            server,
            limit,
        )
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        let answer = self.daemon.api("GET", path, None);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    #[track_caller]
    fn change(&self, status: u16, method: &str, path: &str) {
        let answer = self.daemon.api(method, path, None);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }

    #[track_caller]
    fn explain(&self) -> Value {
        let explained = self.get(&format!("/v1/explain/{}", self.scanner()));
        for because in explained["because"].as_array().expect("because is a list") {
            for key in ["prefix", "since", "until", "reason"] {
                assert!(because.get(key).is_some(), "{key}: {explained}");
            }
        }
        explained
    }

    #[track_caller]
    fn caller(&self) -> Value {
        let callers = self.get(&format!("/v1/callers/{}", self.scanner()));
        assert_eq!(keys(&callers), ["callers"]);
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
    fn events(&self) -> BufReader<UnixStream> {
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

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_scan_over_ipv4_is_told_everywhere() {
    told_everywhere(Family::V4);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_scan_over_ipv6_is_told_everywhere() {
    told_everywhere(Family::V6);
}

fn told_everywhere(family: Family) {
    let scan = Scan::new(family);
    let single = scan.single();
    let mut events = scan.events();

    assert!(scan.call(PORTS[0], PROMPT));
    let explained = scan.explain();
    assert_eq!(explained["verdict"], "pass", "{explained}");
    assert_eq!(explained["because"], json!([]), "{explained}");
    assert_eq!(scan.caller()["state"], "counted");

    assert!(scan.call(PORTS[1], PROMPT) && scan.call(PORTS[2], PROMPT));
    let caller = scan.caller();
    let expected = [
        "bytes",
        "connections",
        "distinct_ports",
        "dropped",
        "first_seen",
        "last_seen",
        "packets",
        "prefix",
        "state",
    ];
    assert_eq!(keys(&caller), expected);
    assert_eq!(
        (
            &caller["connections"],
            &caller["distinct_ports"],
            &caller["dropped"]
        ),
        (&json!(3), &json!(3), &json!(0))
    );
    assert_eq!(caller["state"], "over-threshold", "{caller}");
    // The N-th call has passed; the next would not.
    let explained = scan.explain();
    assert_eq!(explained["verdict"], "drop", "{explained}");
    assert_eq!(explained["because"][0]["rule"], "port-scan", "{explained}");

    assert!(!scan.call(PORTS[0], SILENCE));
    let ban = event(&mut events, "ban");
    assert_eq!(ban["packetwatch.prefix"], single.as_str(), "{ban}");
    assert_eq!(ban["source.ip"], scan.scanner().to_string(), "{ban}");
    drop(events);

    let bans = scan.get(&format!("/v1/bans?contains={}", scan.scanner()));
    let [ban] = &entries(&bans)[..] else {
        panic!("one ban: {bans}");
    };
    for key in [
        "prefix",
        "reason",
        "source",
        "created_at",
        "expires_at",
        "packets",
        "bytes",
    ] {
        assert!(ban.get(key).is_some(), "{key}: {ban}");
    }
    assert_eq!(
        (&ban["prefix"], &ban["source"]),
        (&json!(single), &json!("port-scan"))
    );
    assert_eq!(scan.caller()["state"], "banned");
    let explained = scan.explain();
    assert_eq!(explained["verdict"], "drop", "{explained}");
    assert_eq!(explained["because"][0]["rule"], "port-scan", "{explained}");
    assert_eq!(
        explained["because"][0]["until"], ban["expires_at"],
        "{explained}"
    );
    assert!(!scan.call(PORTS[0], SILENCE));
    metrics_tell(&scan);

    // A deny outranks the ban, an allow both.
    scan.change(201, "PUT", &format!("/v1/deny/{single}"));
    let explained = scan.explain();
    assert_eq!(explained["because"][0]["list"], "deny", "{explained}");
    scan.change(201, "PUT", &format!("/v1/allow/{single}"));
    let explained = scan.explain();
    assert_eq!(explained["verdict"], "pass", "{explained}");
    assert_eq!(explained["because"][0]["list"], "allow", "{explained}");
    assert_eq!(
        explained["because"][0]["prefix"],
        single.as_str(),
        "{explained}"
    );
    assert!(scan.call(PORTS[0], PROMPT));
    let page = scan.get(&format!("/v1/allow?contains={}", scan.scanner()));
    let passed = entries(&page)[0]["packets"].as_u64();
    assert!(passed >= Some(3), "packets that the entry let pass: {page}");
    scan.change(204, "DELETE", &format!("/v1/allow/{single}"));
    scan.change(204, "DELETE", &format!("/v1/deny/{single}"));
    scan.change(204, "DELETE", &format!("/v1/bans/{single}"));
    problem(
        &scan
            .daemon
            .api("DELETE", &format!("/v1/bans/{single}"), None),
        404,
        Some("prefix"),
    );

    // The gateway is protected, and that is what lets it pass.
    let gateway = scan.lan.segment().gateway(family);
    let explained = scan.get(&format!("/v1/explain/{gateway}"));
    assert_eq!(explained["verdict"], "pass", "{explained}");
    assert_eq!(explained["because"][0]["list"], "allow", "{explained}");
    assert_eq!(
        explained["because"][0]["reason"], "next hop of pw0",
        "{explained}"
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn callers_are_sorted_by_what_is_asked() {
    let scan = Scan::new(Family::V4);
    let segment = scan.lan.segment();
    let server = |port| SocketAddr::new(segment.host(Family::V4), port);
    // One calls two ports, another one port three times.
    let (wide, often) = (segment.client(Family::V4, 1), segment.client(Family::V4, 2));
    for (source, port) in [
        (wide, PORTS[0]),
        (wide, PORTS[1]),
        (often, PORTS[0]),
        (often, PORTS[0]),
        (often, PORTS[0]),
    ] {
        assert!(answered(
            &segment.client,
            Some(source),
            server(port),
            PROMPT
        ));
    }
    let first = |sort: &str| {
        let callers = scan.get(&format!("/v1/callers?limit=1&sort={sort}"));
        let callers = callers["callers"].as_array().expect("a list").clone();
        assert_eq!(callers.len(), 1);
        text(&callers[0]["prefix"]).to_owned()
    };
    assert_eq!(first("ports"), format!("{wide}/32"));
    for sort in ["connections", "packets", "bytes"] {
        assert_eq!(first(sort), format!("{often}/32"), "{sort}");
    }
}

/// The data of the first event with this action.
fn event(events: &mut BufReader<UnixStream>, action: &str) -> Value {
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
        if event["event.action"] == action {
            return event;
        }
    }
    panic!("no event {action} in {PROMPT:?}");
}

/// Every name users build dashboards on, with exactly its labels, and no address among the values.
fn metrics_tell(scan: &Scan) {
    let families: [(&str, &str, &[&str]); 11] = [
        ("packets", "counter", &["interface", "reason", "verdict"]),
        ("bytes", "counter", &["interface", "reason", "verdict"]),
        ("connections", "counter", &["interface"]),
        ("list_entries", "gauge", &["family", "list"]),
        ("map_entries", "gauge", &["map"]),
        ("map_capacity", "gauge", &["map"]),
        ("map_full", "counter", &["map"]),
        ("map_errors", "counter", &["error", "map"]),
        ("events_lost", "counter", &["stage"]),
        ("bans", "counter", &["rule"]),
        ("build_info", "gauge", &["git", "version"]),
    ];
    let answer = scan.daemon.api("GET", "/metrics", None);
    let media = answer.header("content-type").unwrap_or_default();
    assert!(media.starts_with("application/openmetrics-text"), "{media}");
    let exposition = answer.text();
    assert!(exposition.ends_with("# EOF\n"), "{exposition}");
    for (family, kind, labels) in families {
        let declared = format!("# TYPE packetwatch_{family} {kind}\n");
        assert!(exposition.contains(&declared), "{declared}{exposition}");
        let total = if kind == "counter" { "_total" } else { "" };
        let name = format!("packetwatch_{family}{total}");
        let found: Vec<_> = samples(exposition)
            .filter(|sample| sample.name == name)
            .collect();
        assert!(!found.is_empty(), "{name} has no sample:\n{exposition}");
        for sample in found {
            let present: Vec<_> = sample.labels.keys().map(String::as_str).collect();
            assert_eq!(present, labels, "{name}");
        }
    }
    for sample in samples(exposition) {
        let is_address = |value: &String| value.parse::<IpAddr>().is_ok();
        assert!(!sample.labels.values().any(is_address), "{}", sample.name);
    }
    // Counted when it was dropped, so nothing is left to wait for but the ban's own packet.
    let dropped = until(PROMPT, || {
        let answer = scan.daemon.api("GET", "/metrics", None);
        let by_ban = |sample: &Sample| {
            let label = |key: &str| sample.labels.get(key).map(String::as_str);
            sample.name == "packetwatch_packets_total"
                && (label("reason"), label("verdict")) == (Some("ban"), Some("drop"))
                && sample.value >= 1.0
        };
        samples(answer.text())
            .any(|sample| by_ban(&sample))
            .then_some(())
    });
    assert!(dropped.is_some(), "no packet was dropped by the ban");
    let bans = samples(exposition).find(|sample| sample.name == "packetwatch_bans_total");
    assert_eq!(
        bans.map(|sample| (sample.labels["rule"].clone(), sample.value)),
        Some(("port-scan".to_owned(), 1.0))
    );
}

/// A line of the exposition that is no comment.
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

fn samples(exposition: &str) -> impl Iterator<Item = Sample> {
    let lines = exposition.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| sample(line).unwrap_or_else(|| panic!("no sample: {line}")))
}

/// Reads `name{label="value",...} number`; no value of ours has a quote or a comma.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.strip_suffix('}')?.split_once('{')?;
    let labels = labels.split(',').map(|label| {
        let (key, value) = label.split_once('=')?;
        let value = value.strip_prefix('"')?.strip_suffix('"')?;
        Some((key.to_owned(), value.to_owned()))
    });
    Some(Sample {
        name: name.to_owned(),
        labels: labels.collect::<Option<_>>()?,
        value: value.parse().ok()?,
    })
}
