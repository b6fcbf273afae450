//! Whole lists as bodies write them: a JSON array, or lines of text.

use std::fmt;

use serde::{
    Deserializer as _,
    de::{SeqAccess, Visitor},
};

use super::{
    ListedBody,
    feed::{Feed, Place},
};
use crate::api::{
    extract::{NO_OBJECT, told},
    problem::Problem,
};

/// One prefix a line; `#` begins a comment; blank lines are passed over.
///
/// # Errors
/// A [`Problem`] for a body of nothing but white space: what is left of a feed whose download failed is
/// no list.
pub(super) fn from_text(body: &[u8]) -> Result<Feed, Problem> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if body.iter().all(u8::is_ascii_whitespace) {
        let detail = "the body has no line, as that of a feed that could not be fetched. If you mean no \
                      prefix at all, send [] as application/json, or a line with a comment: # none";
        return Err(Problem::refused("body", detail));
    }
    let mut parsed = Feed::default();
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
    Ok(parsed)
}

/// An array of [`ListedBody`]. An element of another shape is a fault of that element alone.
///
/// # Errors
/// A [`Problem`] where the body as a whole is no JSON array.
pub(super) fn from_json(body: &[u8]) -> Result<Feed, Problem> {
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
    type Value = Feed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Feed, A::Error> {
        let mut parsed = Feed::default();
        let mut index = 0;
        while let Some(element) = elements.next_element::<serde_json::Value>()? {
            let place = Place::Index(index);
            // As in the bodies of single entries.
            if element.is_array() {
                parsed.refuse(place.fault(None, NO_OBJECT.to_owned()));
                index += 1;
                continue;
            }
            match serde_path_to_error::deserialize(element) {
                Ok(body) => parsed.take(body, place),
                Err(error) => {
                    let (field, detail) = told(&error);
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
    use std::{collections::HashSet, time::Duration};

    use super::*;
    use crate::api::problem::MAX_FAULTS;

    fn prefixes(parsed: &Feed) -> Vec<String> {
        let shown = parsed.entries.iter().map(|entry| entry.prefix.to_string());
        shown.collect()
    }

    #[test]
    fn text_has_comments_blank_lines_and_either_line_end() {
        let text = "\u{feff}# a feed\n198.51.100.0/24 # whole net\r\n\n  2001:db8::1\n10.0.0.7/8";
        let parsed = from_text(text.as_bytes()).unwrap();
        assert_eq!(
            prefixes(&parsed),
            ["198.51.100.0/24", "2001:db8::1/128", "10.0.0.0/8"]
        );
        assert_eq!(parsed.refused, 0);
        let note = "host bits cleared: 10.0.0.7/8 is 10.0.0.0/8";
        assert_eq!(parsed.note().as_deref(), Some(note));
    }

    #[test]
    fn a_text_without_a_line_is_no_list() {
        for nothing in ["", "\u{feff}", "\n", " \r\n\t\n"] {
            let problem = from_text(nothing.as_bytes()).unwrap_err();
            assert_eq!(
                (problem.status, problem.field.as_deref()),
                (422, Some("body"))
            );
            assert!(problem.detail.contains("# none"), "{}", problem.detail);
        }
        for none in ["# none", "\n#\n"] {
            assert_eq!(from_text(none.as_bytes()), Ok(Feed::default()));
        }
    }

    #[test]
    fn every_bad_line_is_named() {
        let parsed =
            from_text(b"198.51.100.0/24\nnonsense.example\n1.2.3.0/33\n\xff\xfe\n").unwrap();
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
        let mut parsed = from_text(b"192.0.2.1\n# us\n192.0.2.2\n192.0.2.3\n").unwrap();
        parsed.refuse_protected(&HashSet::from(["192.0.2.2/32".parse().unwrap()]));
        assert_eq!(prefixes(&parsed), ["192.0.2.1/32", "192.0.2.3/32"]);
        assert_eq!((parsed.refused, parsed.faults[0].line), (1, Some(3)));
        assert_eq!(parsed.problem().status, 409);
        let mut parsed = from_text(b"192.0.2.2\nnonsense\n").unwrap();
        parsed.refuse_protected(&HashSet::from(["192.0.2.2/32".parse().unwrap()]));
        assert_eq!((parsed.refused, parsed.problem().status), (2, 422));
    }

    #[test]
    fn bad_lines_beyond_the_bound_are_counted() {
        for n in [MAX_FAULTS, MAX_FAULTS + 1] {
            let parsed = from_text("bad\n".repeat(n).as_bytes()).unwrap();
            assert_eq!(parsed.faults.len(), MAX_FAULTS);
            assert_eq!(parsed.refused, n);
        }
    }

    #[test]
    fn an_array_names_the_element_and_its_field() {
        let body = br#"[{"prefix":"198.51.100.0/24","ttl":"10m","reason":"r"},
            {"prefix":"198.51.100.0/24","colour":"red"}, {"ttl":"1s"}, 7,
            {"prefix":"x y"}, {"prefix":"::1","ttl":"0s"}, ["198.51.100.0/24"]]"#;
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
            (Some(6), None),
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
        assert_eq!(from_json(b"[]"), Ok(Feed::default()));
    }
}
