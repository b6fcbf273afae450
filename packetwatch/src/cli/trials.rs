//! `packetwatch pending`, `confirm` and `rollback`, and `--confirm` of every command that changes
//! something.

use anyhow::{anyhow, bail};
use reqwest::Method;

use super::{
    Asking,
    client::{Client, path_of},
    output::{Format, table, when},
};
use crate::{
    api::{PendingChange, PendingChanges, WouldDrop},
    pending::time_to_confirm,
};

/// Of commands that change something.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ConfirmArgs {
    /// Take the change back after this time, 1s to 1h, unless `packetwatch confirm` comes first
    #[arg(long, value_name = "TIME", value_parser = checked)]
    confirm: Option<String>,
}

fn checked(text: &str) -> Result<String, String> {
    time_to_confirm(text).map(|_| text.to_owned())
}

impl ConfirmArgs {
    /// The path with the parameter behind it, if it is asked for.
    pub(super) fn on(&self, path: &str) -> String {
        let Some(confirm) = &self.confirm else {
            return path.to_owned();
        };
        let joint = if path.contains('?') { '&' } else { '?' };
        let confirm = path_of("", confirm).split_off(1);
        format!("{path}{joint}confirm={confirm}")
    }

    pub(super) fn is_asked(&self) -> bool {
        self.confirm.is_some()
    }
}

/// Says on stderr whom a change cuts off, and until when it waits.
pub(super) fn tell(would_drop: &[WouldDrop], pending: Option<&PendingChange>) {
    warnings(would_drop, pending)
        .iter()
        .for_each(|line| eprintln!("{line}"));
}

/// Says on stderr whom a change cuts off that is never on trial.
pub(super) fn warn(would_drop: &[WouldDrop]) {
    would_drop
        .iter()
        .for_each(|one| eprintln!("{}", warning(one)));
}

fn warnings(would_drop: &[WouldDrop], pending: Option<&PendingChange>) -> Vec<String> {
    let mut lines: Vec<String> = would_drop.iter().map(warning).collect();
    match pending {
        Some(PendingChange { id, until, .. }) => lines.push(format!(
            "taken back at {} unless confirmed: packetwatch confirm {id}",
            when(*until)
        )),
        None if !would_drop.is_empty() => lines.push(
            "if that is not meant, take the change back; with --confirm 60s it would be by itself"
                .to_owned(),
        ),
        None => {}
    }
    lines
}

fn warning(would_drop: &WouldDrop) -> String {
    let WouldDrop {
        prefix,
        peer,
        rule,
        counted,
        limit,
    } = would_drop;
    let who = peer.as_ref().map(|peer| format!(" ({peer})"));
    let who = who.unwrap_or_default();
    match (rule, counted, limit) {
        (Some(rule), Some(counted), Some(limit)) => {
            format!("warning: {prefix}{who} exceeds the rule {rule} already: {counted} of {limit}")
        }
        _ => format!("warning: this cuts off {prefix}{who}"),
    }
}

/// Which change.
#[derive(Debug, clap::Args)]
pub(super) struct WhichArgs {
    /// Id of the change, as `packetwatch pending` shows it [default: the one there is]
    id: Option<String>,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn list(asking: Asking) -> anyhow::Result<()> {
    let (client, mut out) = asking.open()?;
    let changes = pending(&client).await?;
    match out.format {
        Format::Json => out.json(&changes)?,
        Format::Jsonl => changes.pending.iter().try_for_each(|c| out.json(c))?,
        Format::Table => {
            let rows = changes.pending.iter().map(|change| {
                let PendingChange {
                    id,
                    object,
                    made_at,
                    until,
                } = change;
                vec![id.clone(), object.clone(), when(*made_at), when(*until)]
            });
            match table(&["ID", "CHANGES", "SINCE", "UNTIL"], rows) {
                Some(table) => out.line(&table)?,
                None => eprintln!("no change waits to be confirmed"),
            }
        }
    }
    out.flush()
}

pub(super) async fn confirm(args: WhichArgs) -> anyhow::Result<()> {
    let (client, mut out) = args.asking.open()?;
    let id = which(&client, args.id).await?;
    let path = format!("{}/confirm", path_of("/v1/pending", &id));
    let change: PendingChange = client.ask(Method::POST, &path).await?;
    match out.format {
        Format::Table => out.line(&format!("the change of {} stays", change.object))?,
        Format::Json | Format::Jsonl => out.json(&change)?,
    }
    out.flush()
}

pub(super) async fn roll_back(args: WhichArgs) -> anyhow::Result<()> {
    let (client, mut out) = args.asking.open()?;
    let id = which(&client, args.id).await?;
    client.delete(&path_of("/v1/pending", &id)).await?;
    eprintln!("everything is as before the change {id}");
    out.flush()
}

async fn pending(client: &Client) -> anyhow::Result<PendingChanges> {
    Ok(client.get("/v1/pending").await?)
}

async fn which(client: &Client, id: Option<String>) -> anyhow::Result<String> {
    if let Some(id) = id {
        return Ok(id);
    }
    let mut pending = pending(client).await?.pending;
    if pending.len() > 1 {
        bail!("several changes wait: name one, as `packetwatch pending` shows them");
    }
    let change = pending.pop().ok_or_else(|| {
        anyhow!("no change waits to be confirmed: it was taken back at its time, or was confirmed")
    })?;
    Ok(change.id)
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn a_parameter_goes_behind_those_there_are() {
        let confirm = Some("1m 30s".to_owned());
        let args = ConfirmArgs { confirm };
        assert_eq!(args.on("/v1/rules"), "/v1/rules?confirm=1m%2030s");
        let path = "/v1/deny?partial=true";
        assert_eq!(args.on(path), "/v1/deny?partial=true&confirm=1m%2030s");
        assert_eq!(ConfirmArgs::default().on(path), path);
    }

    #[test]
    fn a_warning_says_who_and_what_to_do() {
        let peer = WouldDrop {
            prefix: "198.51.100.7/32".parse().unwrap(),
            peer: Some("who asks".to_owned()),
            rule: None,
            counted: None,
            limit: None,
        };
        let caller = WouldDrop {
            peer: None,
            rule: Some("scan".to_owned()),
            counted: Some(7),
            limit: Some(5),
            ..peer.clone()
        };
        let lines = warnings(&[peer, caller], None);
        assert_eq!(
            lines[0],
            "warning: this cuts off 198.51.100.7/32 (who asks)"
        );
        assert_eq!(
            lines[1],
            "warning: 198.51.100.7/32 exceeds the rule scan already: 7 of 5"
        );
        assert!(lines[2].contains("--confirm"), "{lines:?}");
        let pending = PendingChange {
            id: "19b".to_owned(),
            object: "deny".to_owned(),
            made_at: OffsetDateTime::UNIX_EPOCH,
            until: OffsetDateTime::UNIX_EPOCH,
        };
        let lines = warnings(&[], Some(&pending));
        assert!(lines[0].ends_with("packetwatch confirm 19b"), "{lines:?}");
        assert_eq!(warnings(&[], None), [""; 0]);
    }
}
