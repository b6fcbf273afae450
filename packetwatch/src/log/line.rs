//! One log line under construction, in either format, within its bounds.

use std::fmt::{self, Display, Write as _};

use time::OffsetDateTime;
use tracing::Level;

use super::LogFormat;
use crate::tokens;

/// Bytes of a line with its newline. Docker's json-file driver splits lines at 16 KiB.
pub(super) const LINE_MAX: usize = 16 * 1024;

/// Bytes of one value as written. A quarter of the line, so that a long message leaves room for the
/// fields that say what it is about.
pub(super) const VALUE_MAX: usize = LINE_MAX / 4;

const TRUNCATED: &str = "packetwatch.truncated";

/// What the end of a line takes: a closing quote, [`TRUNCATED`], a brace, the newline.
const CLOSING: usize = TRUNCATED.len() + 16;

/// The longest number: an i128.
const NUMBER: usize = 40;

pub(super) struct Line<'a> {
    text: &'a mut String,
    format: LogFormat,
    truncated: bool,
}

impl<'a> Line<'a> {
    /// `text` is cleared; its capacity is kept.
    pub(super) fn start(
        text: &'a mut String,
        format: LogFormat,
        at: OffsetDateTime,
        level: Level,
    ) -> Self {
        text.clear();
        match format {
            LogFormat::Json => {
                text.push_str(r#"{"@timestamp":""#);
                write_time(text, at);
                text.push_str(r#"","log.level":""#);
                text.push_str(match level {
                    Level::ERROR => "error",
                    Level::WARN => "warn",
                    Level::INFO => "info",
                    Level::DEBUG => "debug",
                    Level::TRACE => "trace",
                });
                text.push('"');
            }
            LogFormat::Text => {
                write_time(text, at);
                let _ = write!(text, " {level:<5}");
            }
        }
        Self {
            text,
            format,
            truncated: false,
        }
    }

    pub(super) fn message(&mut self, message: impl Display) {
        match self.format {
            LogFormat::Json => self.string("message", message),
            LogFormat::Text => {
                self.text.push(' ');
                self.escaped(message, false);
            }
        }
    }

    /// A field whose value is text. `key` holds no character that JSON escapes.
    pub(super) fn string(&mut self, key: &str, value: impl Display) {
        if !self.key(key) {
            return;
        }
        match self.format {
            LogFormat::Json => {
                self.text.push('"');
                self.escaped(value, true);
                self.text.push('"');
            }
            LogFormat::Text => {
                let start = self.text.len();
                self.escaped(value, true);
                let written = &self.text[start..];
                if written.is_empty() || written.contains([' ', '=', '\\']) {
                    self.text.insert(start, '"');
                    self.text.push('"');
                }
            }
        }
    }

    /// A field whose value is a number or a boolean, at most [`NUMBER`] bytes.
    pub(super) fn bare(&mut self, key: &str, value: impl Display) {
        if self.key(key) {
            let _ = write!(self.text, "{value}");
        }
    }

    /// A field whose value is a list of words that need no escape.
    pub(super) fn words(&mut self, key: &str, words: &[&str]) {
        if self.key(key) {
            let _ = write!(self.text, "{words:?}");
        }
    }

    pub(super) fn finish(mut self) {
        if self.truncated {
            // Its room is kept free by `room`.
            self.separator(TRUNCATED);
            self.text.push_str("true");
        }
        if self.format == LogFormat::Json {
            self.text.push('}');
        }
        debug_assert!(self.text.len() < LINE_MAX);
    }

    /// Bytes left for fields.
    fn room(&self) -> usize {
        (LINE_MAX - CLOSING).saturating_sub(self.text.len())
    }

    fn key(&mut self, key: &str) -> bool {
        let fits = self.room() > key.len() + NUMBER;
        if fits {
            self.separator(key);
        } else {
            self.truncated = true;
        }
        fits
    }

    fn separator(&mut self, key: &str) {
        let (before, after) = match self.format {
            LogFormat::Json => (",\"", "\":"),
            LogFormat::Text => (" ", "="),
        };
        self.text.push_str(before);
        self.text.push_str(key);
        self.text.push_str(after);
    }

    /// Values may come from whoever asks: a token among them is masked.
    fn escaped(&mut self, value: impl Display, quotes: bool) {
        let start = self.text.len();
        // Two bytes of the room are the quotes.
        let end = self.text.len() + VALUE_MAX.min(self.room().saturating_sub(2));
        let mut escaped = Escaped {
            text: self.text,
            end,
            quotes,
            cut: false,
        };
        // An error means that the value was cut, or that its Display gave up; the line goes on.
        let failed = write!(escaped, "{value}").is_err();
        self.truncated |= escaped.cut || failed;
        tokens::mask(self.text, start);
    }
}

/// Writes text with what JSON and a terminal cannot take escaped, up to `end` and no byte further.
struct Escaped<'a> {
    text: &'a mut String,
    end: usize,
    quotes: bool,
    cut: bool,
}

impl Escaped<'_> {
    fn push(&mut self, piece: &str) -> fmt::Result {
        if self.text.len() + piece.len() <= self.end {
            self.text.push_str(piece);
            return Ok(());
        }
        self.cut = true;
        Err(fmt::Error)
    }

    /// As much of it as there is room for, in whole characters.
    fn push_plain(&mut self, run: &str) -> fmt::Result {
        let room = self.end - self.text.len();
        if run.len() <= room {
            self.text.push_str(run);
            return Ok(());
        }
        self.text.push_str(&run[..run.floor_char_boundary(room)]);
        self.cut = true;
        Err(fmt::Error)
    }
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, mut rest: &str) -> fmt::Result {
        let quotes = self.quotes;
        let special = |c: char| c.is_control() || (quotes && (c == '"' || c == '\\'));
        while let Some(at) = rest.find(special) {
            self.push_plain(&rest[..at])?;
            let c = rest[at..].chars().next().expect("found there");
            match c {
                '"' => self.push("\\\"")?,
                '\\' => self.push("\\\\")?,
                '\n' => self.push("\\n")?,
                '\r' => self.push("\\r")?,
                '\t' => self.push("\\t")?,
                // Control characters end at U+009F: four digits are enough.
                c => self.push(&format!("\\u{:04x}", u32::from(c)))?,
            }
            rest = &rest[at + c.len_utf8()..];
        }
        self.push_plain(rest)
    }
}

fn write_time(text: &mut String, at: OffsetDateTime) {
    let at = at.to_offset(time::UtcOffset::UTC);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, micro) = at.to_hms_micro();
    let month = u8::from(month);
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}Z"
    );
}
