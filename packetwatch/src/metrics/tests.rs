use packetwatch_abi::Reason;

use super::{counters::MAX_RULE_NAMES, *};

fn text(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("packetwatch");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    text::encode(&mut text, &registry).unwrap();
    text
}

fn outcome(reason: Reason, observed: bool, packets: u64) -> Outcome {
    Outcome {
        interface: "eth0".to_owned(),
        observed,
        reason,
        tally: Tally {
            packets,
            bytes: 60 * packets,
        },
    }
}

#[test]
fn names_and_labels_are_the_interface() {
    let counters = Counters::default();
    counters.ban("port-scan");
    counters.map_full("lists");
    counters.map_error("outcomes", "read");
    counters.map_differences("bans", "missing", 3);
    counters.detached("gone");
    counters.pins_lost();
    counters.evicted("crowded", 16);
    counters.set_crowded(true);
    counters.auth_failed("scope");
    let text = text(Snapshot {
        outcomes: vec![
            outcome(Reason::Pass, false, 2),
            outcome(Reason::Pass, true, 3),
            outcome(Reason::Ban, false, 4),
            outcome(Reason::Ban, true, 5),
        ],
        connections: vec![(
            "eth0".to_owned(),
            Tally {
                packets: 1,
                bytes: 60,
            },
        )],
        filtered: vec![("eth0".to_owned(), true), ("eth1".to_owned(), false)],
        pinned: vec![("eth0".to_owned(), true)],
        chain_up: Some(false),
        faults: vec![
            (Fault::CallersFull, 6),
            (Fault::CallersError, 21),
            (Fault::CallersNoMemory, 22),
            (Fault::CallersDeadlock, 23),
            (Fault::CallersTimedOut, 24),
            (Fault::CallersBusy, 25),
        ],
        admissions: AdmissionCounts {
            first_sight: 12,
            by_count: 13,
            sketched: 14,
            refused: 2,
            ..AdmissionCounts::default()
        },
        threshold: Some(15),
        certificate: Some(17),
        bypass: 16,
        pending: 1,
        lists: vec![("allow", "ipv4", 7)],
        maps: vec![("bans", Some(8), 9), ("calls", None, 10)],
        log_lost: 11,
        counted: counters.with(|counted| counted.clone()),
        version: "1.2.3",
        git: "abc",
    });
    let lines = [
        r#"packetwatch_packets_total{interface="eth0",verdict="pass",reason="pass"} 5"#,
        r#"packetwatch_packets_total{interface="eth0",verdict="drop",reason="ban"} 4"#,
        r#"packetwatch_packets_total{interface="eth0",verdict="observe",reason="ban"} 5"#,
        r#"packetwatch_bytes_total{interface="eth0",verdict="drop",reason="ban"} 240"#,
        r#"packetwatch_connections_total{interface="eth0"} 1"#,
        r#"packetwatch_list_entries{list="allow",family="ipv4"} 7"#,
        r#"packetwatch_map_entries{map="bans"} 8"#,
        r#"packetwatch_map_capacity{map="calls"} 10"#,
        r#"packetwatch_map_full_total{map="callers"} 6"#,
        r#"packetwatch_map_full_total{map="lists"} 1"#,
        r#"packetwatch_map_errors_total{map="outcomes",error="read"} 1"#,
        r#"packetwatch_map_errors_total{map="callers",error="insert"} 21"#,
        r#"packetwatch_map_errors_total{map="callers",error="no-memory"} 22"#,
        r#"packetwatch_map_errors_total{map="callers",error="deadlock"} 23"#,
        r#"packetwatch_map_errors_total{map="callers",error="timed-out"} 24"#,
        r#"packetwatch_map_errors_total{map="callers",error="busy"} 25"#,
        r#"packetwatch_map_differences_total{map="bans",kind="missing"} 3"#,
        r#"packetwatch_interface_filtered{interface="eth0"} 1"#,
        r#"packetwatch_interface_filtered{interface="eth1"} 0"#,
        r#"packetwatch_detached_total{cause="gone"} 1"#,
        r#"packetwatch_interface_pinned{interface="eth0"} 1"#,
        "packetwatch_pins_lost_total 1",
        "packetwatch_chain_up 0",
        r#"packetwatch_events_lost_total{stage="log"} 11"#,
        r#"packetwatch_bans_total{rule="port-scan"} 1"#,
        "packetwatch_admission_threshold 15",
        "packetwatch_certificate_expiry_timestamp_seconds 17",
        "packetwatch_bypass_seconds 16",
        "packetwatch_changes_pending 1",
        r#"packetwatch_callers_admitted_total{by="first-sight"} 12"#,
        r#"packetwatch_callers_admitted_total{by="count"} 13"#,
        "packetwatch_callers_not_admitted_total 16",
        "packetwatch_callers_crowded 1",
        r#"packetwatch_callers_evicted_total{cause="crowded"} 16"#,
        r#"packetwatch_auth_failures_total{cause="scope"} 1"#,
        r#"packetwatch_build_info{version="1.2.3",git="abc"} 1"#,
        "# EOF",
    ];
    for line in lines {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nin\n{text}"
        );
    }
    assert!(!text.contains("map_entries{map=\"calls\"}"), "{text}");
}

#[test]
fn rule_names_are_bounded() {
    let counters = Counters::default();
    for n in 0..MAX_RULE_NAMES + 2 {
        counters.ban(&format!("rule-{n}"));
    }
    counters.ban("rule-0");
    let bans = counters.with(|counted| counted.bans.clone());
    assert_eq!(bans.len(), MAX_RULE_NAMES + 1);
    assert_eq!((bans["other"], bans["rule-0"]), (2, 2));
}

#[test]
fn a_refused_ban_is_counted_by_its_cause() {
    let counters = Counters::default();
    let full = dataplane::Error::Full {
        map: "BANS",
        capacity: 8,
    };
    let busy = dataplane::Error::Syscall {
        map: "BANS",
        operation: "write",
        source: std::io::Error::from_raw_os_error(libc::EBUSY),
    };
    for error in [&full, &full, &busy] {
        counters.refused("bans", error);
    }
    let text = text(Snapshot {
        counted: counters.with(|counted| counted.clone()),
        ..Snapshot::default()
    });
    let errors = text
        .lines()
        .filter(|line| line.starts_with(r#"packetwatch_map_errors_total{map="bans""#));
    let errors: Vec<_> = errors.collect();
    assert_eq!(
        errors,
        [r#"packetwatch_map_errors_total{map="bans",error="busy"} 1"#]
    );
    let expected = r#"packetwatch_map_full_total{map="bans"} 2"#;
    assert!(text.lines().any(|line| line == expected), "{text}");
}
