//! List entries as bodies write them: one JSON object, a JSON array, or lines of text.

use std::{collections::HashSet, fmt, time::Duration};

use axum::http::StatusCode;
use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer as _, Serialize,
    de::{SeqAccess, Visitor},
};
use utoipa::ToSchema;

use super::{
    extract::named_field,
    problem::{Fault, MAX_FAULTS, Problem},
};
use crate::{lists::NewEntry, prefix, rules::duration};

/// Bodies of whole lists: some three million prefixes.
pub(super) const LIST_BODY: usize = 64 * 1024 * 1024;
/// Characters of a reason. It is a line of a log and a cell of a table.
pub const MAX_REASON: usize = 256;
/// Ten years, as `humantime` counts them.
pub const MAX_TTL: Duration = Duration::from_secs(10 * 31_557_600);

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
pub(super) type FieldError = (&'static str, String);

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

/// Where an entry stands in a body.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// from 1
    Line(usize),
    /// from 0
    Index(usize),
}

impl Place {
    fn fault(self, field: Option<&str>, detail: String) -> Fault {
        let (line, index) = match self {
            Self::Line(line) => (Some(line), None),
            Self::Index(index) => (None, Some(index)),
        };
        Fault {
            line,
            index,
            field: field.map(str::to_owned),
            detail,
        }
    }
}

/// What a list body holds: the good entries, and the faults of the others.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Parsed {
    pub entries: Vec<NewEntry>,
    /// Where each of them stands.
    places: Vec<Place>,
    /// The first [`MAX_FAULTS`].
    pub faults: Vec<Fault>,
    /// How many entries are wrong in all, the protected ones among them.
    pub refused: usize,
    protected: usize,
    /// Entries whose host bits were cleared, and the first of them as written and as read.
    pub cleared: usize,
    pub first_cleared: Option<(String, String)>,
}

impl Parsed {
    /// Says that host bits were cleared, if any were.
    pub(super) fn note(&self) -> Option<String> {
        let (written, read) = self.first_cleared.as_ref()?;
        Some(match self.cleared {
            1 => format!("host bits cleared: {written} is {read}"),
            n => format!("host bits cleared in {n} prefixes, the first: {written} is {read}"),
        })
    }

    /// Every bad entry as one problem.
    pub(super) fn problem(self) -> Problem {
        let Self {
            faults,
            refused,
            protected,
            ..
        } = self;
        let detail = format!(
            "wrong entries: {refused}. Nothing was changed: correct them, or load the good ones alone \
             (?partial=true, or --partial on the command line)"
        );
        // Nothing is wrong with the body itself where all that is refused is protected.
        let status = if refused == protected {
            StatusCode::CONFLICT
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        };
        Problem::new(status, detail)
            .about("body")
            .listing(faults, refused)
    }

    /// Refuses the entries of these prefixes, which only a single deny with force may name.
    pub(super) fn refuse_protected(&mut self, protected: &HashSet<IpNet>) {
        if protected.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut self.entries).into_iter();
        for (entry, place) in entries.zip(std::mem::take(&mut self.places)) {
            let prefix = entry.prefix;
            if protected.contains(&prefix) {
                let detail = format!(
                    "{prefix} is protected: denying it may cut you off. If you mean it, deny it \
                     alone, with force"
                );
                self.protected += 1;
                self.refuse(place.fault(Some("prefix"), detail));
            } else {
                self.entries.push(entry);
                self.places.push(place);
            }
        }
    }

    fn take(&mut self, body: ListedBody, place: Place) {
        let ListedBody {
            prefix: text,
            reason,
            ttl,
        } = body;
        let read = prefix::parse(&text).map_err(|error| ("prefix", error.to_string()));
        let read = read.and_then(|parsed| {
            let (reason, ttl) = EntryBody { reason, ttl }.checked()?;
            Ok((parsed, reason, ttl))
        });
        match read {
            Ok((parsed, reason, ttl)) => {
                if parsed.host_bits_cleared {
                    self.cleared += 1;
                    let first = || (text, parsed.to_string());
                    self.first_cleared.get_or_insert_with(first);
                }
                let prefix = parsed.prefix;
                self.entries.push(NewEntry {
                    prefix,
                    reason,
                    ttl,
                });
                self.places.push(place);
            }
            Err((field, detail)) => self.refuse(place.fault(Some(field), detail)),
        }
    }

    fn refuse(&mut self, fault: Fault) {
        self.refused += 1;
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        }
    }
}

/// One prefix a line; `#` begins a comment; blank lines are passed over.
pub(super) fn from_text(body: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let place = Place::Line(index + 1);
        let written = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        match std::str::from_utf8(written).map(str::trim) {
            Ok("") => {}
            Ok(prefix) => {
                let body = ListedBody {
                    prefix: prefix.to_owned(),
                    reason: None,
                    ttl: None,
                };
                parsed.take(body, place);
            }
            Err(_) => {
                let detail = "the line is no UTF-8 text: write one prefix".to_owned();
                parsed.refuse(place.fault(Some("prefix"), detail));
            }
        }
    }
    parsed
}

/// An array of [`ListedBody`]. An element of another shape is a fault of that element alone.
///
/// # Errors
/// A [`Problem`] where the body as a whole is no JSON array.
pub(super) fn from_json(body: &[u8]) -> Result<Parsed, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = json.deserialize_seq(Elements).and_then(|parsed| {
        json.end()?;
        Ok(parsed)
    });
    parsed.map_err(|error| {
        let detail = format!(
            "the body is no JSON array of entries: {error}. Write [{{\"prefix\":\"198.51.100.0/24\"}}]"
        );
        Problem::bad("body", detail)
    })
}

/// Goes through the array one element at a time, so that memory holds one tree of JSON.
struct Elements;

impl<'de> Visitor<'de> for Elements {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Parsed, A::Error> {
        let mut parsed = Parsed::default();
        let mut index = 0;
        while let Some(element) = elements.next_element::<serde_json::Value>()? {
            let place = Place::Index(index);
            match ListedBody::deserialize(element) {
                Ok(body) => parsed.take(body, place),
                Err(error) => {
                    let detail = error.to_string();
                    let field = named_field(&detail).map(str::to_owned);
                    parsed.refuse(place.fault(field.as_deref(), detail));
                }
            }
            index += 1;
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(parsed: &Parsed) -> Vec<String> {
        let shown = parsed.entries.iter().map(|entry| entry.prefix.to_string());
        shown.collect()
    }

    #[test]
    fn text_has_comments_blank_lines_and_either_line_end() {
        let text = "\u{feff}# a feed\n198.51.100.0/24 # whole net\r\n\n  2001:db8::1\n10.0.0.7/8";
        let parsed = from_text(text.as_bytes());
        assert_eq!(
            prefixes(&parsed),
            ["198.51.100.0/24", "2001:db8::1/128", "10.0.0.0/8"]
        );
        assert_eq!(parsed.refused, 0);
        let note = "host bits cleared: 10.0.0.7/8 is 10.0.0.0/8";
        assert_eq!(parsed.note().as_deref(), Some(note));
    }

    #[test]
    fn every_bad_line_is_named() {
        let parsed = from_text(b"198.51.100.0/24\nnonsense.example\n1.2.3.0/33\n\xff\xfe\n");
        let lines: Vec<_> = parsed
            .faults
            .iter()
            .filter_map(|fault| fault.line)
            .collect();
        assert_eq!(lines, [2, 3, 4]);
        assert_eq!(parsed.entries.len(), 1);
        let problem = parsed.problem();
        assert_eq!((problem.status, problem.errors_total), (422, Some(3)));
    }

    #[test]
    fn protected_lines_are_refused_by_their_place() {
        let mut parsed = from_text(b"192.0.2.1\n# us\n192.0.2.2\n192.0.2.3\n");
        parsed.refuse_protected(&HashSet::from(["192.0.2.2/32".parse().unwrap()]));
        assert_eq!(prefixes(&parsed), ["192.0.2.1/32", "192.0.2.3/32"]);
        assert_eq!((parsed.refused, parsed.faults[0].line), (1, Some(3)));
        assert_eq!(parsed.problem().status, 409);
        let mut parsed = from_text(b"192.0.2.2\nnonsense\n");
        parsed.refuse_protected(&HashSet::from(["192.0.2.2/32".parse().unwrap()]));
        assert_eq!((parsed.refused, parsed.problem().status), (2, 422));
    }

    #[test]
    fn bad_lines_beyond_the_bound_are_counted() {
        for n in [MAX_FAULTS, MAX_FAULTS + 1] {
            let parsed = from_text("bad\n".repeat(n).as_bytes());
            assert_eq!(parsed.faults.len(), MAX_FAULTS);
            assert_eq!(parsed.refused, n);
        }
    }

    #[test]
    fn an_array_names_the_element_and_its_field() {
        let body = br#"[{"prefix":"198.51.100.0/24","ttl":"10m","reason":"r"},
            {"prefix":"198.51.100.0/24","colour":"red"}, {"ttl":"1s"}, 7,
            {"prefix":"x y"}, {"prefix":"::1","ttl":"0s"}]"#;
        let parsed = from_json(body).unwrap();
        assert_eq!(parsed.entries.len(), 1);
        assert_eq!(parsed.entries[0].ttl, Some(Duration::from_secs(600)));
        let faults = parsed.faults.iter();
        let faults: Vec<_> = faults.map(|f| (f.index, f.field.as_deref())).collect();
        let expected = [
            (Some(1), Some("colour")),
            (Some(2), Some("prefix")),
            (Some(3), None),
            (Some(4), Some("prefix")),
            (Some(5), Some("ttl")),
        ];
        assert_eq!(faults, expected);
    }

    #[test]
    fn what_is_no_array_is_refused_whole() {
        for body in ["", "{}", "[", "[]x", "\"a\"", "[{\"prefix\":}]"] {
            let problem = from_json(body.as_bytes()).unwrap_err();
            assert_eq!(problem.status, 400, "{body}");
            assert_eq!(problem.field.as_deref(), Some("body"));
        }
        assert_eq!(from_json(b"[]"), Ok(Parsed::default()));
    }

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
