//! What the log says when the lists reach a bound: of entries, and of entries that are counted.

use std::time::Instant;

use packetwatch_abi::capacity;
use serde_json::Value;

use crate::stage::{PROMPT, Stage, text};

const TEXT: &str = "text/plain";

/// The message has these words.
fn says(line: &Value, words: &str) -> bool {
    let message = line["message"].as_str();
    message.is_some_and(|message| message.contains(words))
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn writes_that_find_the_lists_full_are_told_a_line_a_second() {
    const REFUSED: &str = "writes of the lists have found no room";
    const MANY: usize = 200;
    let stage = Stage::with("[capacity]\nlists = 12\n");
    let taken = stage.ask("PUT", "/v1/deny/192.0.2.1", None);
    assert_eq!(taken.status, 201, "{taken:?}");
    let feed: String = (0..20).map(|n| format!("203.0.113.{n}\n")).collect();
    let mark = stage.daemon.log().len();
    let began = Instant::now();
    let refused = |times: usize| {
        for _ in 0..times {
            let answer = stage.send("POST", "/v1/deny", TEXT, feed.as_bytes());
            assert_eq!(answer.status, 507, "{answer:?}");
        }
    };

    refused(1);
    let line = stage
        .daemon
        .log()
        .wait_from(mark, |line| says(line, REFUSED), PROMPT);
    assert!(says(&line, "API: 1 "), "{line}");
    assert_eq!(line["log.level"], "error", "{line}");
    let detail = text(&line["error.message"]);
    assert!(detail.contains("raise capacity.lists"), "{line}");

    refused(MANY);
    // What is logged behind them comes behind them.
    stage.expect(204, "DELETE", "/v1/deny/192.0.2.1");
    let removed = |line: &Value| line["event.action"] == "deny-removed";
    stage.daemon.log().wait_from(mark, removed, PROMPT);
    let lines = stage.daemon.lines();
    let told = lines[mark..]
        .iter()
        .filter(|line| says(line, REFUSED))
        .count();
    let seconds = began.elapsed().as_secs() as usize + 2;
    assert!(told <= seconds, "{told} lines in {seconds} seconds");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn that_entries_are_not_counted_one_by_one_is_told_once_and_at_each_start() {
    const UNCOUNTED: &str = "show no packets and bytes of their own";
    let mut stage = Stage::own();
    let told = |stage: &Stage, mark: usize| {
        let lines = stage.daemon.lines();
        let told = lines[mark..].iter().filter(|line| says(line, UNCOUNTED));
        told.count()
    };
    let host = |n: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n);
    let deny = |stage: &Stage, feed: String| {
        let mark = stage.daemon.log().len();
        let answer = stage.send("POST", "/v1/deny", TEXT, feed.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
        let changed = |line: &Value| line["event.action"] == "deny-added";
        stage.daemon.log().wait_from(mark, changed, PROMPT);
        mark
    };
    // The protected entries are among those that are counted.
    let answer = stage.expect(200, "GET", "/v1/status").json();
    let allowed = answer["lists"]["allow"].as_u64().expect("a number") as u32;
    let counted = capacity::LIST_HITS - allowed;

    let feed = (0..counted).map(|n| format!("{}\n", host(n))).collect();
    let mark = deny(&stage, feed);
    assert_eq!(told(&stage, mark), 0, "at the bound");
    deny(&stage, format!("{}\n", host(counted)));
    let is_told = |line: &Value| says(line, UNCOUNTED);
    let line = stage.daemon.log().wait_from(mark, is_told, PROMPT);
    assert_eq!(line["log.level"], "warn", "{line}");
    // So many more that a start counts them before it knows whom to protect.
    let more = (1..=allowed + 1).map(|n| format!("{}\n", host(counted + n)));
    deny(&stage, more.collect());
    assert_eq!(told(&stage, mark), 1, "once when it begins");

    stage.daemon.restart();
    let started = |line: &Value| line["event.action"] == "started";
    stage.daemon.log().wait_from(0, started, PROMPT);
    assert_eq!(told(&stage, 0), 1, "and at each start");
}
