//! `/v1/backup` and `/v1/restore`: everything that people and rules have made, in JSON lines. Tokens
//! are never in it.

use std::{convert::Infallible, sync::LazyLock};

use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, mpsc};
use utoipa::ToSchema;

use super::{
    App, blocking,
    extract::{NoParams, Params, media_type, place_of, unsupported},
    lists,
    pending::in_the_way,
    problem::{Fault, MAX_FAULTS, Problem},
    refusals::{BadBody, BadParameter, Failed, Full, Gated, NoPlace, Protected, Slow},
    rules,
    upload::{BACKUP_BODY, Uploads},
};
use crate::{
    config::{Mode, Word as _},
    daemon::SetBy,
    lists::{List, Lists, Restored as Done, Saved, SavedBan, SavedEntries, SavedOffence},
    prefix,
    rules::{Rule, RuleSet, RuleText},
};

/// Of the form of a backup.
const VERSION: u64 = 1;
pub(super) const MEDIA: &str = "application/jsonl";
/// Lines on their way to a client that reads slowly, 45 KB each at most.
const AHEAD: usize = 16;
/// Backups at a time: each has a thread of its own.
static PLACES: LazyLock<std::sync::Arc<Semaphore>> =
    LazyLock::new(|| std::sync::Arc::new(Semaphore::new(2)));

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

/// What a backup has put back.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RestoreAnswer {
    pub allow: usize,
    pub deny: usize,
    pub bans: usize,
    /// Entries and bans that have ended since the backup.
    pub ended: usize,
    /// Where the rules in force come from now.
    pub rules_from: String,
    pub mode: String,
}

/// Everything that a restore needs: lists, bans, offences, rules and mode. It is read by pieces: what
/// changes meanwhile is in it as it was or as it is.
#[utoipa::path(get, path = "/v1/backup", tag = "backup", security(("token" = ["admin"])), responses(
    (status = 200, description = "JSON lines, each with its `kind`; the last is `end`",
        body = String, content_type = "application/jsonl"),
    (status = 409, description = "a change waits to be confirmed; detail names it",
        body = Problem, content_type = "application/problem+json"),
    BadParameter, NoPlace, Gated, Failed, Slow,
))]
pub(super) async fn backup(
    State(app): State<App>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, Problem> {
    // Whether it stays is not known yet.
    if let Some(pending) = app.trials.pending() {
        return Err(in_the_way(&pending.in_the_way()));
    }
    let Ok(place) = std::sync::Arc::clone(&PLACES).try_acquire_owned() else {
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
    let (rules, by) = app.rules.current();
    if by == SetBy::Api {
        let rules = rules.iter().cloned().map(RuleText::from).collect();
        put(Line::Rules(Rules { rules }))?;
    }
    let (mode, by) = app.rules.mode_by();
    if by == SetBy::Api {
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

/// Put everything back as a backup has it, in the place of what there is. All or nothing: every bad
/// line is named.
#[utoipa::path(post, path = "/v1/restore", tag = "backup", security(("token" = ["admin"])),
    request_body(content((String = "application/jsonl"))),
    responses(
    (status = 200, description = "what is in force now", body = RestoreAnswer),
    BadBody, Protected, NoPlace, Full, Gated, Failed, Slow,
))]
pub(super) async fn restore(
    State(app): State<App>,
    Extension(uploads): Extension<Uploads>,
    Params(NoParams {}): Params<NoParams>,
    request: Request,
) -> Result<Json<RestoreAnswer>, Problem> {
    let media = media_type(request.headers());
    if media.as_deref() != Some(MEDIA) {
        return Err(unsupported(media.as_deref(), MEDIA));
    }
    let body = uploads.read_list(request, BACKUP_BODY).await?;
    let place = uploads.place().await?;
    blocking(move || {
        let read = read(body.bytes())?;
        drop(body);
        let restored = put_back(&app, read);
        drop(place);
        restored.map(Json)
    })
    .await
}

/// A backup that was read whole.
#[derive(Debug, Default)]
struct Backup {
    saved: Saved,
    rules: Option<Vec<Rule>>,
    mode: Option<Mode>,
}

fn put_back(app: &App, backup: Backup) -> Result<RestoreAnswer, Problem> {
    let Backup { saved, rules, mode } = backup;
    let _turn = app
        .trials
        .begin(Some(crate::pending::CONFIRM.start().to_owned()))
        .map_err(|error| in_the_way(&error))?;
    let Done {
        allow,
        deny,
        bans,
        ended,
    } = app
        .lists
        .restore(saved)
        .map_err(|error| lists::refusal(app, error))?;
    let put = match rules {
        Some(rules) => app.rules.put(rules, None),
        None => app.rules.reset(None),
    };
    let put = put.and_then(|_| app.rules.put_mode(mode, None));
    put.map_err(|error| rules::refusal(error, "restore rules and mode; the lists are restored"))?;
    Ok(RestoreAnswer {
        allow,
        deny,
        bans,
        ended,
        rules_from: app.rules.current().1.to_string(),
        mode: app.rules.mode().word().to_owned(),
    })
}

/// Reads and checks the lines.
fn read(body: &[u8]) -> Result<Backup, Problem> {
    let mut backup = Backup::default();
    let mut faults = Faults::default();
    let mut ended = false;
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let mut json = serde_json::Deserializer::from_slice(line);
        let line: Line = match serde_path_to_error::deserialize(&mut json) {
            Ok(line) => line,
            Err(error) => {
                faults.add(number, place_of(&error), error.into_inner().to_string());
                continue;
            }
        };
        if (index == 0) != matches!(line, Line::Backup(_)) || ended {
            let detail = "a backup begins with the line of kind backup, has one of them, and ends \
                          with the line of kind end";
            faults.add(number, Some("kind".to_owned()), detail.to_owned());
        }
        if let Line::End(End { lines }) = line {
            ended = true;
            if lines != index {
                let detail = format!("{index} lines lie before it, and {lines} were written");
                faults.add(number, Some("lines".to_owned()), detail);
            }
        } else if let Err((field, detail)) = backup.take(line) {
            faults.add(number, Some(field.to_owned()), detail);
        }
    }
    if !ended && faults.all == 0 {
        let detail = "the last line, of kind end, is missing: the backup was cut off".to_owned();
        faults.add(body.split(|byte| *byte == b'\n').count(), None, detail);
    }
    faults.into_result().map(|()| backup)
}

impl Backup {
    fn take(&mut self, line: Line) -> Result<(), (&'static str, String)> {
        match line {
            Line::Backup(Head { v, .. }) if v > VERSION => Err((
                "v",
                format!("version {v} is newer than {VERSION}: restore it with a newer packetwatch"),
            )),
            Line::Backup(_) | Line::End(_) => Ok(()),
            Line::Entries(entries) => {
                for text in &entries.prefixes {
                    prefix::parse(text).map_err(|error| ("prefixes", error.to_string()))?;
                }
                self.saved.entries.push(entries);
                Ok(())
            }
            Line::Ban(ban) => {
                self.saved.bans.push(ban);
                Ok(())
            }
            Line::Offence(offence) => {
                self.saved.offences.push(offence);
                Ok(())
            }
            Line::Rules(Rules { rules }) => {
                let rules = rules.into_iter().map(Rule::try_from);
                let rules: Vec<Rule> = rules.collect::<Result<_, _>>().map_err(|e| ("rules", e))?;
                let checked = RuleSet::validate(rules.clone());
                checked.map_err(|errors| ("rules", errors.to_string()))?;
                self.rules = Some(rules);
                Ok(())
            }
            Line::Mode(SavedMode { mode }) => {
                let known = Mode::WORDS.iter().find(|(word, _)| *word == mode);
                let (_, mode) = known.ok_or_else(|| ("mode", format!("{mode:?} is no mode")))?;
                self.mode = Some(*mode);
                Ok(())
            }
        }
    }
}

/// What is wrong, line by line.
#[derive(Debug, Default)]
struct Faults {
    /// the first [`MAX_FAULTS`]
    named: Vec<Fault>,
    all: usize,
}

impl Faults {
    fn add(&mut self, line: usize, field: Option<String>, detail: String) {
        self.all += 1;
        if self.named.len() < MAX_FAULTS {
            self.named.push(Fault {
                line: Some(line),
                index: None,
                field,
                detail,
            });
        }
    }

    fn into_result(self) -> Result<(), Problem> {
        if self.all == 0 {
            return Ok(());
        }
        let detail = format!(
            "wrong lines: {}. Nothing was changed: restore a whole backup as `packetwatch backup` \
             wrote it",
            self.all
        );
        Err(Problem::refused("body", detail).listing(self.named, self.all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"{"kind":"backup","v":1,"version":"0","made_at":"2026-01-01T00:00:00Z"}"#;

    fn faults(lines: &[&str]) -> Vec<(Option<usize>, Option<String>)> {
        let problem = read(lines.join("\n").as_bytes()).unwrap_err();
        assert_eq!(problem.status, 422);
        let faults = problem.errors.into_iter();
        faults.map(|fault| (fault.line, fault.field)).collect()
    }

    #[test]
    fn every_bad_line_is_named() {
        let named = faults(&[
            HEAD,
            "nonsense",
            r#"{"kind":"ban","prefix":"198.51.100.0/33"}"#,
            r#"{"kind":"entries","list":"deny","created_at":"2026-01-01T00:00:00Z","prefixes":["x"]}"#,
            r#"{"kind":"token","token":"pw_0"}"#,
            r#"{"kind":"mode","mode":"sleep"}"#,
            r#"{"kind":"end","lines":6}"#,
        ]);
        let lines: Vec<_> = named.iter().filter_map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6]);
        assert_eq!(named[2].1.as_deref(), Some("prefixes"));
    }

    #[test]
    fn what_was_cut_off_or_put_together_is_refused() {
        let end = r#"{"kind":"end","lines":1}"#;
        assert!(read(format!("{HEAD}\n{end}\n").as_bytes()).is_ok());
        assert_eq!(faults(&[HEAD]), [(Some(1), None)]);
        assert_eq!(faults(&[end])[0].0, Some(1));
        assert_eq!(faults(&[HEAD, r#"{"kind":"end","lines":2}"#])[0].0, Some(2));
        assert_eq!(faults(&[HEAD, end, HEAD])[0].0, Some(3));
        assert_eq!(faults(&[""])[0].0, Some(1));
        let newer = HEAD.replace("\"v\":1", "\"v\":2");
        assert_eq!(faults(&[&newer, end]), [(Some(1), Some("v".to_owned()))]);
    }

    #[test]
    fn bad_lines_beyond_the_bound_are_counted() {
        let lines = vec!["bad"; MAX_FAULTS + 1];
        let problem = read(lines.join("\n").as_bytes()).unwrap_err();
        assert_eq!(problem.errors.len(), MAX_FAULTS);
        assert_eq!(problem.errors_total, Some(MAX_FAULTS + 1));
    }
}
