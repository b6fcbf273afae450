//! `/v1/pending`: the change that waits to be confirmed.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::State,
    http::{Method, StatusCode, Uri},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    App, blocking,
    caller::Caller,
    extract::{NoParams, Params, PathId},
    lists,
    problem::Problem,
    refusals::{BadParameter, Failed, Gated, NotPending, NotWritten, Slow},
    rules,
};
use crate::{
    daemon::TrialError,
    pending::{InTheWay, Object, Pending, PendingRecord, time_to_confirm},
    tokens::Scope,
};

/// A change that is taken back unless it is confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PendingChange {
    #[schema(example = "19b2e6c1f04")]
    pub id: String,
    /// What it changed: `rules`, `mode`, `allow` or `deny`.
    pub object: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub made_at: OffsetDateTime,
    /// From then on everything is as it was before the change.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub until: OffsetDateTime,
}

impl From<Pending> for PendingChange {
    fn from(pending: Pending) -> Self {
        let PendingRecord {
            id,
            object,
            made_at,
            until,
            mark: _,
        } = pending.record;
        Self {
            id,
            object: object.as_str().to_owned(),
            made_at,
            until,
        }
    }
}

/// The changes that wait to be confirmed: one or none.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PendingChanges {
    pub pending: Vec<PendingChange>,
}

/// How long a change waits to be confirmed, in a query.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConfirmParams {
    /// Take the change back after this time, 1s to 1h, unless it is confirmed.
    #[serde(default, deserialize_with = "confirm")]
    #[param(value_type = Option<String>, example = "60s")]
    pub confirm: Option<Duration>,
}

/// For `#[serde(deserialize_with)]`: a time to confirm within its bounds.
pub(super) fn confirm<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(source)?;
    time_to_confirm(&text)
        .map(Some)
        .map_err(|cause| D::Error::custom(format!("confirm: {cause}")))
}

/// 409, which names the change that is in the way.
pub(super) fn in_the_way(error: &InTheWay) -> Problem {
    Problem::new(StatusCode::CONFLICT, error.to_string()).about("confirm")
}

fn refusal(app: &App, error: TrialError) -> Problem {
    let detail = error.to_string();
    match error {
        TrialError::None | TrialError::Other { .. } => {
            Problem::new(StatusCode::NOT_FOUND, detail).about("id")
        }
        TrialError::Rules(error) => rules::refusal(error, "settle the change"),
        TrialError::Lists(error) => lists::refusal(app, error),
    }
}

/// The change that waits to be confirmed, if there is one.
#[utoipa::path(get, path = "/v1/pending", tag = "pending", security(("token" = ["read"])), responses(
    (status = 200, description = "one or none", body = PendingChanges),
    BadParameter, Gated, Failed, Slow,
))]
pub(super) async fn list_pending(
    State(app): State<App>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<PendingChanges>, Problem> {
    blocking(move || {
        let pending = app.trials.pending().map(PendingChange::from);
        let pending = pending.into_iter().collect();
        Ok(Json(PendingChanges { pending }))
    })
    .await
}

/// Of rules and mode it takes the scope that changing them takes.
fn permitted(
    app: &App,
    caller: &Caller,
    request: (&Method, &Uri),
    id: &str,
) -> Result<(), Problem> {
    let pending = app.trials.pending();
    let object = pending
        .filter(|p| p.record.id == id)
        .map(|p| p.record.object);
    match object {
        Some(Object::Rules | Object::Mode) => caller.require(Scope::Admin, request, &app.counters),
        // One that is gone, or another by now, is not found below.
        Some(Object::Allow | Object::Deny) | None => Ok(()),
    }
}

/// Keep the change. Of rules and mode this takes the scope `admin`.
#[utoipa::path(post, path = "/v1/pending/{id}/confirm", tag = "pending", security(("token" = ["lists"])),
    params(("id" = String, Path, description = "of the change")),
    responses(
    (status = 200, description = "it stays", body = PendingChange),
    BadParameter, NotPending, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn confirm_pending(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    (method, uri): (Method, Uri),
    PathId(id): PathId,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<PendingChange>, Problem> {
    blocking(move || {
        permitted(&app, &caller, (&method, &uri), &id)?;
        let confirmed = app.trials.confirm(&id);
        let confirmed = confirmed.map_err(|error| refusal(&app, error))?;
        Ok(Json(confirmed.into()))
    })
    .await
}

/// Take the change back now. Of rules and mode this takes the scope `admin`.
#[utoipa::path(delete, path = "/v1/pending/{id}", tag = "pending", security(("token" = ["lists"])),
    params(("id" = String, Path, description = "of the change")),
    responses(
    (status = 204, description = "everything is as before it"),
    BadParameter, NotPending, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn roll_back_pending(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    (method, uri): (Method, Uri),
    PathId(id): PathId,
    Params(NoParams {}): Params<NoParams>,
) -> Result<StatusCode, Problem> {
    blocking(move || {
        permitted(&app, &caller, (&method, &uri), &id)?;
        let rolled_back = app.trials.roll_back(&id);
        rolled_back.map_err(|error| refusal(&app, error))?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
