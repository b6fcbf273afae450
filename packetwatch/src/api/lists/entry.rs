//! One entry at a time.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use ipnet::IpNet;
use serde::Deserialize;

use super::{EntryBody, Removed, WrittenEntry, refusal};
use crate::{
    api::{
        App, Asker, PendingChange, blocking,
        extract::{OptionalBody, Params, PathPrefix},
        pending::{ConfirmParams, confirm, in_the_way},
        problem::Problem,
        refusals::{
            BadBody, BadParameter, Failed, Full, Gated, NotThere, NotWritten, Protected, Slow,
        },
        would_drop::Watched,
    },
    lists::{Entry, Force, List, NewEntry, Put},
};

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ForceParams {
    /// Deny even an address that is protected, and end its protection for as long. To allow one
    /// never takes force.
    #[serde(default)]
    force: bool,
    /// Take the change back after this time, 1s to 1h, unless it is confirmed.
    #[serde(default, deserialize_with = "confirm")]
    #[param(value_type = Option<String>, example = "60s")]
    confirm: Option<Duration>,
}

/// Put a prefix on the {list} list; replaces its whole entry.
#[utoipa::path(put, path = "/v1/{list}/{*prefix}", operation_id = "put_{list}", tag = "lists", security(("token" = ["lists"])),
    params(("prefix" = String, Path, description = "an address or prefix; `/` or `%2F`"), ForceParams),
    request_body(content = Option<EntryBody>),
    responses(
    (status = 201, description = "new", body = WrittenEntry),
    (status = 200, description = "changed", body = WrittenEntry),
    BadBody, Protected, NotWritten, Full, Gated, Failed, Slow,
))]
pub(super) async fn put(
    State(app): State<App>,
    Extension(list): Extension<List>,
    PathPrefix(written): PathPrefix,
    asker: Asker,
    Params(ForceParams { force, confirm }): Params<ForceParams>,
    OptionalBody(body): OptionalBody<EntryBody>,
) -> Result<Response, Problem> {
    let (reason, ttl) = body
        .checked()
        .map_err(|(field, detail)| Problem::refused(field, detail))?;
    let entry = NewEntry {
        prefix: written.prefix,
        reason,
        ttl,
    };
    blocking(move || {
        let _turn = app.trials.begin(confirm).map_err(|e| in_the_way(&e))?;
        app.peers.protect(&app.lists);
        let watched = Watched::of(&app, asker)?;
        let put = app.lists.confirming(confirm).put(list, entry, Force(force));
        let put = put.map_err(|error| refusal(&app, error))?;
        let status = match put.created {
            true => StatusCode::CREATED,
            false => StatusCode::OK,
        };
        let entry = WrittenEntry {
            would_drop: watched.dropped_since(&app)?,
            pending: pending(&app, confirm),
            ..answer(put, written.host_bits_cleared)
        };
        Ok((status, Json(entry)).into_response())
    })
    .await
}

/// The change that this call has begun, if it was to be confirmed.
pub(super) fn pending(app: &App, confirm: Option<Duration>) -> Option<PendingChange> {
    confirm.and(app.lists.pending()).map(PendingChange::from)
}

fn answer(put: Put, host_bits_cleared: bool) -> WrittenEntry {
    let Put {
        entry,
        created: _,
        carved_out,
        carved_out_total,
        overruled_by,
    } = put;
    let Entry {
        prefix,
        reason,
        source,
        created_at,
        expires_at,
    } = entry;
    let mut notes = Vec::new();
    if host_bits_cleared {
        notes.push(format!("host bits cleared: the entry is {prefix}"));
    }
    if let Some(allowed) = overruled_by {
        notes.push(format!(
            "it has no effect under {allowed}, which is allowed"
        ));
    }
    if carved_out_total > carved_out.len() {
        let shown = carved_out.len();
        notes.push(format!(
            "{carved_out_total} prefixes inside are allowed, the first {shown} are named"
        ));
    }
    WrittenEntry {
        prefix,
        reason,
        source: source.as_str().to_owned(),
        created_at,
        expires_at,
        carved_out,
        note: (!notes.is_empty()).then(|| notes.join("; ")),
        would_drop: Vec::new(),
        pending: None,
    }
}

/// Remove an entry of the {list} list. On trial, and with the daemon dead at its end, a deny entry comes back
/// with the next start; so does an allow entry over a ban that stood before the trial, while any other ban and
/// every deny that the entry overruled end with the trial.
#[utoipa::path(delete, path = "/v1/{list}/{*prefix}", operation_id = "remove_{list}", tag = "lists", security(("token" = ["lists"])),
    params(("prefix" = String, Path, description = "an address or prefix; `/` or `%2F`"), ConfirmParams),
    responses(
    (status = 204, description = "removed"),
    (status = 200, description = "removed, to be confirmed", body = Removed),
    BadParameter, NotThere, Protected, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn remove(
    State(app): State<App>,
    Extension(list): Extension<List>,
    PathPrefix(written): PathPrefix,
    asker: Asker,
    Params(ConfirmParams { confirm }): Params<ConfirmParams>,
) -> Result<Response, Problem> {
    let prefix: IpNet = written.prefix;
    blocking(move || {
        let _turn = app.trials.begin(confirm).map_err(|e| in_the_way(&e))?;
        app.peers.protect(&app.lists);
        let watched = Watched::of(&app, asker)?;
        let removed = app.lists.confirming(confirm).remove(list, prefix);
        removed.map_err(|error| refusal(&app, error))?;
        let Some(pending) = pending(&app, confirm) else {
            return Ok(StatusCode::NO_CONTENT.into_response());
        };
        let would_drop = watched.dropped_since(&app)?;
        let removed = Removed {
            pending,
            would_drop,
        };
        Ok(Json(removed).into_response())
    })
    .await
}
