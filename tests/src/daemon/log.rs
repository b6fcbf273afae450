//! The daemon's standard output: one JSON object a line, each checked as it arrives.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jsonschema::Validator;
use serde_json::Value;

use crate::patience::stretched;

/// In the executable: an emulated machine has no file of the repository.
const SCHEMA: &str = include_str!("../../../schemas/log-line.schema.json");

/// Lines of one run that are kept. The daemon's own budget is 1000 lines a second, so that a test would
/// have to flood it for minutes.
const MAX_LINES: usize = 200_000;

/// Lines of the tail that a failing test prints.
const TAIL: usize = 40;

/// The collected lines of one run.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    grew: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Value>,
    /// What was wrong with lines, and the lines.
    faults: Vec<String>,
    ended: bool,
}

impl Log {
    /// Reads `output` on a thread, to its end.
    pub(super) fn collect(output: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        let reader = thread::spawn(move || {
            let mut output = BufReader::new(output);
            loop {
                let mut line = Vec::new();
                match output.read_until(b'\n', &mut line) {
                    Err(error) => {
                        writer.lock().faults.push(error.to_string());
                        break;
                    }
                    // Who is killed while it writes leaves a line without an end, which says nothing.
                    Ok(_) if line.pop() != Some(b'\n') => break,
                    Ok(_) => writer.lock().add(&line),
                }
                writer.grew.notify_all();
            }
            writer.lock().ended = true;
            writer.grew.notify_all();
        });
        Self {
            shared,
            reader: Some(reader),
        }
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Value> {
        self.shared.lock().lines.clone()
    }

    /// How many lines there are: a place to [`Log::wait_from`] later.
    pub fn len(&self) -> usize {
        self.shared.lock().lines.len()
    }

    /// Whether nothing has been logged yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first line, at place `from` or later, that `matches`; panics with the tail when there is none
    /// within `limit`, [`stretched`].
    pub fn wait_from(
        &self,
        from: usize,
        matches: impl Fn(&Value) -> bool,
        limit: Duration,
    ) -> Value {
        let end = Instant::now() + stretched(limit);
        let mut state = self.shared.lock();
        let mut next = from;
        loop {
            if let Some(found) = state.lines.iter().skip(next).find(|line| matches(line)) {
                return found.clone();
            }
            next = state.lines.len().max(from);
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                let why = if state.ended {
                    "before the log ended"
                } else {
                    "in time"
                };
                let tail = state.tail();
                // A panic with the lock held would poison it for the report that follows.
                drop(state);
                panic!("no such line came {why} ({limit:?}); the log's tail:\n{tail}");
            }
            state = self
                .shared
                .grew
                .wait_timeout(state, left)
                .expect("the reader does not panic")
                .0;
        }
    }

    /// Panics when a line was not what `interface` and schema promise.
    pub fn check(&self) {
        let faults = self.shared.lock().faults.join("\n");
        assert!(faults.is_empty(), "invalid log lines:\n{faults}");
    }

    /// The last lines, as they came.
    pub(super) fn tail(&self) -> String {
        self.shared.lock().tail()
    }

    /// Waits for the end of the output, which comes with the end of the process.
    pub(super) fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the log panics")
    }
}

impl State {
    fn add(&mut self, line: &[u8]) {
        let parsed = serde_json::from_slice(line)
            .map_err(|error| format!("not JSON ({error}): {}", String::from_utf8_lossy(line)));
        match parsed.and_then(|line: Value| validate(&line).map(|()| line)) {
            Ok(line) if self.lines.len() < MAX_LINES => self.lines.push(line),
            Ok(_) => self.faults = vec![format!("more than {MAX_LINES} lines")],
            Err(fault) if self.faults.len() < TAIL => self.faults.push(fault),
            Err(_) => {}
        }
    }

    fn tail(&self) -> String {
        let start = self.lines.len().saturating_sub(TAIL);
        self.lines[start..]
            .iter()
            .map(Value::to_string)
            .chain(self.faults.iter().map(|fault| format!("INVALID: {fault}")))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Checks a line against the schema in the repository. Without it no line is taken for valid: it panics.
///
/// # Errors
/// Each fault, with the place it is at and the line.
pub fn validate(line: &Value) -> Result<(), String> {
    static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
        let schema = serde_json::from_str(SCHEMA).expect("the schema is JSON");
        // Else what a format names, such as an address or a time, would be any text.
        let options = jsonschema::options().should_validate_formats(true);
        options.build(&schema).expect("the schema is one")
    });
    let faults = VALIDATOR.iter_errors(line);
    let faults = faults.map(|error| format!("{}: {error}", error.instance_path));
    let faults: Vec<_> = faults.collect();
    if faults.is_empty() {
        Ok(())
    } else {
        Err(format!("{}: {line}", faults.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    const LINE: &str = r#"{"@timestamp":"2026-01-01T00:00:00.000Z","log.level":"info","message":"x","ecs.version":"8.17.0","log.logger":"test"}"#;

    fn collected(text: String) -> Log {
        let mut log = Log::collect(Cursor::new(text));
        log.finish();
        log
    }

    #[test]
    fn a_line_is_found_from_its_place_on() {
        let log = collected(format!("{LINE}\n{LINE}\n"));
        assert_eq!((log.len(), log.is_empty()), (2, false));
        log.wait_from(1, |line| line["message"] == "x", Duration::ZERO);
        let late = catch_unwind(AssertUnwindSafe(|| {
            log.wait_from(2, |_| true, Duration::from_secs(60))
        }));
        assert!(late.is_err(), "an ended log is not waited for");
        assert_eq!(log.lines().len(), 2, "the log can be read after that");
        log.check();
    }

    #[test]
    fn a_line_that_is_not_json_fails_the_test() {
        let log = collected(format!("{LINE}\nhello\n"));
        let check = catch_unwind(AssertUnwindSafe(|| log.check()));
        assert!(check.is_err());
        assert!(
            log.tail()
                .ends_with("INVALID: not JSON (expected value at line 1 column 1): hello")
        );
    }

    #[test]
    fn a_line_without_its_time_is_invalid() {
        let line: Value = serde_json::from_str(LINE).unwrap();
        validate(&line).unwrap();
        let mut timeless = line.clone();
        timeless.as_object_mut().unwrap().remove("@timestamp");
        let fault = validate(&timeless).unwrap_err();
        assert!(fault.contains("@timestamp"), "{fault}");
    }
}
