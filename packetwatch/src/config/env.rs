//! `PACKETWATCH_API__LISTEN` is `api.listen`.

use std::ffi::OsString;

use toml::de::DeValue;

use super::{
    error::{Origin, Violation},
    keys::{KEYS, Key, Kind},
    values,
};
use crate::document::{self, Value};

const START: &str = "PACKETWATCH_";

/// What client commands read, and the build: no settings of the daemon, and no mistakes either.
const NOT_SETTINGS: [&str; 3] = [
    "PACKETWATCH_TOKEN",
    "PACKETWATCH_BIN",
    "PACKETWATCH_EBPF_TOOLCHAIN",
];

/// A variable that names a key.
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) key: &'static Key,
    pub(super) text: String,
}

/// The variables that begin with `PACKETWATCH_`, sorted by name, each a key or a violation.
pub(super) fn variables(env: &[(OsString, OsString)]) -> Vec<Result<Variable, Violation>> {
    let mut found: Vec<_> = env
        .iter()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with(START) && !NOT_SETTINGS.contains(&name.as_str()))
        .collect();
    found.sort();
    let read = |(name, value): (String, &OsString)| {
        let Some(key) = KEYS.iter().find(|key| variable_of(key.path) == name) else {
            return Err(unknown(name));
        };
        match value.to_str() {
            Some(text) => Ok(Variable {
                name,
                key,
                text: text.to_owned(),
            }),
            None => Err(Violation {
                origin: Origin::Variable(name),
                key: Some(key.path),
                message: "the value is not UTF-8: write it in UTF-8".to_owned(),
            }),
        }
    };
    found.into_iter().map(read).collect()
}

impl Variable {
    /// The text as a value of the key; what is no TOML stays text, and the key's reader says so.
    pub(super) fn value(&self) -> Value<'_> {
        let text = self.text.as_str();
        let as_text = || values::unplaced(DeValue::String(text.into()));
        match self.key.kind {
            Kind::Text => as_text(),
            Kind::List if !text.trim_start().starts_with('[') => {
                values::unplaced(values::list(text.split(',').map(str::trim)))
            }
            Kind::Literal | Kind::List => DeValue::parse(text).unwrap_or_else(|_| as_text()),
        }
    }
}

fn variable_of(path: &str) -> String {
    format!("{START}{}", path.to_uppercase().replace('.', "__"))
}

fn unknown(name: String) -> Violation {
    let path = name[START.len()..].to_lowercase().replace("__", ".");
    let message = match document::nearest(&path, KEYS.iter().map(|key| key.path)) {
        Some(near) => format!(
            "unknown variable: the nearest known one is {}",
            variable_of(near)
        ),
        None => "unknown variable: unset it, or name a key that `packetwatch config template` shows, as \
                 in PACKETWATCH_API__LISTEN for api.listen"
            .to_owned(),
    };
    Violation {
        message,
        origin: Origin::Variable(name),
        key: None,
    }
}
