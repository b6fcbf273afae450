//! What the layer writes, against the schema; and what the writer does when its output fails.

mod calls;
mod ecs;
mod init;
mod lines;
mod output;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt as _;

use super::{LogFormat, LogHandle};

const SCHEMA: &str = include_str!("../../../../schemas/log-line.schema.json");
const PROMPT: Duration = Duration::from_secs(10);

/// Keeps what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that `speak` leaves behind.
fn lines_of(format: LogFormat, speak: impl FnOnce()) -> Vec<String> {
    let kept = Kept::default();
    let log = LogHandle::new(kept.clone(), format).unwrap();
    let subscriber = tracing_subscriber::registry().with(log.layer(format));
    tracing::subscriber::with_default(subscriber, speak);
    assert!(log.flush(PROMPT));
    assert_eq!(log.lost(), 0);
    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The valid lines that `speak` leaves behind.
pub(crate) fn events_of(speak: impl FnOnce()) -> Vec<Value> {
    let lines = lines_of(LogFormat::Json, speak);
    let lines = lines.iter().map(|line| serde_json::from_str(line).unwrap());
    lines.inspect(assert_valid).collect()
}

/// The only line of `speak`, which is valid.
fn line_of(speak: impl FnOnce()) -> Value {
    let lines = lines_of(LogFormat::Json, speak);
    let [line] = lines.as_slice() else {
        panic!("not one line: {lines:#?}");
    };
    let line = serde_json::from_str(line).unwrap();
    assert_valid(&line);
    line
}

fn violations(line: &Value) -> Vec<String> {
    let schema = serde_json::from_str(SCHEMA).unwrap();
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .unwrap();
    validator
        .iter_errors(line)
        .map(|error| error.to_string())
        .collect()
}

fn assert_valid(line: &Value) {
    let violations = violations(line);
    assert!(violations.is_empty(), "{line:#}\n{violations:#?}");
}
