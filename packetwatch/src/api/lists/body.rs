//! An entry as a body writes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::rules::duration;

/// Characters of a reason. It is a line of a log and a cell of a table.
const MAX_REASON: usize = 256;
/// Ten years, as `humantime` counts them.
const MAX_TTL: Duration = Duration::from_secs(10 * 31_557_600);

/// What an entry says besides its prefix. A `PUT` replaces all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntryBody {
    /// Why, at most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256, example = "our own monitoring")]
    pub reason: Option<String>,
    /// How long, 1s to 10y; without it the entry stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10m")]
    pub ttl: Option<String>,
}

/// An entry of a list body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ListedBody {
    #[schema(example = "198.51.100.0/24")]
    pub prefix: String,
    /// Why, at most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub reason: Option<String>,
    /// How long, 1s to 10y; without it the entry stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10m")]
    pub ttl: Option<String>,
}

/// A field and what is wrong with it.
pub(in crate::api) type FieldError = (&'static str, String);

impl EntryBody {
    /// The reason and the length of time, within their bounds.
    ///
    /// # Errors
    /// The field that is wrong, and the remedy.
    pub fn checked(self) -> Result<(Option<String>, Option<Duration>), FieldError> {
        let Self { reason, ttl } = self;
        if let Some(reason) = &reason {
            let length = reason.chars().count();
            if length > MAX_REASON {
                let detail = format!("{length} characters are more than {MAX_REASON}: shorten it");
                return Err(("reason", detail));
            }
            if reason.contains(char::is_control) {
                let detail = "a control character or line break is in it: write one plain line";
                return Err(("reason", detail.to_owned()));
            }
        }
        let ttl = ttl.map(|text| time_to_live(&text)).transpose();
        Ok((reason, ttl.map_err(|detail| ("ttl", detail))?))
    }
}

/// Reads how long an entry stays.
///
/// # Errors
/// A message that quotes the text and says the bounds.
pub fn time_to_live(text: &str) -> Result<Duration, String> {
    let ttl = duration::parse(text)?;
    if ttl < Duration::from_secs(1) || ttl > MAX_TTL {
        return Err(format!(
            "{text:?} is not between 1s and 10y: leave ttl out for an entry that stays"
        ));
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_between_a_second_and_ten_years() {
        assert_eq!(time_to_live("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(time_to_live("10y"), Ok(MAX_TTL));
        for text in ["999ms", "0s", "10y 1s", "", "forever", "-1s", "10"] {
            assert!(time_to_live(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_reason_is_one_line_of_256_characters() {
        let body = |reason: String| EntryBody {
            reason: Some(reason),
            ttl: None,
        };
        assert!(body("ä".repeat(MAX_REASON)).checked().is_ok());
        for reason in ["ä".repeat(MAX_REASON + 1), "a\nb".to_owned()] {
            assert_eq!(body(reason).checked().unwrap_err().0, "reason");
        }
    }
}
