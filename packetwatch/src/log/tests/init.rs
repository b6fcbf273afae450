use std::{env, process::Command};

use serde_json::Value;
use tracing::{debug, info, warn};

use super::{PROMPT, assert_valid};
use crate::log::{InitError, LogFormat, init, suppressed};

/// A process has one log, so this test is two: it starts itself again.
#[test]
fn the_log_of_a_process_goes_to_its_standard_output() {
    const CHILD: &str = "PACKETWATCH_TEST_LOG_CHILD";
    if env::var_os(CHILD).is_some() {
        let log = init(LogFormat::Json, "warn").unwrap();
        warn!("written");
        info!("below the level");
        ::log::warn!(target: "aya_log", "bridged");
        ::log::debug!(target: "aya_log", "below the level");
        debug!("below the level");
        suppressed(1);
        let twice = init(LogFormat::Json, "warn").err().unwrap();
        assert!(matches!(twice, InitError::Twice(_)), "{twice}");
        assert!(log.flush(PROMPT));
        return;
    }
    let name = "log::tests::init::the_log_of_a_process_goes_to_its_standard_output";
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let lines: Vec<Value> = text
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines.iter().for_each(assert_valid);
    let messages: Vec<_> = lines.iter().map(|line| &line["message"]).collect();
    let event = "calls without a line, beyond the budget of a second: 1";
    assert_eq!(messages, ["written", "bridged", event]);
    assert_eq!(lines[1]["log.logger"], "aya_log");
}

#[test]
fn a_wrong_filter_is_named_with_the_remedy() {
    let error = init(LogFormat::Json, "packetwatch=loud").err().unwrap();
    let text = error.to_string();
    assert!(text.contains("`packetwatch=loud`"), "{text}");
    assert!(text.contains("error, warn, info, debug, trace"), "{text}");
}
