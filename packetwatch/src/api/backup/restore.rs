//! `/v1/restore`: everything put back as a backup has it, unless it cuts off who works on this host.
//!
//! There is no trial of a restore: lists, bans, offences, rules and mode change together, what they were
//! may be 128 MiB that would have to be kept beside them, and bans that have been taken away do not come
//! back by themselves with the daemon dead. So it is refused before anything has changed.

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    MEDIA,
    read::{Backup, read},
};
use crate::{
    api::{
        App, Asker, WouldDrop, blocking,
        extract::{Params, media_type, unsupported},
        lists,
        pending::in_the_way,
        problem::{Fault, Problem},
        refusals::{BadBody, CutsOff, Failed, Full, Gated, NoPlace, Slow},
        rules,
        upload::{BACKUP_BODY, Uploads},
        would_drop::{Watched, beyond},
    },
    config::{Mode, Word as _},
    daemon::RestoreError,
    lists::Restored as Done,
    pending::CONFIRM,
};

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
    /// Peers that are cut off now, though they were not before, and callers that exceed a rule of the
    /// backup already; at most 100 of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_drop: Vec<WouldDrop>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct RestoreParams {
    /// Restore also what cuts off a peer: a session, an API client, who asks.
    #[serde(default)]
    force: bool,
}

/// Put everything back as a backup has it, in the place of what there is. All or nothing: every bad
/// line is named.
#[utoipa::path(post, path = "/v1/restore", tag = "backup", security(("token" = ["admin"])),
    params(RestoreParams),
    request_body(content((String = "application/jsonl"))),
    responses(
    (status = 200, description = "what is in force now", body = RestoreAnswer),
    BadBody, CutsOff, NoPlace, Full, Gated, Failed, Slow,
))]
pub(in crate::api) async fn restore(
    State(app): State<App>,
    Extension(uploads): Extension<Uploads>,
    asker: Asker,
    Params(RestoreParams { force }): Params<RestoreParams>,
    request: Request,
) -> Result<Json<RestoreAnswer>, Problem> {
    let media = media_type(request.headers());
    if media.as_deref() != Some(MEDIA) {
        return Err(unsupported(media.as_deref(), MEDIA));
    }
    let body = uploads.read_list(request, BACKUP_BODY).await?;
    let place = uploads.place(&body).await?;
    blocking(move || {
        let read = read(body.bytes())?;
        drop(body);
        let restored = put_back(&app, read, asker, force);
        drop(place);
        restored.map(Json)
    })
    .await
}

fn put_back(
    app: &App,
    backup: Backup,
    asker: Asker,
    force: bool,
) -> Result<RestoreAnswer, Problem> {
    let _turn = app
        .trials
        .begin(Some(*CONFIRM.start()))
        .map_err(|error| in_the_way(&error))?;
    app.peers.protect(&app.lists);
    let would_stand = app.rules.would_stand(backup.rules.clone(), backup.mode);
    let would_stand = would_stand.map_err(|error| rules::refusal(error, "restore rules"))?;
    let bans = backup.saved.bans.iter().map(|ban| ban.prefix);
    app.rules
        .check_bans(&would_stand.rules, bans)
        .map_err(|error| rules::refusal(error, "restore bans"))?;
    // Before the change, which voids what is counted.
    let observed = app.rules.mode() == Mode::Observe;
    let watched = match observed {
        true => Watched::by_nobody(app, asker),
        false => Watched::of(app, asker)?,
    };
    let mut would_drop = watched.dropped_by(app, &backup.saved);
    if would_stand.rules != app.rules.current().0 {
        would_drop.extend(beyond(app, &would_stand.rules, asker)?);
    }
    if would_stand.mode == Mode::Enforce && !force {
        let peers = would_drop.iter().filter(|one| one.peer.is_some());
        refuse(&peers.collect::<Vec<_>>())?;
    }
    let Backup { saved, rules, mode } = backup;
    let restored = app.rules.restore(saved, rules, mode);
    let Done {
        allow,
        deny,
        bans,
        ended,
    } = restored.map_err(|error| match error {
        RestoreError::Lists(error) => lists::refusal(app, error),
        RestoreError::Rules(error) => rules::refusal(error, "restore rules and mode"),
        error @ RestoreError::Halfway(_) => Problem::internal("restore rules and mode", &error),
    })?;
    Ok(RestoreAnswer {
        allow,
        deny,
        bans,
        ended,
        rules_from: app.rules.current().1.to_string(),
        mode: app.rules.mode().word().to_owned(),
        would_drop,
    })
}

/// # Errors
/// 409 that names these peers, if there are any.
fn refuse(peers: &[&WouldDrop]) -> Result<(), Problem> {
    if peers.is_empty() {
        return Ok(());
    }
    let fault = |one: &&WouldDrop| {
        let because = match (&one.rule, one.counted) {
            (Some(rule), Some(_)) => format!("exceeds the rule {rule} of the backup already"),
            (Some(rule), None) => format!("is banned in the backup by the rule {rule}"),
            (None, _) => "is denied by the backup".to_owned(),
        };
        let peer = one.peer.as_deref().unwrap_or_default();
        Fault {
            line: None,
            index: None,
            field: None,
            detail: format!("{} ({peer}) {because}", one.prefix),
        }
    };
    let detail = format!(
        "the backup cuts off {} who are not cut off now, as errors lists: nothing was changed. Take them \
         out of the backup, or restore it with force (--force, ?force=true)",
        peers.len()
    );
    let faults = peers.iter().map(fault).collect();
    let problem = Problem::new(StatusCode::CONFLICT, detail).about("force");
    Err(problem.listing(faults, peers.len()))
}
