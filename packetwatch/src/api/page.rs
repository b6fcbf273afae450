//! Pages of a list.

use serde::Deserialize;

use super::{extract::address, problem::Problem};
use crate::lists::PageQuery;

pub(super) const DEFAULT_LIMIT: usize = 100;
pub const MAX_LIMIT: usize = 10_000;
/// Far longer than any cursor that a page hands out.
const MAX_CURSOR: usize = 256;

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// Entries on the page.
    #[param(minimum = 1, maximum = 10_000, default = 100)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Only entries that cover this address.
    #[param(example = "198.51.100.7")]
    contains: Option<String>,
}

impl PageParams {
    /// The page that is meant.
    ///
    /// # Errors
    /// 400 naming the parameter that is out of bounds.
    pub(super) fn query(self) -> Result<PageQuery, Problem> {
        let Self {
            limit,
            cursor,
            contains,
        } = self;
        if cursor
            .as_ref()
            .is_some_and(|cursor| cursor.len() > MAX_CURSOR)
        {
            let detail = "this is no cursor: take `next` of the page before, or none to begin";
            return Err(Problem::bad("cursor", detail));
        }
        let contains = contains.map(|text| address(&text)).transpose();
        Ok(PageQuery {
            limit: limit_in_bounds(limit)?,
            cursor,
            contains: contains.map_err(|detail| Problem::bad("contains", detail))?,
        })
    }
}

/// The `limit` parameter, 1 to [`MAX_LIMIT`].
///
/// # Errors
/// 400 with the bounds.
pub(super) fn limit_in_bounds(limit: Option<usize>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    let detail = format!("limit is {limit}: ask for 1 to {MAX_LIMIT}, and for more with cursor");
    Err(Problem::bad("limit", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_at_their_bounds() {
        assert_eq!(limit_in_bounds(None), Ok(DEFAULT_LIMIT));
        for good in [1, MAX_LIMIT] {
            assert_eq!(limit_in_bounds(Some(good)), Ok(good));
        }
        for bad in [0, MAX_LIMIT + 1, usize::MAX] {
            let problem = limit_in_bounds(Some(bad)).unwrap_err();
            assert_eq!(
                (problem.status, problem.field.as_deref()),
                (400, Some("limit"))
            );
        }
    }

    #[test]
    fn a_cursor_and_an_address_are_checked() {
        let with = |cursor: Option<String>, contains: Option<&str>| {
            let contains = contains.map(str::to_owned);
            PageParams {
                limit: None,
                cursor,
                contains,
            }
            .query()
        };
        assert!(with(Some("x".repeat(MAX_CURSOR)), Some("198.51.100.7")).is_ok());
        let field = |query: Result<PageQuery, Problem>| query.err().and_then(|p| p.field);
        let long = with(Some("x".repeat(MAX_CURSOR + 1)), None);
        assert_eq!(field(long).as_deref(), Some("cursor"));
        for text in ["198.51.100.0/24", "host.example", ""] {
            assert_eq!(
                field(with(None, Some(text))).as_deref(),
                Some("contains"),
                "{text}"
            );
        }
    }
}
