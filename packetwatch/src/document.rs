//! TOML read value by value, so that every mistake has a line and a column.

use std::{fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One value and where it stands in its text.
pub(crate) type Value<'i> = Spanned<DeValue<'i>>;

/// What is wrong with the bytes `span` of a text, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
        }
    }
}

impl From<toml::de::Error> for Fault {
    fn from(error: toml::de::Error) -> Self {
        let message = plain(error.message().trim_end());
        Self::new(error.span().unwrap_or(0..0), message)
    }
}

/// Control characters escaped: serde repeats the names that others wrote as they are, and a refusal
/// is shown on terminals.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    plain
}

/// A place in a text: line and column from 1, the column counted in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    /// Where byte `offset` of `text` stands; an offset beyond the end means the end.
    pub(crate) fn of(text: &str, offset: usize) -> Self {
        let before = &text[..text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Parses a whole document.
///
/// Only the first syntax error is told: those after it are mostly its consequences.
pub(crate) fn parse(text: &str) -> Result<DeTable<'_>, Fault> {
    let parsed = DeTable::parse(text).map_err(|error| {
        let mut fault = Fault::from(error);
        // The parser points at the key and leaves its name out.
        if fault.message == "duplicate key" {
            let key = text.get(fault.span.clone()).unwrap_or_default();
            fault.message = format!("duplicate key {key}: keep one of them");
        }
        fault
    })?;
    Ok(parsed.into_inner())
}

/// The known name a mistyped one most likely stands for; `None` if half of what was written or more had
/// to be mistyped for that.
///
/// A right last part in the wrong section (`listen` for `api.listen`) counts as one typing error.
pub(crate) fn nearest<'k>(
    unknown: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |name: &str| {
        let whole = strsim::damerau_levenshtein(unknown, name);
        whole.min(1 + strsim::damerau_levenshtein(&last(unknown), &last(name)))
    };
    let (near, distance) = known
        .into_iter()
        .map(|name| (name, distance(name)))
        .min_by_key(|(_, distance)| *distance)?;
    (2 * distance < unknown.chars().count()).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let text = "a = 1\nü = \"x\"\n";
        let at = |needle| Position::of(text, text.find(needle).unwrap()).to_string();
        assert_eq!(at("a"), "1:1");
        assert_eq!(at("ü"), "2:1");
        assert_eq!(at("\"x"), "2:5");
        assert_eq!(Position::of(text, 999).to_string(), "3:1");
    }

    #[test]
    fn the_nearest_name_crosses_sections() {
        let known = ["mode", "xdp_mode", "api.listen", "log.format"];
        assert_eq!(nearest("mod", known), Some("mode"));
        assert_eq!(nearest("listen", known), Some("api.listen"));
        assert_eq!(nearest("api.lisen", known), Some("api.listen"));
        assert_eq!(nearest("logs.format", known), Some("log.format"));
    }

    #[test]
    fn nothing_is_near_to_what_is_half_another_word() {
        let known = ["mode", "api.listen"];
        assert_eq!(nearest("mule", known), None);
        assert_eq!(nearest("muse_", known), None);
        assert_eq!(nearest("moodee", known), Some("mode"));
        assert_eq!(nearest("retention", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("mode", []), None);
    }

    #[test]
    fn what_others_wrote_is_repeated_on_one_plain_line() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Action {
            Ban,
        }
        let error = toml::from_str::<std::collections::HashMap<String, Action>>(
            "action = \"b\\u0000a\\nn\"",
        );
        let fault = Fault::from(error.unwrap_err());
        assert_eq!(
            fault.message,
            r"unknown variant `b\u{0}a\nn`, expected `ban`"
        );
    }

    #[test]
    fn a_syntax_error_has_its_place() {
        let text = "mode = \"enforce\"\nmode = \"observe\"\n";
        let fault = parse(text).unwrap_err();
        assert_eq!(Position::of(text, fault.span.start).to_string(), "2:1");
        assert_eq!(fault.message, "duplicate key mode: keep one of them");
    }
}
