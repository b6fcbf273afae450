//! One entry at a time.

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use ipnet::IpNet;
use serde::Deserialize;

use super::{EntryBody, WrittenEntry, refusal};
use crate::{
    api::{
        App, blocking,
        extract::{NoParams, OptionalBody, Params, PathPrefix},
        problem::Problem,
        refusals::{
            BadBody, BadParameter, Failed, Full, Gated, NotThere, NotWritten, Protected, Slow,
        },
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
    Params(ForceParams { force }): Params<ForceParams>,
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
    let put = blocking(move || {
        let put = app.lists.put(list, entry, Force(force));
        put.map_err(|error| refusal(&app, error))
    });
    let put = put.await?;
    let status = match put.created {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let entry = answer(put, written.host_bits_cleared);
    Ok((status, Json(entry)).into_response())
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
    }
}

/// Remove an entry of the {list} list.
#[utoipa::path(delete, path = "/v1/{list}/{*prefix}", operation_id = "remove_{list}", tag = "lists", security(("token" = ["lists"])),
    params(("prefix" = String, Path, description = "an address or prefix; `/` or `%2F`")),
    responses(
    (status = 204, description = "removed"),
    BadParameter, NotThere, Protected, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn remove(
    State(app): State<App>,
    Extension(list): Extension<List>,
    PathPrefix(written): PathPrefix,
    Params(NoParams {}): Params<NoParams>,
) -> Result<StatusCode, Problem> {
    let prefix: IpNet = written.prefix;
    blocking(move || {
        let removed = app.lists.remove(list, prefix);
        removed.map_err(|error| refusal(&app, error))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
