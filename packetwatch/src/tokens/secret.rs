//! The text of a token, which only its owner keeps.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
};

use sha2::{Digest as _, Sha256};

/// Marks the string for people and for scanners of leaked secrets.
const MARK: &str = "pw_";
/// 256 bits: nobody guesses it, so a fast hash is enough.
const RANDOM_BYTES: usize = 32;
const LENGTH: usize = MARK.len() + 2 * RANDOM_BYTES;
/// So many digits behind the mark are not repeated to anybody: fewer are no help in guessing the rest.
const TELLING: usize = 16;

/// A token as it is presented. It has no `Display`, and its `Debug` does not show it.
pub struct Secret(String);

impl Secret {
    pub(super) fn random() -> io::Result<Self> {
        Ok(Self(format!("{MARK}{}", hex(&random::<RANDOM_BYTES>()?))))
    }

    /// A text that may be a token.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(MARK)?;
        let is_token = text.len() == LENGTH && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_token.then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn sha256(&self) -> [u8; 32] {
        sha256(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}...")
    }
}

/// Takes what looks like a token out of what is repeated to others, from this byte on: of a path, say,
/// in which somebody has written a token instead of its name. The digits of a whole one go whatever
/// stands before them, since a mark may be percent-encoded.
pub fn mask(text: &mut String, from: usize) {
    let mut found = Vec::new();
    let mut at = from;
    let runs =
        text.as_bytes()[from..].chunk_by(|a, b| a.is_ascii_hexdigit() == b.is_ascii_hexdigit());
    for run in runs {
        let digits = if run[0].is_ascii_hexdigit() {
            run.len()
        } else {
            0
        };
        let marked = text[..at].ends_with(MARK);
        if digits >= 2 * RANDOM_BYTES || (marked && digits >= TELLING) {
            found.push(at..at + digits);
        }
        at += run.len();
    }
    for digits in found.into_iter().rev() {
        text.replace_range(digits, "...");
    }
}

pub(super) fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// What a token is called by: random as well, and no part of its text.
pub(super) fn new_id() -> io::Result<String> {
    Ok(hex(&random::<4>()?))
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// For `#[serde(with)]`: a hash as hexadecimal digits.
pub(super) mod digits {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in crate::tokens) fn serialize<S: Serializer>(
        bytes: &[u8; 32],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::hex(bytes))
    }

    pub(in crate::tokens) fn deserialize<'de, D: Deserializer<'de>>(
        source: D,
    ) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(source)?;
        let mut bytes = [0; 32];
        let digits = text.as_bytes();
        if digits.len() != 2 * bytes.len() {
            return Err(D::Error::custom("a hash has 64 digits"));
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(D::Error::custom)?;
            *byte = u8::from_str_radix(pair, 16).map_err(D::Error::custom)?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        let mut text = text.to_owned();
        mask(&mut text, 0);
        text
    }

    #[test]
    fn what_looks_like_a_token_is_masked_wherever_it_stands() {
        let token = Secret::random().unwrap();
        let (token, digits) = (token.as_str(), &token.as_str()[MARK.len()..]);
        let table = [
            (format!("/v1/tokens/{token}"), "/v1/tokens/pw_..."),
            (format!("\"{token}\", {token}é"), "\"pw_...\", pw_...é"),
            (format!("pw_{}", digits.to_uppercase()), "pw_..."),
            (format!("/v1/tokens/pw%5f{digits}"), "/v1/tokens/pw%..."),
            (format!("pw_{}", &digits[..TELLING]), "pw_..."),
        ];
        for (text, expected) in table {
            assert_eq!(masked(&text), expected, "{text}");
        }
        let others = [
            "",
            "pw_",
            "pw_...",
            &format!("pw_{}", &digits[1..TELLING]),
            &digits[1..],
            "2001:db8::1/128",
            "püw_é",
        ];
        for text in others {
            assert_eq!(masked(text), text);
        }
        let mut behind = format!("{token} {token}");
        mask(&mut behind, LENGTH);
        assert_eq!(behind, format!("{token} pw_..."), "what is before stays");
    }
}
