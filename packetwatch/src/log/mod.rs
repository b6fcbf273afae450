//! The daemon's log: one line an event, in the names of the Elastic Common Schema.
//!
//! ```text
//!  tracing event ─► ecs (one line, at most 16 KiB) ─► writer (bounded queue, own thread) ─► stdout
//!                                   └─► events: lines with an event.action, for /v1/events
//! ```
//!
//! What a line may hold is in `schemas/log-line.schema.json`. Code that logs uses `tracing` alone:
//! `info!(target: log::EVENT, { event.action = "unban", packetwatch.prefix = %prefix }, "...")`;
//! with a target, dotted fields need the braces. The fields of a span with the target [`EVENT`]
//! are added to the events within it: so the API says on whose order something was done. What looks
//! like a token is masked in every value.

mod action;
mod call;
mod ecs;
mod events;
mod fields;
mod line;
mod order;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::{io, os::fd::AsFd as _, sync::Arc, time::Duration};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

pub use call::{call, suppressed};
use ecs::Ecs;
use events::Events;
pub use events::RECENT_LINES;
use writer::Queue;

/// The target of lines that carry an `event.action`. They are what the daemon is for, so they are
/// written at every log level unless the filter names this target.
pub const EVENT: &str = "packetwatch::event";

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// one JSON object a line
    #[default]
    Json,
    /// `TIME LEVEL MESSAGE KEY=VALUE...`, for people
    Text,
}

#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(
        "log filter `{filter}`: {source}; it is a level (error, warn, info, debug, trace) \
         or a list such as `info,packetwatch::api=debug`"
    )]
    Filter {
        filter: String,
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("duplicate standard output for the log: {0}")]
    Stdout(#[source] io::Error),
    #[error("start the log's writer thread: {0}")]
    Thread(#[source] io::Error),
    #[error("the log was set up twice in this process: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends what is logged from here on, by `tracing` or by the `log` crate, to standard output.
///
/// `filter` is a level or a list of `target=level`.
pub fn init(format: LogFormat, filter: &str) -> Result<LogHandle, InitError> {
    let mut levels = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| InitError::Filter {
            filter: filter.to_owned(),
            source,
        })?;
    if !filter.contains(EVENT) {
        let always = format!("{EVENT}=info");
        levels = levels.add_directive(always.parse().expect("a target and a level"));
    }
    // A duplicate instead of `io::stdout()`: that one flushes at every newline, a system call a line.
    let stdout = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map_err(InitError::Stdout)?;
    let handle = LogHandle::new(std::fs::File::from(stdout), format).map_err(InitError::Thread)?;
    tracing_subscriber::registry()
        .with(handle.layer(format).with_filter(levels))
        .try_init()?;
    Ok(handle)
}

/// Whether a filter lets the program's own lines of level debug through, before there is a log.
pub fn is_debug(filter: &str) -> bool {
    let targets = filter.parse::<Targets>();
    targets.is_ok_and(|targets| targets.would_enable("packetwatch", &tracing::Level::DEBUG))
}

/// The log as the rest of the daemon sees it. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    queue: Queue,
    events: Events,
}

impl LogHandle {
    fn new(sink: impl io::Write + Send + 'static, format: LogFormat) -> io::Result<Self> {
        Ok(Self {
            queue: writer::spawn(sink, format)?,
            events: Events::new(),
        })
    }

    fn layer(&self, format: LogFormat) -> Ecs {
        Ecs::new(format, self.queue.clone(), self.events.clone())
    }

    /// Lines with an `event.action`, as JSON whatever the log's format, without the newline: those
    /// of late, at most [`RECENT_LINES`] and 1 MiB of them, and those from now on. A subscriber
    /// that lags by more than 1024 lines loses the oldest.
    pub fn subscribe(&self) -> (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        self.events.subscribe()
    }

    /// Lines that were not written since the start: the queue was full, or standard output refused
    /// them.
    pub fn lost(&self) -> u64 {
        self.queue.lost()
    }

    /// Waits until what was logged before is written, at most `limit`; false if that was too short.
    /// It blocks: for the end of `main`, outside the runtime.
    pub fn flush(&self, limit: Duration) -> bool {
        self.queue.flush(limit)
    }
}
