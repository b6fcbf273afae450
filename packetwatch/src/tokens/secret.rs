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
