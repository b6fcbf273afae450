//! Where a setting came from, and what is wrong with it.

use std::{fmt, io, path::PathBuf};

use thiserror::Error;

use crate::document::Position;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built into the binary.
    Default,
    File {
        path: PathBuf,
        at: Position,
    },
    /// An environment variable, by its name.
    Variable(String),
    /// A variable with an empty value, which asks for the default.
    EmptyVariable(String),
    /// A flag, as in `--api`.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, at } => write!(f, "{}:{at}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::EmptyVariable(name) => write!(f, "default ({name} is empty)"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub origin: Origin,
    /// The key whose value is wrong, unless the key itself or the syntax is.
    pub key: Option<&'static str>,
    /// What is wrong and the remedy.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            origin,
            key,
            message,
        } = self;
        match (origin, key) {
            // A variable or flag names its key already.
            (Origin::File { .. }, Some(key)) => write!(f, "{origin}: {key}: {message}"),
            _ => write!(f, "{origin}: {message}"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}: {source}; {remedy}", path.display())]
    Unreadable {
        path: PathBuf,
        source: io::Error,
        remedy: &'static str,
    },
    /// Everything found wrong, one a line: the file's in its order, then variables, then flags.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Violation>),
}

impl ConfigError {
    /// Whether flags alone are wrong, which is wrong usage of the command line.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Unreadable { .. } => false,
            Self::Invalid(violations) => violations
                .iter()
                .all(|violation| matches!(violation.origin, Origin::Flag(_))),
        }
    }
}
