//! `/v1/tokens`.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    App, blocking,
    extract::{Body, NoParams, Params},
    lists::time_to_live,
    problem::Problem,
    refusals::{BadBody, BadParameter, Failed, Full, Gated, NotWritten, Slow},
};
use crate::tokens::{MAX_NAME, NewToken, Scope, Token, TokenError};

/// A token as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ListedToken {
    #[serde(flatten)]
    pub token: Token,
    /// When a request with it was accepted last; null if none was since the daemon started.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<OffsetDateTime>,
}

/// Every token, the oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    pub tokens: Vec<ListedToken>,
}

/// A token to be made.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenBody {
    /// What it is good for; `admin` includes the others.
    #[schema(min_items = 1, max_items = 5)]
    pub scopes: Vec<Scope>,
    /// Letters, digits, `.`, `_` and `-`, at most 64; its id if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    pub name: Option<String>,
    /// How long it is good, `1s` to `10y`; until it is revoked if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "30d")]
    pub ttl: Option<String>,
}

/// A token that was made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MadeToken {
    #[serde(flatten)]
    pub token: Token,
    /// What to send as `Authorization: Bearer`. The daemon keeps its hash, and never shows it again.
    #[serde(rename = "token")]
    #[schema(example = "pw_...")]
    pub text: String,
}

impl TokenBody {
    pub(super) fn checked(self) -> Result<NewToken, Problem> {
        let Self { scopes, name, ttl } = self;
        if scopes.is_empty() {
            let detail = "a token without scopes is good for nothing: name one";
            return Err(Problem::refused("scopes", detail));
        }
        if let Some(name) = &name {
            check_name(name).map_err(|detail| Problem::refused("name", detail))?;
        }
        let ttl: Option<Duration> = ttl
            .map(|text| time_to_live(&text))
            .transpose()
            .map_err(|detail| Problem::refused("ttl", detail))?;
        Ok(NewToken { name, scopes, ttl })
    }
}

/// # Errors
/// A message that says what a name is.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(plain) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no name: write 1 to {MAX_NAME} letters, digits, dots, underscores and hyphens"
    ))
}

fn refusal(error: TokenError) -> Problem {
    let detail = error.to_string();
    match error {
        TokenError::Taken(_) => Problem::new(StatusCode::CONFLICT, detail).about("name"),
        TokenError::NotFound(_) => Problem::new(StatusCode::NOT_FOUND, detail).about("token"),
        TokenError::Full => Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail),
        TokenError::File(_) => {
            tracing::error!(error.message = %detail, "API: a token was not written");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
        TokenError::Random(_) => Problem::internal("make a token", &error),
    }
}

/// List the tokens, without their text.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", security(("token" = ["admin"])),
    responses((status = 200, description = "every token", body = TokenList), BadParameter, Gated, Failed, Slow))]
pub(super) async fn list_tokens(
    State(app): State<App>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<TokenList>, Problem> {
    let listed = app.tokens.list().into_iter();
    let listed = listed.map(|(token, last_used_at)| ListedToken {
        token,
        last_used_at,
    });
    Ok(Json(TokenList {
        tokens: listed.collect(),
    }))
}

/// Make a token. Its text is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", security(("token" = ["admin"])),
    request_body = TokenBody, responses(
    (status = 201, description = "it is good from now on", body = MadeToken),
    (status = 409, description = "another has the name",
        body = Problem, content_type = "application/problem+json"),
    BadBody, NotWritten, Full, Gated, Failed, Slow,
))]
pub(super) async fn create_token(
    State(app): State<App>,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<TokenBody>,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    let new = body.checked()?;
    let made = blocking(move || {
        let made = app.tokens.create(new, OffsetDateTime::now_utc());
        made.map_err(refusal)
    });
    let (token, secret) = made.await?;
    let text = secret.as_str().to_owned();
    Ok((StatusCode::CREATED, Json(MadeToken { token, text })))
}

/// Revoke a token: the next request with it is refused, and its event streams end.
#[utoipa::path(delete, path = "/v1/tokens/{token}", tag = "tokens", security(("token" = ["admin"])),
    params(("token" = String, Path, description = "its id or name")),
    responses(
    (status = 204, description = "it is good no more"),
    (status = 404, description = "there is no such token",
        body = Problem, content_type = "application/problem+json"),
    BadParameter, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn revoke_token(
    State(app): State<App>,
    token: Result<Path<String>, axum::extract::rejection::PathRejection>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<StatusCode, Problem> {
    let Path(token) = token.map_err(|rejection| {
        Problem::bad("token", format!("{rejection}: write it in plain text"))
    })?;
    blocking(move || app.tokens.revoke(&token).map_err(refusal)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_at_most_64_plain_characters() {
        for name in ["a", "ci.eu-1_b", &"x".repeat(MAX_NAME)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "a b", "a/b", "é", "a\n", &"x".repeat(MAX_NAME + 1)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_token_is_named() {
        let field = |body: serde_json::Value| {
            let body: TokenBody = serde_json::from_value(body).unwrap();
            body.checked().err().and_then(|problem| problem.field)
        };
        let table = [
            (serde_json::json!({"scopes": ["read"], "ttl": "30d"}), None),
            (serde_json::json!({"scopes": []}), Some("scopes")),
            (
                serde_json::json!({"scopes": ["read"], "name": ""}),
                Some("name"),
            ),
            (
                serde_json::json!({"scopes": ["read"], "ttl": "0s"}),
                Some("ttl"),
            ),
            (
                serde_json::json!({"scopes": ["read"], "ttl": "11y"}),
                Some("ttl"),
            ),
        ];
        for (body, expected) in table {
            assert_eq!(field(body.clone()).as_deref(), expected, "{body}");
        }
    }
}
