//! `/v1/backup`: everything that people and rules have made, in JSON lines. Tokens are never in it.

#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz;
mod read;
pub(super) mod restore;

use std::{convert::Infallible, sync::LazyLock};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::{
    App,
    caller::Caller,
    extract::{NoParams, Params},
    pending::in_the_way,
    problem::Problem,
    refusals::{BadParameter, Failed, Gated, NoPlace, Slow},
    shares::Shares,
};
use crate::{
    config::Word as _,
    daemon::SetBy,
    lists::{List, Lists, SavedBan, SavedEntries, SavedOffence},
    rules::RuleText,
};

/// Of the form of a backup.
const VERSION: u64 = 1;
pub(super) const MEDIA: &str = "application/jsonl";
/// Lines on their way to a client that reads slowly, 45 KB each at most.
const AHEAD: usize = 16;
/// Backups at a time over TCP, and over the unix socket: each has a thread of its own.
static PLACES: LazyLock<Shares> = LazyLock::new(|| Shares::of_each(2));

/// A line of a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    /// the first
    Backup(Head),
    Entries(SavedEntries),
    Ban(SavedBan),
    Offence(SavedOffence),
    /// rules that the API has set; without them those of the configuration stand
    Rules(Rules),
    /// a mode that the API has set
    Mode(SavedMode),
    /// the last: a backup without it was cut off
    End(End),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    v: u64,
    /// of the daemon
    version: String,
    #[serde(with = "time::serde::rfc3339")]
    made_at: OffsetDateTime,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    rules: Vec<RuleText>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedMode {
    mode: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    /// those before it
    lines: usize,
}

/// Everything that a restore needs: lists, bans, offences, rules and mode. It is read by pieces: what
/// changes meanwhile is in it as it was or as it is, and as it was if the change is on trial.
#[utoipa::path(get, path = "/v1/backup", tag = "backup", security(("token" = ["admin"])), responses(
    (status = 200, description = "JSON lines, each with its `kind`; the last is `end`",
        body = String, content_type = "application/jsonl"),
    (status = 409, description = "a change waits to be confirmed; detail names it",
        body = Problem, content_type = "application/problem+json"),
    BadParameter, NoPlace, Gated, Failed, Slow,
))]
pub(super) async fn backup(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, Problem> {
    // Whether it stays is not known yet.
    if let Some(pending) = app.trials.pending() {
        return Err(in_the_way(&pending.in_the_way()));
    }
    let Ok(place) = PLACES.of(caller.via()).try_acquire_owned() else {
        let detail = "two backups are being read already: repeat this one later";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    let (lines, read) = mpsc::channel::<Bytes>(AHEAD);
    tokio::task::spawn_blocking(move || {
        // Whoever went away needs no more of it.
        let _ = write(&app, &mut |line| lines.blocking_send(line).is_ok());
        drop(place);
    });
    let body = stream::unfold(read, |mut read| async move {
        let line = read.recv().await?;
        Some((Ok::<_, Infallible>(line), read))
    });
    let headers = [(header::CONTENT_TYPE, MEDIA)];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Hands each line to `send`; `None` once that wants no more.
fn write(app: &App, send: &mut dyn FnMut(Bytes) -> bool) -> Option<()> {
    let mut lines = 0;
    let mut put = |line: Line| {
        let mut text = serde_json::to_vec(&line).expect("a line is of strings and numbers");
        text.push(b'\n');
        lines += 1;
        send(text.into()).then_some(())
    };
    put(Line::Backup(Head {
        v: VERSION,
        version: app.version.to_owned(),
        made_at: OffsetDateTime::now_utc(),
    }))?;
    let ((rules, rules_by), (mode, mode_by)) = app.rules.standing();
    if rules_by == SetBy::Api {
        let rules = rules.iter().cloned().map(RuleText::from).collect();
        put(Line::Rules(Rules { rules }))?;
    }
    if mode_by == SetBy::Api {
        let mode = mode.word().to_owned();
        put(Line::Mode(SavedMode { mode }))?;
    }
    write_lists(&app.lists, &mut put)?;
    let before = lines;
    let end = Line::End(End { lines: before });
    let mut text = serde_json::to_vec(&end).expect("a number");
    text.push(b'\n');
    send(text.into()).then_some(())
}

fn write_lists(lists: &Lists, put: &mut dyn FnMut(Line) -> Option<()>) -> Option<()> {
    for list in [List::Allow, List::Deny] {
        let mut cursor = None;
        loop {
            let (groups, next) = lists.saved_entries(list, cursor);
            groups.into_iter().try_for_each(|g| put(Line::Entries(g)))?;
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
    }
    let mut cursor = None;
    loop {
        let (bans, next) = lists.saved_bans(cursor);
        bans.into_iter().try_for_each(|ban| put(Line::Ban(ban)))?;
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    let mut offences = lists.saved_offences().into_iter();
    offences.try_for_each(|offence| put(Line::Offence(offence)))
}
