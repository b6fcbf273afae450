//! Where the token of a command comes from.

use std::{
    env,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use reqwest::header::HeaderValue;

use super::client::{ClientError, Connection};

/// A token has 67 bytes.
const MAX_FILE: u64 = 4096;

/// What is sent as `Authorization`: the token of the file if one is named, else of the command line
/// or the environment.
pub(super) fn authorization(connection: &Connection) -> Result<Option<HeaderValue>, ClientError> {
    let text = match &connection.token_file {
        Some(path) => Some(read(path).map_err(|source| ClientError::TokenFile {
            path: path.clone(),
            source,
        })?),
        None => {
            if is_typed(env::args()) {
                eprintln!(
                    "packetwatch: who is on this host can read --token in the process list: \
                     --token-file or PACKETWATCH_TOKEN keeps it from them"
                );
            }
            connection.token.clone()
        }
    };
    let Some(token) = text
        .as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| ClientError::Token)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    match File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)? as u64
    {
        0..=MAX_FILE => Ok(text),
        _ => Err(io::Error::other("it is longer than any token")),
    }
}

fn is_typed(mut arguments: impl Iterator<Item = String>) -> bool {
    arguments.any(|argument| argument == "--token" || argument.starts_with("--token="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_typed_is_noticed() {
        let typed = |line: &str| is_typed(line.split(' ').map(str::to_owned));
        assert!(typed("packetwatch status --token pw_0"));
        assert!(typed("packetwatch status --token=pw_0"));
        assert!(!typed("packetwatch status --token-file f"));
        assert!(!typed("packetwatch token list"));
    }
}
