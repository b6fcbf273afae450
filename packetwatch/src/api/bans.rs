//! `/v1/bans`.

use std::net::IpAddr;

use axum::{Json, extract::State, http::StatusCode};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    App, blocking,
    extract::{NoParams, Params, PathPrefix},
    lists::refusal,
    page::PageParams,
    problem::Problem,
    refusals::{BadParameter, Failed, Gated, NotThere, NotWritten, Slow},
};
use crate::lists::BanRow;

/// A ban that a rule set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Ban {
    #[schema(value_type = String, example = "198.51.100.7/32")]
    pub prefix: IpNet,
    pub reason: String,
    /// The rule.
    pub source: String,
    /// The address whose packet went beyond the rule.
    #[schema(value_type = String, example = "198.51.100.7")]
    pub offender: IpAddr,
    /// 1 for a first ban; each repeat is longer.
    pub repeat: u32,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// Null for a ban for ever.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
    /// Packets that the ban dropped.
    pub packets: Option<u64>,
    pub bytes: Option<u64>,
}

/// A page of the bans.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BanPage {
    pub entries: Vec<Ban>,
    /// The cursor of the next page; null on the last.
    pub next: Option<String>,
}

impl From<BanRow> for Ban {
    fn from(row: BanRow) -> Self {
        let BanRow {
            prefix,
            rule,
            reason,
            offender,
            repeat,
            created_at,
            expires_at,
            packets,
            bytes,
        } = row;
        Self {
            prefix,
            reason,
            source: rule,
            offender,
            repeat,
            created_at,
            expires_at,
            packets,
            bytes,
        }
    }
}

/// List the bans in force.
#[utoipa::path(get, path = "/v1/bans", tag = "bans", security(("token" = ["read"])), params(PageParams),
    responses((status = 200, description = "a page of the bans", body = BanPage), BadParameter, Gated, Failed, Slow))]
pub(super) async fn list_bans(
    State(app): State<App>,
    Params(params): Params<PageParams>,
) -> Result<Json<BanPage>, Problem> {
    let page = blocking(move || {
        let query = params.query()?;
        app.lists.bans(query).map_err(|error| refusal(&app, error))
    });
    let page = page.await?;
    Ok(Json(BanPage {
        entries: page.entries.into_iter().map(Ban::from).collect(),
        next: page.next,
    }))
}

/// End a ban and forget its repeats.
#[utoipa::path(delete, path = "/v1/bans/{*prefix}", tag = "bans", security(("token" = ["lists"])),
    params(("prefix" = String, Path, description = "the prefix of the ban; `/` or `%2F`")),
    responses(
    (status = 204, description = "it has ended"),
    BadParameter, NotThere, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn remove_ban(
    State(app): State<App>,
    PathPrefix(written): PathPrefix,
    Params(NoParams {}): Params<NoParams>,
) -> Result<StatusCode, Problem> {
    blocking(move || {
        let ended = app.lists.unban(written.prefix);
        ended.map_err(|error| refusal(&app, error))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
