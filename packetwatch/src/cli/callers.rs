//! `packetwatch callers`.

use super::{
    Asking,
    output::{Format, size, table, when},
};
use crate::api::{CallerState, Callers, MAX_LIMIT, Sort};

#[derive(Debug, clap::Args)]
pub(super) struct CallersArgs {
    /// What they are sorted by
    #[arg(long, value_name = "BY", value_enum, default_value = "connections")]
    sort: Sort,
    /// Callers at most
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(1..=MAX_LIMIT as u64))]
    limit: u64,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn run(args: CallersArgs) -> anyhow::Result<()> {
    let (client, mut out) = args.asking.open()?;
    let path = format!(
        "/v1/callers?sort={}&limit={}",
        args.sort.as_str(),
        args.limit
    );
    let answer: Callers = client.get(&path).await?;
    match out.format {
        Format::Json => out.json(&answer)?,
        Format::Jsonl => answer
            .callers
            .iter()
            .try_for_each(|caller| out.json(caller))?,
        Format::Table => match caller_table(&answer) {
            Some(table) => out.line(&table)?,
            None => eprintln!("nobody has called yet"),
        },
    }
    out.flush()
}

fn caller_table(Callers { callers, mode }: &Callers) -> Option<String> {
    let dropped = match mode.as_str() {
        "observe" => "WOULD DROP",
        _ => "DROPPED",
    };
    let heads = [
        "PREFIX",
        "CALLS",
        "PORTS",
        "PACKETS",
        "BYTES",
        dropped,
        "LAST SEEN",
        "STATE",
    ];
    let rows = callers.iter().map(|caller| {
        let state = match caller.state {
            CallerState::Counted => "counted",
            CallerState::OverThreshold => "over-threshold",
            CallerState::Limited => "limited",
            CallerState::Banned => "banned",
            CallerState::Allowed => "allowed",
        };
        let rule = caller.rule.as_ref().map(|rule| format!(" ({rule})"));
        vec![
            caller.prefix.to_string(),
            caller.connections.to_string(),
            caller.distinct_ports.to_string(),
            caller.packets.to_string(),
            size(caller.bytes),
            caller.dropped.to_string(),
            when(caller.last_seen),
            format!("{state}{}", rule.unwrap_or_default()),
        ]
    });
    table(&heads, rows)
}
