//! `/v1/mode` and `/v1/bypass`: whether verdicts are carried out.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    App, Asker, PendingChange, WouldDrop, blocking,
    extract::{Body, NoParams, Params},
    pending::{ConfirmParams, in_the_way},
    problem::Problem,
    refusals::{BadBody, BadParameter, Failed, Gated, InTheWay, NotWritten, Slow},
    rules::refusal,
    would_drop::Watched,
};
use crate::{
    config::{Mode, Word as _},
    daemon::BYPASS,
    rules::duration,
};

/// Whether verdicts are carried out.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModeState {
    /// `enforce`, or `observe`: judge, count and log, drop nothing.
    #[schema(example = "enforce")]
    pub mode: String,
    /// `built-in`, `api`, the path of the file, or the variable or flag that says so.
    pub mode_from: String,
    /// The change of the mode that waits to be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingChange>,
    /// Peers that are cut off by this change, though they were not before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_drop: Vec<WouldDrop>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMode {
    /// `enforce` or `observe`.
    #[schema(example = "observe")]
    pub mode: String,
}

impl NewMode {
    /// # Errors
    /// 422 for another word.
    pub(super) fn checked(self) -> Result<Mode, Problem> {
        let known = Mode::WORDS.iter().find(|(word, _)| *word == self.mode);
        known.map(|(_, mode)| *mode).ok_or_else(|| {
            let detail = format!("{:?} is no mode: write enforce or observe", self.mode);
            Problem::refused("mode", detail)
        })
    }
}

/// A bypass that is asked for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBypass {
    /// How long, 1s to 24h.
    #[serde(rename = "for")]
    #[schema(example = "10m")]
    pub length: String,
}

impl NewBypass {
    /// # Errors
    /// 422 for what is no length of time, or out of bounds.
    pub(super) fn checked(self) -> Result<Duration, Problem> {
        time_to_bypass(&self.length).map_err(|detail| Problem::refused("for", detail))
    }
}

/// A bypass in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Bypass {
    /// Until then every packet passes.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub until: OffsetDateTime,
}

/// Reads how long a bypass lasts.
///
/// # Errors
/// A message that quotes the text and says the bounds.
pub fn time_to_bypass(text: &str) -> Result<Duration, String> {
    let length = duration::parse(text)?;
    if !BYPASS.contains(&length) {
        return Err(format!(
            "{text:?} is not between 1s and 24h: choose a time after which the filter counts again"
        ));
    }
    Ok(length)
}

fn current(app: &App) -> ModeState {
    let (mode, by) = app.rules.mode_by();
    let pending = app.rules.pending();
    let pending = pending.filter(|pending| pending.object().as_str() == "mode");
    ModeState {
        mode: mode.word().to_owned(),
        mode_from: by.to_string(),
        pending: pending.map(PendingChange::from),
        would_drop: Vec::new(),
    }
}

fn change(
    app: &App,
    mode: Option<Mode>,
    confirm: Option<Duration>,
    asker: Asker,
) -> Result<Json<ModeState>, Problem> {
    let _turn = app.trials.begin(confirm).map_err(|e| in_the_way(&e))?;
    app.peers.protect(&app.lists);
    // Nobody is dropped while observing, whatever would have been.
    let observed = app.rules.mode() == Mode::Observe;
    let watched = match observed {
        true => Watched::by_nobody(app, asker),
        false => Watched::of(app, asker)?,
    };
    let put = app.rules.put_mode(mode, confirm);
    put.map_err(|error| refusal(error, "change the mode"))?;
    let enforced = app.rules.mode() == Mode::Enforce;
    Ok(Json(ModeState {
        would_drop: match enforced && observed {
            true => watched.dropped_since(app)?,
            false => Vec::new(),
        },
        ..current(app)
    }))
}

/// The mode, and who has set it.
#[utoipa::path(get, path = "/v1/mode", tag = "status", security(("token" = ["read"])), responses(
    (status = 200, description = "the mode in force", body = ModeState),
    BadParameter, Gated, Failed, Slow,
))]
pub(super) async fn get_mode(
    State(app): State<App>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<ModeState>, Problem> {
    blocking(move || Ok(Json(current(&app)))).await
}

/// Set the mode, in the place of the configuration's, until it is reset.
#[utoipa::path(put, path = "/v1/mode", tag = "status", security(("token" = ["admin"])), params(ConfirmParams),
    request_body = NewMode, responses(
    (status = 200, description = "the mode in force", body = ModeState),
    BadBody, InTheWay, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn put_mode(
    State(app): State<App>,
    asker: Asker,
    Params(ConfirmParams { confirm }): Params<ConfirmParams>,
    Body(body): Body<NewMode>,
) -> Result<Json<ModeState>, Problem> {
    let mode = body.checked()?;
    blocking(move || change(&app, Some(mode), confirm, asker)).await
}

/// Return to the configuration's mode.
#[utoipa::path(delete, path = "/v1/mode", tag = "status", security(("token" = ["admin"])), params(ConfirmParams), responses(
    (status = 200, description = "the mode now in force", body = ModeState),
    BadParameter, InTheWay, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn reset_mode(
    State(app): State<App>,
    asker: Asker,
    Params(ConfirmParams { confirm }): Params<ConfirmParams>,
) -> Result<Json<ModeState>, Problem> {
    blocking(move || change(&app, None, confirm, asker)).await
}

/// Pass every packet for a time. It ends by itself, also when the daemon dies, and outlives a
/// restart. Rules ban nobody meanwhile; what would have been dropped is counted as observed.
#[utoipa::path(post, path = "/v1/bypass", tag = "status", security(("token" = ["admin"])), request_body = NewBypass, responses(
    (status = 200, description = "it has begun, or has another end", body = Bypass),
    BadBody, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn begin_bypass(
    State(app): State<App>,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<NewBypass>,
) -> Result<Json<Bypass>, Problem> {
    let length = body.checked()?;
    blocking(move || {
        let begun = app.rules.bypass(Some(length));
        let until = begun.map_err(|error| refusal(error, "begin the bypass"))?;
        let until = app
            .clock
            .utc_of(until)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Ok(Json(Bypass { until }))
    })
    .await
}

/// End the bypass.
#[utoipa::path(delete, path = "/v1/bypass", tag = "status", security(("token" = ["admin"])), responses(
    (status = 204, description = "there is none now"),
    BadParameter, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn end_bypass(
    State(app): State<App>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<StatusCode, Problem> {
    blocking(move || {
        let ended = app.rules.bypass(None);
        ended.map_err(|error| refusal(error, "end the bypass"))?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bypass_lasts_between_a_second_and_a_day() {
        assert_eq!(time_to_bypass("1s"), Ok(*BYPASS.start()));
        assert_eq!(time_to_bypass("24h"), Ok(*BYPASS.end()));
        for text in ["999ms", "24h 1s", "", "off", "forever"] {
            assert!(time_to_bypass(text).is_err(), "{text}");
        }
    }
}
