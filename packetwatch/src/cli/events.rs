//! `packetwatch events`: the event stream, line by line.

use std::time::Duration;

use anyhow::bail;

use super::{
    client::{Client, Connection},
    output::{Closed, Format, Out},
};

/// A line of the log is far shorter; a stream without line ends is no event stream.
const MAX_LINE: usize = 64 * 1024;
/// Between attempts to reach a daemon that restarts.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct EventsArgs {
    /// Go on when the daemon restarts, until interrupted
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: EventsArgs) -> anyhow::Result<()> {
    let EventsArgs { follow, connection } = args;
    let client = Client::new(connection)?;
    let mut out = Out::new(Format::Jsonl);
    // The first attempt shows whether there is a daemon at all.
    print(&client, &mut out).await?;
    if !follow {
        return Ok(());
    }
    loop {
        eprintln!("the stream has ended: waiting for the daemon");
        reopened(&client, &mut out).await?;
    }
}

/// Asks until a stream was there and has ended again; only a closed stdout ends it otherwise.
async fn reopened(client: &Client, out: &mut Out) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(AGAIN).await;
        match print(client, out).await {
            Err(error) if error.is::<Closed>() => return Err(error),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
}

async fn print(client: &Client, out: &mut Out) -> anyhow::Result<()> {
    let mut stream = client.stream("/v1/events").await?;
    let mut lines = Lines::default();
    loop {
        let chunk = stream.chunk().await;
        let Some(chunk) = chunk.map_err(|error| client.broken(&error))? else {
            return Ok(());
        };
        for data in lines.push(&chunk)? {
            out.line(&data)?;
        }
        out.flush()?;
    }
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
    fn a_line_without_an_end_is_given_up() {
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; MAX_LINE]).is_ok());
        assert!(lines.push(b"x").is_err());
    }
}
