//! What a list body holds: the good entries, and what is wrong with the others.

use std::collections::HashSet;

use axum::http::StatusCode;
use ipnet::IpNet;

use super::{EntryBody, ListedBody};
use crate::{
    api::problem::{Fault, MAX_FAULTS, Problem},
    lists::NewEntry,
    prefix,
};

/// Where an entry stands in a body.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// from 1
    Line(usize),
    /// from 0
    Index(usize),
}

impl Place {
    pub(super) fn fault(self, field: Option<&str>, detail: String) -> Fault {
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
pub(super) struct Feed {
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

impl Feed {
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
        let field = faults.first().and_then(|fault| fault.path(""));
        Problem::new(status, detail)
            .about(field.unwrap_or_else(|| "body".to_owned()))
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

    pub(super) fn take(&mut self, body: ListedBody, place: Place) {
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

    pub(super) fn refuse(&mut self, fault: Fault) {
        self.refused += 1;
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        }
    }
}
