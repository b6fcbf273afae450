//! `packetwatch backup` and `packetwatch restore`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use reqwest::Method;

use super::{Asking, client::Client, input, output::Format, trials};
use crate::api::RestoreAnswer;

/// As much as the daemon takes.
const MAX_FILE: u64 = 128 * 1024 * 1024;
/// How the last line begins, without which a backup is not whole.
const END: &[u8] = b"{\"kind\":\"end\"";
/// Longer than that line.
const TAIL: usize = 256;

#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// File to write, which only its owner may read [default: stdout]
    file: Option<PathBuf>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// What `packetwatch backup` has written; - for stdin
    file: PathBuf,
    /// Restore also what cuts off a session, an API client or whoever asks
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn backup(args: BackupArgs) -> anyhow::Result<()> {
    let (client, _) = args.asking.open()?;
    let Some(file) = args.file else {
        return read(&client, &mut io::stdout().lock()).await;
    };
    // A backup that breaks off leaves the one before as it was.
    let mut aside = file.clone().into_os_string();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let name = |doing: &str| format!("{doing} {}", file.display());
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut written = options.open(&aside).with_context(|| name("write"))?;
    let whole = read(&client, &mut written).await;
    let whole = whole.and_then(|()| Ok(written.sync_all()?));
    if let Err(error) = whole {
        let _ = fs::remove_file(&aside);
        return Err(error.context(name("write")));
    }
    fs::rename(&aside, &file).with_context(|| name("write"))?;
    eprintln!("wrote {}", file.display());
    Ok(())
}

/// Copies piece by piece; what lacks its end is an error.
async fn read(client: &Client, to: &mut dyn Write) -> anyhow::Result<()> {
    let mut response = client.stream("/v1/backup").await?;
    let mut tail: Vec<u8> = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| client.broken(&e))? {
        to.write_all(&piece)?;
        tail.extend_from_slice(&piece[piece.len().saturating_sub(TAIL)..]);
        tail.drain(..tail.len().saturating_sub(TAIL));
    }
    to.flush()?;
    let lines = tail.strip_suffix(b"\n").unwrap_or_default();
    let last = lines.rsplit(|byte| *byte == b'\n').next();
    if !last.is_some_and(|line| line.starts_with(END)) {
        bail!("the backup broke off before its last line: see the daemon's log and repeat it");
    }
    Ok(())
}

pub(super) async fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let (client, mut out) = args.asking.open()?;
    let body = input::read(&args.file, MAX_FILE, ", more than the daemon takes")?;
    let path = match args.force {
        true => "/v1/restore?force=true",
        false => "/v1/restore",
    };
    let answer: RestoreAnswer = client
        .send_text(Method::POST, path, body, "application/jsonl")
        .await?;
    trials::warn(&answer.would_drop);
    match out.format {
        Format::Json | Format::Jsonl => out.json(&answer)?,
        Format::Table => {
            let RestoreAnswer {
                allow,
                deny,
                bans,
                ended,
                rules_from,
                mode,
                would_drop: _,
            } = &answer;
            out.line(&format!(
                "{allow} allowed, {deny} denied, {bans} banned; {ended} have ended since"
            ))?;
            out.line(&format!("mode {mode}, rules from {rules_from}"))?;
        }
    }
    out.flush()
}
