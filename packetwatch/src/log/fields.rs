//! The fields of an event, as they go into a line.

use std::{borrow::Cow, error::Error, fmt};

use tracing::field::{Field, Visit};

use super::line::Line;

/// Writes the message of an event, wherever it stands among the fields.
pub(super) struct Message<'l, 't> {
    pub(super) line: &'l mut Line<'t>,
    pub(super) found: bool,
}

impl Visit for Message<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" && !self.found {
            self.found = true;
            self.line.message(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" && !self.found {
            self.found = true;
            self.line.message(format_args!("{value:?}"));
        }
    }
}

/// Writes the other fields, in their order.
pub(super) struct Fields<'l, 't> {
    pub(super) line: &'l mut Line<'t>,
    /// of this program: dotted names are keys of the schema
    pub(super) own: bool,
    /// of the `log` crate: `log.*` is where it came from
    pub(super) bridged: bool,
    pub(super) action_written: bool,
}

impl Fields<'_, '_> {
    /// The key that a field is written under; None for those written elsewhere or not at all.
    ///
    /// ECS has `labels.*` for what it does not define; a name there holds no further dot.
    fn key(&self, field: &Field) -> Option<Cow<'static, str>> {
        match field.name() {
            "message" | "@timestamp" => None,
            "event.action" if self.action_written => None,
            "log.target" | "log.module_path" | "log.file" | "log.line" if self.bridged => None,
            name if self.own && name.contains('.') => Some(Cow::Borrowed(name)),
            name => {
                let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
                Some(Cow::Owned(
                    "labels.".chars().chain(name.chars().map(plain)).collect(),
                ))
            }
        }
    }

    fn string(&mut self, field: &Field, value: impl fmt::Display) {
        if let Some(key) = self.key(field) {
            self.line.string(&key, value);
        }
    }

    fn bare(&mut self, field: &Field, value: impl fmt::Display) {
        if let Some(key) = self.key(field) {
            self.line.bare(&key, value);
        }
    }
}

impl Visit for Fields<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for the others; Debug writes large ones with an exponent.
        if value.is_finite() {
            self.bare(field, format_args!("{value:?}"));
        } else {
            self.string(field, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.bare(field, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.bare(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.string(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.string(field, Chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.string(field, format_args!("{value:?}"));
    }
}

/// An error with its causes.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
