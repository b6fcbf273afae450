//! Bodies of single objects, read as their handlers read them; [`crate::fuzz`] says what for.

use std::time::Duration;

use axum::http::StatusCode;

pub use super::{backup::fuzz::restore, lists::fuzz::lists};
use super::{
    extract::json,
    lists::EntryBody,
    mode::{NewBypass, NewMode, time_to_bypass},
    problem::{MAX_FAULTS, Problem},
    rules::NewRules,
    tokens::TokenBody,
};
use crate::{
    fuzz::{assert_plain, assert_within_bounds},
    rules::{RuleSet, duration},
};

/// Ten years.
const LONGEST: Duration = Duration::from_secs(315_576_000);

/// The bodies of single objects: an entry, rules, a token, a mode, a bypass.
///
/// # Panics
/// Where what was taken is out of bounds or reads back as something else.
pub fn requests(input: &[u8]) {
    let entry = json(input).and_then(|body: EntryBody| {
        let checked = body.checked();
        checked.map_err(|(field, detail)| Problem::refused(field, detail))
    });
    each_told(entry, |(reason, ttl)| {
        assert_reason(reason.as_deref());
        assert!(ttl.is_none_or(is_lasting));
    });
    each_told(json(input).and_then(NewRules::checked), |rules| {
        let rules = RuleSet::validate(rules).expect("what was checked is checked");
        assert_within_bounds(&rules);
    });
    each_told(json(input).and_then(TokenBody::checked), |token| {
        assert!(!token.scopes.is_empty());
        assert!(token.ttl.is_none_or(is_lasting));
        token.name.iter().for_each(|name| assert_plain(name));
    });
    each_told(json(input).and_then(NewMode::checked), |_| {});
    each_told(json(input).and_then(NewBypass::checked), |length| {
        assert!(time_to_bypass(&duration::format(length)).is_ok());
    });
}

fn each_told<T>(read: Result<T, Problem>, taken: impl FnOnce(T)) {
    match read {
        Ok(value) => taken(value),
        Err(problem) => assert_told(&problem),
    }
}

pub(super) fn is_lasting(time: Duration) -> bool {
    (Duration::from_secs(1)..=LONGEST).contains(&time)
}

pub(super) fn assert_reason(reason: Option<&str>) {
    let Some(reason) = reason else { return };
    assert!(reason.chars().count() <= 256, "{reason:?}");
    assert!(!reason.contains(char::is_control), "{reason:?}");
}

/// A refusal names the input that is wrong, and is fit for an answer.
pub(super) fn assert_told(problem: &Problem) {
    let statuses = [
        StatusCode::BAD_REQUEST,
        StatusCode::CONFLICT,
        StatusCode::UNPROCESSABLE_ENTITY,
    ];
    assert!(
        statuses.iter().any(|status| *status == problem.status),
        "{problem:?}"
    );
    assert_plain(&problem.detail);
    assert!(problem.field.is_some(), "{problem:?}");
    let faults = problem.errors.iter();
    faults.for_each(|fault| assert_plain(&fault.detail));
    assert!(problem.errors.len() <= MAX_FAULTS);
    if let Some(total) = problem.errors_total {
        assert_eq!(total.min(MAX_FAULTS), problem.errors.len());
    }
    serde_json::to_vec(problem).expect("a problem is JSON");
}
