//! How long a ban lasts.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::duration;

/// A length of time, or for ever; written `"10m"` or `"forever"`. Orders by length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BanLength {
    For(Duration),
    Forever,
}

impl FromStr for BanLength {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "forever" => Ok(Self::Forever),
            _ => duration::parse(text)
                .map(Self::For)
                .map_err(|error| format!("{error}, or \"forever\"")),
        }
    }
}

impl fmt::Display for BanLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(length) => f.write_str(&duration::format(*length)),
            Self::Forever => f.write_str("forever"),
        }
    }
}

impl Serialize for BanLength {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BanLength {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        String::deserialize(source)?
            .parse()
            .map_err(D::Error::custom)
    }
}
