//! `packetwatch events`: what has happened of late, and what happens.

use std::time::Duration;

use anyhow::bail;
use reqwest::Response;
use serde_json::Value;

use super::{
    Asking,
    client::Client,
    output::{Closed, Format, Out},
};
use crate::log::RECENT_LINES;

/// A line of the log is far shorter; a stream without line ends is no event stream.
const MAX_LINE: usize = 64 * 1024;
/// Between attempts to reach a daemon that restarts.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct EventsArgs {
    /// Go on with the events as they happen, also when the daemon restarts, until interrupted
    #[arg(long)]
    follow: bool,
    /// Recent events at most
    #[arg(long, value_name = "N", default_value_t = RECENT_LINES as u64,
        value_parser = clap::value_parser!(u64).range(0..=RECENT_LINES as u64))]
    limit: u64,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn run(args: EventsArgs) -> anyhow::Result<()> {
    let EventsArgs {
        follow,
        limit,
        asking,
    } = args;
    let (client, mut out) = asking.open()?;
    let path = format!("/v1/events?recent={limit}&follow={follow}");
    // The first attempt shows whether there is a daemon at all.
    let stream = client.stream(&path).await?;
    let printed = print(&client, stream, &mut out).await;
    if !follow {
        return printed;
    }
    let mut ended = printed;
    loop {
        match ended {
            Err(error) if error.is::<Closed>() => return Err(error),
            Err(error) => eprintln!("{error}: waiting for the daemon"),
            Ok(()) => eprintln!("the stream has ended: waiting for the daemon"),
        }
        // What a daemon that has come anew did before it was asked is part of the story.
        let again = format!("/v1/events?recent={RECENT_LINES}");
        let stream = reopened(&client, &again).await;
        ended = print(&client, stream, &mut out).await;
    }
}

async fn reopened(client: &Client, path: &str) -> Response {
    loop {
        tokio::time::sleep(AGAIN).await;
        if let Ok(stream) = client.stream(path).await {
            return stream;
        }
    }
}

async fn print(client: &Client, mut stream: Response, out: &mut Out) -> anyhow::Result<()> {
    let mut lines = Lines::default();
    loop {
        let chunk = stream.chunk().await;
        let Some(chunk) = chunk.map_err(|error| client.broken(&error))? else {
            return Ok(());
        };
        for data in lines.push(&chunk)? {
            match out.format {
                Format::Table => out.line(&sentence(&data))?,
                Format::Json | Format::Jsonl => out.line(&data)?,
            }
        }
        out.flush()?;
    }
}

/// An event for people: when, what, and the words of the log.
fn sentence(data: &str) -> String {
    let event: Value = serde_json::from_str(data).unwrap_or_default();
    let text = |key: &str| event[key].as_str();
    let (Some(at), Some(action), Some(message)) =
        (text("@timestamp"), text("event.action"), text("message"))
    else {
        return match &event["lost"] {
            Value::Number(lost) => format!("{lost} events are missing: this reader was too slow"),
            _ => data.to_owned(),
        };
    };
    let whole = at.split('.').next().unwrap_or(at).trim_end_matches('Z');
    let line = format!("{whole}Z  {action:<17}  {message}");
    // A terminal is not to take orders from what somebody has called his interface.
    line.replace(char::is_control, "\u{fffd}")
}

/// Cuts a stream of server-sent events into what their data lines hold.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, chunk: &[u8]) -> anyhow::Result<Vec<String>> {
        self.rest.extend_from_slice(chunk);
        let mut found = Vec::new();
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.rest[start..start + length]);
            found.extend(line.strip_prefix("data: ").map(str::to_owned));
            start += length + 1;
        }
        self.rest.drain(..start);
        if self.rest.len() > MAX_LINE {
            bail!("the answer is no stream of events: a line is longer than {MAX_LINE} bytes");
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_stream_is_cut() {
        let stream = b": keep-alive\n\ndata: {\"a\":1}\n\nevent: lost\ndata: {\"lost\":3}\n\n";
        for size in 1..=stream.len() {
            let mut lines = Lines::default();
            let found = stream
                .chunks(size)
                .flat_map(|chunk| lines.push(chunk).unwrap());
            assert_eq!(
                found.collect::<Vec<_>>(),
                ["{\"a\":1}", "{\"lost\":3}"],
                "{size}"
            );
        }
    }

    #[test]
    fn a_person_reads_when_and_what() {
        let event = r#"{"@timestamp":"2026-11-22T03:23:10.115215Z","event.action":"ban",
            "message":"198.18.0.66/32\u001b[2J banned"}"#;
        let expected = "2026-11-22T03:23:10Z  ban                198.18.0.66/32\u{fffd}[2J banned";
        assert_eq!(sentence(event), expected);
        assert!(sentence(r#"{"lost":3}"#).starts_with("3 events are missing"));
        assert_eq!(sentence("not JSON"), "not JSON");
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; MAX_LINE]).is_ok());
        assert!(lines.push(b"x").is_err());
    }
}
