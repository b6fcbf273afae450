//! Data on stdout: a table for people, JSON for programs.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use thiserror::Error;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The form of what a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Text for people
    Table,
    /// One JSON document, as the API answers
    Json,
    /// One JSON object a line
    Jsonl,
}

/// `--output`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct OutputArgs {
    /// Form of the output [default: table on a terminal, else json]
    #[arg(long, value_name = "FORM", value_enum, global = true)]
    output: Option<Format>,
}

impl OutputArgs {
    /// What was asked for, or what fits stdout.
    pub(super) fn format(self) -> Format {
        let fitting = || match io::stdout().is_terminal() {
            true => Format::Table,
            false => Format::Json,
        };
        self.output.unwrap_or_else(fitting)
    }
}

/// Nobody reads stdout any more, as in `| head`: a reason to stop, and no failure.
#[derive(Debug, Error)]
#[error("stdout is closed")]
pub(super) struct Closed;

/// Buffered stdout. What could not be written is an error, a closed pipe is [`Closed`].
pub(super) struct Out {
    stdout: BufWriter<StdoutLock<'static>>,
    pub format: Format,
}

impl Out {
    pub(super) fn new(format: Format) -> Self {
        Self {
            stdout: BufWriter::new(io::stdout().lock()),
            format,
        }
    }

    pub(super) fn line(&mut self, line: &str) -> anyhow::Result<()> {
        written(self.stdout.write_all(line.as_bytes()))?;
        written(self.stdout.write_all(b"\n"))
    }

    /// One document, indented where a person looks on.
    pub(super) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = match self.format == Format::Json && io::stdout().is_terminal() {
            true => serde_json::to_string_pretty(value)?,
            false => serde_json::to_string(value)?,
        };
        self.line(&text)
    }

    /// Must be called at the end, or what failed late is not told.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        written(self.stdout.flush())
    }
}

fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        other => other.context("cannot write to stdout"),
    }
}

/// Columns without lines around them; nothing at all for no rows.
pub(super) fn table(heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Option<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads);
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.to_string();
    let lines = lines.lines().map(str::trim_end);
    (!table.is_empty()).then(|| lines.collect::<Vec<_>>().join("\n"))
}

/// To the second, as `2026-11-22T02:17:06Z`.
pub(super) fn when(at: OffsetDateTime) -> String {
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_else(|_| whole.to_string())
}

/// A deadline; what has none stays.
pub(super) fn until(at: Option<OffsetDateTime>) -> String {
    at.map_or_else(|| "forever".to_owned(), when)
}

/// A number that may be unknown.
pub(super) fn number(n: Option<u64>) -> String {
    n.map_or_else(|| "-".to_owned(), |n| n.to_string())
}

/// Octets in the largest unit that leaves at least one.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (bytes.max(1).ilog2() / 10).min(4);
    match step {
        0 => format!("{bytes} B"),
        step => format!(
            "{:.1} {}",
            bytes as f64 / f64::from(1024_u32).powi(step as i32),
            UNITS[step as usize]
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_heads_and_straight_columns() {
        let rows = [
            vec!["198.51.100.7/32".to_owned(), "7".to_owned()],
            vec!["::/0".to_owned(), "12".to_owned()],
        ];
        let expected = "PREFIX           N\n198.51.100.7/32  7\n::/0             12";
        assert_eq!(table(&["PREFIX", "N"], rows).as_deref(), Some(expected));
        assert_eq!(table(&["PREFIX"], []), None);
    }

    #[test]
    fn sizes_are_short() {
        let shown = [0, 1023, 1024, 1536, 5 << 20, u64::MAX].map(size);
        assert_eq!(
            shown,
            [
                "0 B",
                "1023 B",
                "1.0 KiB",
                "1.5 KiB",
                "5.0 MiB",
                "16777216.0 TiB"
            ]
        );
    }

    #[test]
    fn times_are_to_the_second() {
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(1_500);
        assert_eq!(when(at), "1970-01-01T00:00:01Z");
        assert_eq!(until(None), "forever");
    }
}
