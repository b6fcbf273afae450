//! What went wrong, as `application/problem+json` (RFC 9457).

use axum::{
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::tokens::mask;

/// Faults that one answer lists; the total is told besides.
pub(super) const MAX_FAULTS: usize = 100;

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Seconds after which a 503 is worth another attempt: what was in the way is gone by then, or was
/// told in the log.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Why a request was refused or failed, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: Box<str>,
    pub title: Box<str>,
    pub status: u16,
    /// What is wrong and the remedy.
    pub detail: String,
    /// The input that is wrong: a path or query parameter, a field of the body, a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<Box<str>>,
    /// The single faults of a body with several, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
    /// How many faults there are in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors_total: Option<usize>,
}

/// One fault in a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// Line of a text body, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Place in a JSON array, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong and the remedy.
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            errors: Vec::new(),
            errors_total: None,
        }
    }

    /// 400 for an input that cannot be read.
    pub fn bad(field: impl Into<Box<str>>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail).about(field)
    }

    /// 422 for a body that is read and then refused.
    pub fn refused(field: impl Into<Box<str>>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail).about(field)
    }

    /// 500. The cause goes to the log and not to the caller.
    pub fn internal(what: &'static str, cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(error.message = %cause, "API: cannot {what}");
        let detail = format!("The daemon could not {what}; its log says why.");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    pub fn about(mut self, field: impl Into<Box<str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Lists faults: the first [`MAX_FAULTS`] of `total`.
    pub fn listing(mut self, mut faults: Vec<Fault>, total: usize) -> Self {
        faults.truncate(MAX_FAULTS);
        self.errors = faults;
        self.errors_total = Some(total);
        self
    }

    /// What a status that came without a body means here: from the router, a limit or a timeout.
    fn of_status(status: StatusCode) -> Self {
        let detail = match status {
            StatusCode::NOT_FOUND => "Nothing is at this path; GET /openapi.json lists every path.",
            StatusCode::METHOD_NOT_ALLOWED => {
                "This path does not take this method; the header Allow lists those it takes."
            }
            StatusCode::GATEWAY_TIMEOUT => {
                "The daemon took too long. A change may still take effect: look before you repeat it."
            }
            _ if status.is_server_error() => "The daemon failed; its log says why.",
            _ => "The request cannot be read; GET /openapi.json says what it should be.",
        };
        Self::new(status, detail)
    }
}

impl Fault {
    /// Its place in a JSON body whose array bears this name, as `rules[0].within`; `None` for a
    /// line of text.
    pub(super) fn path(&self, array: &str) -> Option<String> {
        let element = format!("{array}[{}]", self.index?);
        Some(match &self.field {
            Some(field) => format!("{element}.{field}"),
            None => element,
        })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = serde_json::to_string(&self).unwrap_or_default();
        // What is wrong is quoted, and may be a token that stands where it should not.
        mask(&mut body, 0);
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

/// Gives every error the form of a problem, whoever made it; headers such as `Allow` stay.
pub(super) async fn as_problem(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || response.headers().get(header::CONTENT_TYPE) == Some(&CONTENT_TYPE) {
        return response;
    }
    let (parts, _) = response.into_parts();
    let mut problem = Problem::of_status(status).into_response();
    for name in [header::ALLOW, header::RETRY_AFTER, header::CONNECTION] {
        if let Some(value) = parts.headers.get(&name) {
            problem.headers_mut().insert(name, value.clone());
        }
    }
    problem
}

/// The answer to a handler that panicked; the panic itself is on stderr.
pub(super) fn of_panic(_: Box<dyn std::any::Any + Send>) -> Response {
    Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_left_out() {
        let problem = Problem::bad("limit", "too many");
        let json = serde_json::to_value(&problem).unwrap();
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Bad Request", "status": 400,
            "detail": "too many", "field": "limit",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn faults_are_bounded_and_their_total_is_told() {
        let fault = Fault {
            line: Some(1),
            index: None,
            field: None,
            detail: "bad".to_owned(),
        };
        for n in [MAX_FAULTS, MAX_FAULTS + 1] {
            let problem = Problem::refused("body", "bad lines").listing(vec![fault.clone(); n], n);
            assert_eq!(problem.errors.len(), MAX_FAULTS);
            assert_eq!(problem.errors_total, Some(n));
        }
    }

    #[test]
    fn an_internal_cause_is_not_shown() {
        let problem = Problem::internal("read the map", &"secret /path");
        assert!(!problem.detail.contains("secret"), "{problem:?}");
        assert_eq!(problem.status, 500);
    }
}
