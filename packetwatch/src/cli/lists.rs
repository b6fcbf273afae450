//! `packetwatch allow` and `packetwatch deny`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use reqwest::Method;

use super::{
    Asking,
    client::{Client, path_of},
    input,
    output::{Format, Out, number, table, until, when},
    trials::{ConfirmArgs, tell},
};
use crate::api::{
    Change, EntryBody, ListEntry, ListPage, MAX_LIMIT, Removed, WrittenEntry, time_to_live,
};

/// As much as the daemon takes.
const MAX_FILE: u64 = 96 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(subcommand)]
    command: ListCommand,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Subcommand)]
enum ListCommand {
    /// Add a prefix, or change its entry
    Add {
        /// An address or prefix, as 198.51.100.7 or 2001:db8::/32
        prefix: String,
        /// How long, 1s to 10y [default: it stays]
        #[arg(long, value_name = "TIME", value_parser = ttl)]
        ttl: Option<String>,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Even if the address is protected; only a deny is ever refused for that
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Remove a prefix
    Remove {
        /// The prefix as it was added
        prefix: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Show the list
    List(Selection),
    /// Add every prefix of a file, all or nothing
    Load {
        /// Text with one prefix a line, or a JSON array; - for stdin
        file: PathBuf,
        /// Replace the list by the file in one step; an empty file empties it
        #[arg(long)]
        replace: bool,
        /// Leave bad lines out instead of refusing the file
        #[arg(long)]
        partial: bool,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

/// Which entries.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Selection {
    /// Entries at most [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Only entries that cover this address
    #[arg(long, value_name = "ADDRESS")]
    pub contains: Option<String>,
}

fn ttl(text: &str) -> Result<String, String> {
    time_to_live(text).map(|_| text.to_owned())
}

pub(super) async fn run(list: &'static str, args: ListArgs) -> anyhow::Result<()> {
    let (client, mut out) = args.asking.open()?;
    match args.command {
        ListCommand::Add {
            prefix,
            ttl,
            reason,
            force,
            confirm,
        } => {
            let body = EntryBody { reason, ttl };
            let mut path = path_of(&format!("/v1/{list}"), &prefix);
            if force && list == "deny" {
                path.push_str("?force=true");
            }
            add(&client, &mut out, list, &confirm.on(&path), &body).await?;
        }
        ListCommand::Remove { prefix, confirm } => {
            let path = confirm.on(&path_of(&format!("/v1/{list}"), &prefix));
            if confirm.is_asked() {
                let removed: Removed = client.ask(Method::DELETE, &path).await?;
                tell(&removed.would_drop, Some(&removed.pending));
            } else {
                client.delete(&path).await?;
            }
            eprintln!("removed {prefix} from the {list} list");
        }
        ListCommand::List(selection) => show(&client, &mut out, list, &selection).await?,
        ListCommand::Load {
            file,
            replace,
            partial,
            confirm,
        } => {
            let method = if replace { Method::PUT } else { Method::POST };
            let path = format!("/v1/{list}{}", if partial { "?partial=true" } else { "" });
            load(&client, &mut out, list, method, &file, &confirm.on(&path)).await?;
        }
    }
    out.flush()
}

async fn add(
    client: &Client,
    out: &mut Out,
    list: &str,
    path: &str,
    body: &EntryBody,
) -> anyhow::Result<()> {
    let entry: WrittenEntry = client.send(Method::PUT, path, body).await?;
    tell(&entry.would_drop, entry.pending.as_ref());
    if let Some(note) = &entry.note {
        eprintln!("{note}");
    }
    if out.format != Format::Table {
        return out.json(&entry);
    }
    let word = if list == "allow" { "allowed" } else { "denied" };
    let end = match entry.expires_at {
        Some(at) => format!(" until {}", when(at)),
        None => String::new(),
    };
    out.line(&format!("{} is {word}{end}", entry.prefix))?;
    for prefix in &entry.carved_out {
        out.line(&format!("except {prefix}, which is allowed"))?;
    }
    Ok(())
}

async fn show(
    client: &Client,
    out: &mut Out,
    list: &str,
    selection: &Selection,
) -> anyhow::Result<()> {
    let mut pages = Pages::new(format!("/v1/{list}"), selection);
    let mut entries = Vec::new();
    while let Some(path) = pages.path() {
        let page: ListPage = client.get(&path).await?;
        pages.turn(page.entries.len(), page.next);
        if out.format == Format::Jsonl {
            page.entries.iter().try_for_each(|entry| out.json(entry))?;
        } else {
            entries.extend(page.entries);
        }
    }
    match out.format {
        Format::Jsonl => Ok(()),
        Format::Json => out.json(&ListPage {
            entries,
            next: pages.stopped_at(),
        }),
        Format::Table => match entry_table(&entries) {
            Some(table) => out.line(&table),
            None => {
                eprintln!("the {list} list is empty");
                Ok(())
            }
        },
    }
}

fn entry_table(entries: &[ListEntry]) -> Option<String> {
    let heads = ["PREFIX", "SOURCE", "SINCE", "UNTIL", "PACKETS", "REASON"];
    let rows = entries.iter().map(|entry| {
        vec![
            entry.prefix.to_string(),
            entry.source.clone(),
            when(entry.created_at),
            until(entry.expires_at),
            number(entry.packets),
            entry.reason.clone().unwrap_or_default(),
        ]
    });
    table(&heads, rows)
}

async fn load(
    client: &Client,
    out: &mut Out,
    list: &str,
    method: Method,
    file: &Path,
    path: &str,
) -> anyhow::Result<()> {
    let mut body = input::read(file, MAX_FILE, ": load it in parts")?;
    // As of a pipe whose first command failed.
    let nothing = body.iter().all(u8::is_ascii_whitespace);
    if nothing && method == Method::PUT && file == Path::new("-") {
        bail!("nothing came from stdin: to empty the {list} list, load an empty file by its name");
    }
    if nothing {
        // The daemon takes no text without a line either.
        body = b"[]".to_vec();
    }
    let media = match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[' | b'{') => "application/json",
        _ => "text/plain",
    };
    let change: Change = client.send_text(method, path, body, media).await?;
    tell(&change.would_drop, change.pending.as_ref());
    if let Some(note) = &change.note {
        eprintln!("{note}");
    }
    if change.added + change.updated == 0 && change.removed > Some(0) {
        eprintln!("the {list} list is empty now");
    }
    for fault in &change.errors {
        let place = fault
            .line
            .or(fault.index.map(|index| index + 1))
            .unwrap_or(0);
        eprintln!("left out {place}: {}", fault.detail);
    }
    if out.format != Format::Table {
        return out.json(&change);
    }
    let mut told = format!("{} added, {} updated", change.added, change.updated);
    if let Some(removed) = change.removed {
        told.push_str(&format!(", {removed} removed"));
    }
    if let Some(refused) = change.refused {
        told.push_str(&format!(", {refused} left out"));
    }
    out.line(&told)
}

/// Walks through a list page by page, up to the limit.
pub(super) struct Pages {
    base: String,
    left: u64,
    cursor: Option<String>,
    done: bool,
}

impl Pages {
    pub(super) fn new(base: String, selection: &Selection) -> Self {
        let contains = selection.contains.as_deref();
        let contains = contains.map(|address| format!("&contains={}", escaped(address)));
        Self {
            base: format!(
                "{base}?{}",
                contains.unwrap_or_default().trim_start_matches('&')
            ),
            left: selection.limit.unwrap_or(u64::MAX),
            cursor: None,
            done: false,
        }
    }

    /// The next page to ask for.
    pub(super) fn path(&self) -> Option<String> {
        if self.done || self.left == 0 {
            return None;
        }
        let Self { base, left, .. } = self;
        let joint = if base.ends_with('?') { "" } else { "&" };
        let limit = (*left).min(MAX_LIMIT as u64);
        let cursor = self
            .cursor
            .as_deref()
            .map(|cursor| format!("&cursor={}", escaped(cursor)));
        Some(format!(
            "{base}{joint}limit={limit}{}",
            cursor.unwrap_or_default()
        ))
    }

    /// Goes on behind a page of so many entries.
    pub(super) fn turn(&mut self, entries: usize, next: Option<String>) {
        self.left = self.left.saturating_sub(entries as u64);
        // An empty page that promises more would have us ask for ever.
        self.done = next.is_none() || entries == 0;
        self.cursor = next;
    }

    /// Where the walk stopped short of the end.
    pub(super) fn stopped_at(self) -> Option<String> {
        self.cursor
    }
}

fn escaped(text: &str) -> String {
    path_of("", text).split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(limit: Option<u64>, contains: Option<&str>) -> Pages {
        let contains = contains.map(str::to_owned);
        Pages::new("/v1/allow".to_owned(), &Selection { limit, contains })
    }

    #[test]
    fn all_pages_are_walked() {
        let mut pages = pages(None, Some("2001:db8::1"));
        let first = "/v1/allow?contains=2001:db8::1&limit=10000";
        assert_eq!(pages.path().as_deref(), Some(first));
        pages.turn(10_000, Some("a/b".to_owned()));
        assert_eq!(pages.path(), Some(format!("{first}&cursor=a%2Fb")));
        pages.turn(5, None);
        assert_eq!((pages.path(), pages.stopped_at()), (None, None));
    }

    #[test]
    fn a_limit_ends_the_walk_and_keeps_the_cursor() {
        let mut pages = pages(Some(10_005), None);
        assert_eq!(pages.path().as_deref(), Some("/v1/allow?limit=10000"));
        pages.turn(10_000, Some("x".to_owned()));
        assert_eq!(pages.path().as_deref(), Some("/v1/allow?limit=5&cursor=x"));
        pages.turn(5, Some("y".to_owned()));
        assert_eq!(
            (pages.path(), pages.stopped_at().as_deref()),
            (None, Some("y"))
        );
    }

    #[test]
    fn an_empty_page_ends_the_walk() {
        let mut pages = pages(None, None);
        pages.turn(0, Some("x".to_owned()));
        assert_eq!(pages.path(), None);
    }
}
