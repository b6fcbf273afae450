//! Starts that must not happen.

use std::process::Command;
use std::time::Duration;

use super::process::Process;
use crate::patience::until;

/// Until a start that cannot succeed has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs a start that must fail, or a check of what it starts from, and returns its last words, which are on
/// the standard error and must hold each of `words`. What it has logged is checked as every daemon's log is.
#[track_caller]
pub fn refused(command: Command, words: &[&str]) -> String {
    let mut start = Process::start(command);
    let status = until(LIMIT, || start.exited());
    let Some(status) = status else {
        panic!("a start that must fail still runs after {LIMIT:?}");
    };
    let stderr = start.stderr();
    assert_eq!(status.code(), Some(1), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word:?} is not in: {stderr}");
    }
    stderr
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    const LINE: &str = r#"{"@timestamp":"2026-01-01T00:00:00.000Z","log.level":"info","message":"x","ecs.version":"8.17.0","log.logger":"test""#;

    /// A start that logs a line with these keys more, and gives up with a status.
    fn start(more: &str, status: u8) -> Command {
        let mut command = Command::new("sh");
        let script = format!("echo '{LINE}{more}}}'; echo 'no room: make some' >&2; exit {status}");
        command.args(["-c", &script]);
        command
    }

    #[test]
    fn a_refused_start_has_its_words_its_status_and_a_valid_log() {
        assert_eq!(refused(start("", 1), &["no room"]), "no room: make some\n");
        let planted = r#","packetwatch.planted":1"#;
        let mistyped = r#","source.ip":"198.18.0.256""#;
        for (command, words) in [
            (start("", 1), "no rights"),
            (start("", 0), "no room"),
            (start(planted, 1), "no room"),
            (start(mistyped, 1), "no room"),
        ] {
            let shown = format!("{command:?}");
            let told = catch_unwind(AssertUnwindSafe(|| refused(command, &[words])));
            assert!(told.is_err(), "{shown} was taken, with {words:?}");
        }
    }
}
