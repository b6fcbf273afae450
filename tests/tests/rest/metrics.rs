//! `/metrics` as a scraper reads it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use packetwatch_tests::intruder::Intruder;
use packetwatch_tests::patience::until;

use crate::scan::Scan;
use crate::stage::{PROMPT, Stage, problem};

/// Every name users build dashboards on, with exactly its labels, and no address among the values.
pub(crate) fn metrics_tell(scan: &Scan) {
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
    let maps: Vec<String> = samples(exposition)
        .filter(|sample| sample.name == "packetwatch_map_capacity")
        .map(|sample| sample.labels["map"].clone())
        .collect();
    let status = scan.get("/v1/status");
    let of_status = status["memory"]["maps"]
        .as_array()
        .expect("maps are a list");
    assert_eq!(
        maps,
        of_status
            .iter()
            .map(|map| map["map"].as_str().expect("a name"))
            .collect::<Vec<_>>()
    );
    for ring in ["calls", "offences"] {
        assert!(maps.iter().any(|map| map == ring), "{ring}: {maps:?}");
    }
    // The addresses of the host; nobody has written a list.
    for (row, least, most) in [("lists", 0, 0), ("protected", 1, 100)] {
        let found = of_status.iter().find(|map| map["map"] == row);
        let entries = found.and_then(|map| map["entries"].as_u64());
        let is_within = entries.is_some_and(|n| (least..=most).contains(&n));
        assert!(is_within, "{row}: {status}");
    }
    let bans = samples(exposition).find(|sample| sample.name == "packetwatch_bans_total");
    assert_eq!(
        bans.map(|sample| (sample.labels["rule"].clone(), sample.value)),
        Some(("port-scan".to_owned(), 1.0))
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_write_that_the_kernel_refuses_is_counted_and_taken_back() {
    let stage = Stage::own();
    let errors = || {
        let answer = stage.expect(200, "GET", "/metrics");
        let sample = samples(answer.text()).find(|sample| {
            let label = |key: &str| sample.labels.get(key).map(String::as_str);
            sample.name == "packetwatch_map_errors_total"
                && (label("map"), label("error")) == (Some("list_hits"), Some("write"))
        });
        sample.map(|sample| sample.value)
    };
    assert_eq!(errors(), None);
    let status = stage.expect(200, "GET", "/v1/status").json();
    let program = status["interfaces"][0]["program_id"].as_u64();
    let program = program.and_then(|id| id.try_into().ok());
    Intruder::of(program.expect("a program")).freeze("LIST_HITS");

    let refused = problem(&stage.ask("PUT", "/v1/deny/192.0.2.1", None), 500, None);
    let detail = refused["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("log says why"), "{refused}");
    assert_eq!(errors(), Some(1.0));
    assert_eq!(stage.listed("deny"), [""; 0]);
    problem(&stage.ask("PUT", "/v1/deny/192.0.2.2", None), 500, None);
    assert_eq!((errors(), stage.listed("deny").len()), (Some(2.0), 0));
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_memory_of_every_map_is_told() {
    // What is kept beside the entries of the lists, and what changes between the two readings.
    const ROUNDED: u64 = 64 * 1024;
    let stage = Stage::own();
    let held: u64 = maps_held(stage.daemon.pid()).into_values().sum();
    let status = stage.expect(200, "GET", "/v1/status").json();
    let told = status["memory"]["maps_bytes"].as_u64();
    let told = told.expect("a number of bytes");
    assert!(told.abs_diff(held) < ROUNDED, "{told} of {held}: {status}");
}

/// Bytes of each map that a process holds a descriptor of, by the kernel's id.
fn maps_held(pid: u32) -> BTreeMap<u64, u64> {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("list the descriptors");
    let map = |info: fs::DirEntry| {
        // One that has been closed since is no map.
        let info = fs::read_to_string(info.path()).ok()?;
        let value = |key: &str| {
            let mut lines = info.lines();
            let value = lines.find_map(|line| line.strip_prefix(key))?;
            value.trim().parse().ok()
        };
        Some((value("map_id:")?, value("memlock:")?))
    };
    infos.filter_map(Result::ok).filter_map(map).collect()
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

/// Reads `name{label="value",...} number`, or without labels `name number`; no value of ours has a quote or a comma.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.strip_suffix('}') {
        Some(labelled) => labelled.split_once('{')?,
        None => (series, ""),
    };
    let labels = labels.split(',').filter(|label| !label.is_empty());
    let labels = labels.map(|label| {
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
