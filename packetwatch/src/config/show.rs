//! Values as the file would write them.

use std::{path::PathBuf, time::Duration};

use super::sections::Word;
use crate::{
    prefix::Parsed,
    rules::{RuleSet, duration},
};

/// A value as the file would write it.
pub(super) trait Shown {
    fn shown(&self) -> toml::Value;
}

impl<T: Word> Shown for T {
    fn shown(&self) -> toml::Value {
        self.word().into()
    }
}

impl Shown for bool {
    fn shown(&self) -> toml::Value {
        (*self).into()
    }
}

impl Shown for u32 {
    fn shown(&self) -> toml::Value {
        (*self).into()
    }
}

impl Shown for u64 {
    fn shown(&self) -> toml::Value {
        // Numbers are read with bounds below this.
        i64::try_from(*self).unwrap_or(i64::MAX).into()
    }
}

impl Shown for String {
    fn shown(&self) -> toml::Value {
        self.as_str().into()
    }
}

impl Shown for PathBuf {
    fn shown(&self) -> toml::Value {
        self.display().to_string().into()
    }
}

impl Shown for Parsed {
    fn shown(&self) -> toml::Value {
        self.to_string().into()
    }
}

impl Shown for Duration {
    fn shown(&self) -> toml::Value {
        duration::format(*self).into()
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn shown(&self) -> toml::Value {
        toml::Value::Array(self.iter().map(Shown::shown).collect())
    }
}

impl Shown for RuleSet {
    fn shown(&self) -> toml::Value {
        toml::Value::try_from(self).expect("rules hold only what TOML can say")
    }
}

/// For keys whose `None` is `absent`.
pub(super) fn shown_or<T: ToString>(value: Option<T>, absent: &str) -> toml::Value {
    value
        .map_or_else(|| absent.to_owned(), |value| value.to_string())
        .into()
}
