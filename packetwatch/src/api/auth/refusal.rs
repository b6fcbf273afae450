//! What is answered to one who is not let in.

use std::time::Duration;

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};

use crate::api::problem::Problem;

/// Why a request is not let in.
#[derive(Debug)]
pub(super) struct Refusal {
    /// For the log and the metrics.
    pub cause: &'static str,
    pub problem: Box<Problem>,
}

impl Refusal {
    pub(super) fn new(cause: &'static str, status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            cause,
            problem: Problem::new(status, detail).into(),
        }
    }

    /// 401 about the header that tokens come in.
    pub(super) fn of_token(cause: &'static str, detail: &str) -> Self {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, detail).about("Authorization");
        Self {
            cause,
            problem: problem.into(),
        }
    }
}

/// 429, with the seconds to wait, at least one.
pub(super) fn slow_down(detail: &str, wait: Duration) -> Response {
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail);
    let mut response = problem.into_response();
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, seconds.max(1).into());
    response
}
