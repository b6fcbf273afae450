//! What machines ask for: health, metrics, the description of the API.

use std::sync::LazyLock;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App, blocking,
    problem::Problem,
    refusals::{Failed, Gated, Slow},
};
use crate::metrics;

/// What answers to a probe.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Probe {
    #[schema(example = "ok")]
    pub status: String,
}

/// Whether the process answers; open to anybody.
#[utoipa::path(get, path = "/healthz", tag = "status", security(()),
    responses((status = 200, description = "it does", body = Probe), Failed, Slow))]
pub(super) async fn healthz() -> Json<Probe> {
    Json(Probe {
        status: "ok".to_owned(),
    })
}

/// Whether the filter is attached, the rules are carried out, and writes reach the disk.
#[utoipa::path(get, path = "/readyz", tag = "status", security(("token" = ["read"])), responses(
    (status = 200, description = "it does", body = Probe),
    (status = 503, description = "not ready, and why",
        body = Problem, content_type = "application/problem+json"),
    Gated, Failed, Slow,
))]
pub(super) async fn readyz(State(app): State<App>) -> Result<Json<Probe>, Problem> {
    let ready = blocking(move || Ok(is_ready(&app))).await?;
    ready.map_err(|why| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why))?;
    Ok(Json(Probe {
        status: "ready".to_owned(),
    }))
}

fn is_ready(app: &App) -> Result<(), String> {
    app.readiness.is_ready()?;
    let journal = app.lists.journal_fault().map(|fault| {
        format!(
            "the filter works on, but writes are refused and new bans would not survive a restart, \
             since the journal cannot be written ({fault}). See to the state directory's disk"
        )
    });
    let control = app.rules.disk_fault().map(|fault| {
        format!(
            "the filter works on, but a restart would bring back what was said before of rules, mode, \
             trials or bypass ({fault}). See to the state directory's disk"
        )
    });
    let faults: Vec<String> = journal.into_iter().chain(control).collect();
    if faults.is_empty() {
        return Ok(());
    }
    Err(faults.join("; "))
}

/// Metrics in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "status", security(("token" = ["read"])), responses(
    (status = 200, description = "the metrics", body = String, content_type = "application/openmetrics-text"),
    Gated, Failed, Slow,
))]
pub(super) async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    let text = blocking(move || Ok(metrics::encode(&app))).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "status", security(("token" = ["read"])), responses(
    (status = 200, description = "OpenAPI", content_type = "application/json"),
    Gated, Failed, Slow,
))]
pub(super) async fn openapi_json() -> impl IntoResponse {
    static DOCUMENT: LazyLock<String> =
        LazyLock::new(|| super::openapi().to_json().unwrap_or_default());
    (
        [(header::CONTENT_TYPE, "application/json")],
        DOCUMENT.as_str(),
    )
}
