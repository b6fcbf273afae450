//! Lengths of time as users write them: `60s`, `10m`, `24h`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// Reads a length of time such as `90s`, `10m`, `1h 30m` or `7d`; `M` is a month, `m` a minute.
///
/// # Errors
/// A message that quotes the text and shows the form.
pub fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| {
        format!(
            "{text:?} is no length of time ({error}): write it like \"60s\", \"10m\" or \"24h\""
        )
    })
}

/// Writes a length of time in the largest unit that divides it, so that 24 hours stay `24h`.
pub fn format(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() != 0 {
        return humantime::format_duration(duration).to_string();
    }
    match seconds {
        s if s > 86_400 && s % 86_400 == 0 => format!("{}d", s / 86_400),
        s if s > 0 && s % 3600 == 0 => format!("{}h", s / 3600),
        s if s > 0 && s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// For `#[serde(with)]`.
pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*value))
}

/// For `#[serde(with)]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(source: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(source)?).map_err(D::Error::custom)
}

/// For `#[serde(with)]` of a length that may be left out.
pub(crate) mod optional {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        source: D,
    ) -> Result<Option<Duration>, D::Error> {
        super::deserialize(source).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let table = [
            (0, "0s"),
            (1, "1s"),
            (60, "1m"),
            (90, "90s"),
            (3600, "1h"),
            (86_400, "24h"),
            (90_000, "25h"),
            (172_800, "2d"),
        ];
        for (seconds, text) in table {
            let duration = Duration::from_secs(seconds);
            assert_eq!(format(duration), text);
            assert_eq!(parse(text), Ok(duration));
        }
        let odd = Duration::from_millis(1_500);
        assert_eq!(parse(&format(odd)), Ok(odd));
    }

    #[test]
    fn a_bare_number_is_refused_with_the_form() {
        let error = parse("60").unwrap_err();
        assert!(error.starts_with("\"60\" is no length of time"), "{error}");
        assert!(
            error.ends_with("write it like \"60s\", \"10m\" or \"24h\""),
            "{error}"
        );
    }
}
