//! `packetwatch bans`.

use super::{
    Asking,
    client::{Client, path_of},
    lists::{Pages, Selection},
    output::{Format, Out, number, table, until, when},
};
use crate::api::{Ban, BanPage};

#[derive(Debug, clap::Args)]
pub(super) struct BansArgs {
    #[command(subcommand)]
    command: Option<BansCommand>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Subcommand)]
enum BansCommand {
    /// Show the bans in force; what `packetwatch bans` alone does
    List(Selection),
    /// End a ban and forget its repeats
    Remove {
        /// The prefix of the ban, as `packetwatch bans` shows it
        prefix: String,
    },
}

pub(super) async fn run(args: BansArgs) -> anyhow::Result<()> {
    let (client, mut out) = args.asking.open()?;
    let command = args.command;
    match command.unwrap_or_else(|| BansCommand::List(Selection::default())) {
        BansCommand::List(selection) => show(&client, &mut out, &selection).await?,
        BansCommand::Remove { prefix } => {
            client.delete(&path_of("/v1/bans", &prefix)).await?;
            eprintln!("the ban of {prefix} has ended");
        }
    }
    out.flush()
}

async fn show(client: &Client, out: &mut Out, selection: &Selection) -> anyhow::Result<()> {
    let mut pages = Pages::new("/v1/bans".to_owned(), selection);
    let mut entries = Vec::new();
    while let Some(path) = pages.path() {
        let page: BanPage = client.get(&path).await?;
        pages.turn(page.entries.len(), page.next);
        if out.format == Format::Jsonl {
            page.entries.iter().try_for_each(|ban| out.json(ban))?;
        } else {
            entries.extend(page.entries);
        }
    }
    match out.format {
        Format::Jsonl => Ok(()),
        Format::Json => out.json(&BanPage {
            entries,
            next: pages.stopped_at(),
        }),
        Format::Table => match ban_table(&entries) {
            Some(table) => out.line(&table),
            None => {
                eprintln!("nobody is banned");
                Ok(())
            }
        },
    }
}

fn ban_table(bans: &[Ban]) -> Option<String> {
    let heads = [
        "PREFIX", "RULE", "TIMES", "SINCE", "UNTIL", "DROPPED", "REASON",
    ];
    let rows = bans.iter().map(|ban| {
        vec![
            ban.prefix.to_string(),
            ban.source.clone(),
            ban.repeat.to_string(),
            when(ban.created_at),
            until(ban.expires_at),
            number(ban.packets),
            ban.reason.clone(),
        ]
    });
    table(&heads, rows)
}
