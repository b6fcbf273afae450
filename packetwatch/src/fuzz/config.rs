//! The configuration file, as a start reads it.

use std::{
    io::{Seek as _, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{assert_plain, assert_within_bounds};
use crate::config::{Config, ConfigError, Flags, Origin, Sources, Violation};

/// # Panics
/// Where a mistake is told without file and line, or what was taken does not read back.
pub fn config(input: &[u8]) {
    match load(input) {
        Ok(config) => {
            assert_within_bounds(&config.rules);
            config.notes().iter().for_each(|note| assert_plain(note));
            let written = config.to_toml();
            let again = load(written.as_bytes()).unwrap_or_else(|(_, error)| {
                panic!("what was taken is refused when written back: {error}\n{written}")
            });
            let values = |config: &Config| -> Vec<_> {
                let settings = config.settings();
                settings.map(|one| (one.key, one.value)).collect()
            };
            assert_eq!(values(&again), values(&config));
        }
        Err((path, ConfigError::Unreadable { path: told, .. })) => {
            assert_eq!(told, path);
            assert!(
                std::str::from_utf8(input).is_err(),
                "text of this size is readable"
            );
        }
        Err((path, ConfigError::Invalid(violations))) => {
            assert!(!violations.is_empty());
            let text = std::str::from_utf8(input).expect("what is no text is unreadable");
            violations
                .iter()
                .for_each(|violation| assert_placed(violation, &path, text));
        }
    }
}

fn assert_placed(violation: &Violation, path: &Path, text: &str) {
    let Origin::File { path: told, at } = &violation.origin else {
        panic!("not of the file: {violation}");
    };
    assert_eq!(told, path);
    // A text that ends with its line ends in the line behind it.
    let line = text.split('\n').nth(at.line - 1);
    let line = line.unwrap_or_else(|| panic!("no such line: {violation}"));
    assert!(
        (1..=line.chars().count() + 1).contains(&at.column),
        "no such column: {violation}"
    );
    assert_plain(&violation.message);
    let shown = violation.to_string();
    assert!(shown.starts_with(&format!("{}:{}:{}: ", path.display(), at.line, at.column)));
    if let Some(key) = violation.key {
        assert!(shown.contains(key), "{shown}");
    }
}

/// Through a file that is in memory, and its path.
fn load(text: &[u8]) -> Result<Config, (PathBuf, ConfigError)> {
    let file = memfd_create("packetwatch.toml", MFdFlags::MFD_CLOEXEC).expect("a file in memory");
    let mut file = std::fs::File::from(file);
    file.write_all(text).expect("write it");
    file.rewind().expect("rewind it");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let flags = Flags {
        config: Some(path.clone()),
        ..Flags::default()
    };
    let sources = Sources {
        flags,
        env: Vec::new(),
        default_file: PathBuf::new(),
    };
    Config::load(sources).map_err(|error| (path, error))
}
