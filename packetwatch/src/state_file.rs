//! Small files of the state directory, read whole at a start; one that cannot be understood is set
//! aside under another name, as it is, and told.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use time::{OffsetDateTime, macros::format_description};

use crate::{durable, log::EVENT, regular_file};

/// Why a file is not understood.
#[derive(Debug)]
pub(crate) enum Unread {
    /// nobody's whose disk is sound: the cause, which quotes no secret
    Damaged(String),
    /// of this version, which a newer build writes
    Newer(u64),
    /// it may be sound
    Io(io::Error),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Damaged(error.to_string()),
            _ => Self::Io(error),
        }
    }
}

/// Opens a file; `None` if there is none.
///
/// # Errors
/// It is something else than a file, or is not let be opened.
pub(crate) fn open(path: &Path) -> Result<Option<File>, Unread> {
    match regular_file::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// The text of a file, which has at most so many bytes.
///
/// # Errors
/// It is longer, or no text, or cannot be read.
pub(crate) fn text(file: File, most: u64) -> Result<String, Unread> {
    let mut text = String::new();
    match file.take(most + 1).read_to_string(&mut text)? as u64 {
        read if read <= most => Ok(text),
        _ => Err(Unread::Damaged("longer than any daemon writes it".into())),
    }
}

/// What is to lie where a damaged file was, and its mode.
pub(crate) type Instead<'b> = (&'b [u8], u32);

/// Sets a damaged file aside, for people to look at, and tells it: the cause, and what it has come to
/// with the remedy. What is to lie in its place is there in the same step.
///
/// # Errors
/// Of the disk. The file is where it was, or aside.
pub(crate) fn set_aside(
    path: &Path,
    instead: Option<Instead<'_>>,
    cause: &str,
    outcome: &str,
) -> io::Result<()> {
    let aside = aside(path, OffsetDateTime::now_utc());
    match instead {
        None => durable::rename(path, &aside)?,
        Some((bytes, mode)) => {
            durable::replace(&aside, bytes, mode)?;
            durable::exchange(path, &aside)?;
        }
    }
    tracing::error!(
        target: EVENT,
        {
            event.action = "state-set-aside",
            file.path = %aside.display(),
            error.message = cause,
        },
        "{} was damaged and lies at {} now: {outcome}", path.display(), aside.display()
    );
    Ok(())
}

/// The name for a damaged file, with the time; one that is free.
pub(crate) fn aside(path: &Path, at: OffsetDateTime) -> PathBuf {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let stamp = at.format(&format).unwrap_or_default();
    let named = |suffix: &str| {
        let mut name = OsString::from(path);
        name.push(format!(".damaged-{stamp}{suffix}"));
        PathBuf::from(name)
    };
    let is_free = |name: &PathBuf| fs::symlink_metadata(name).is_err();
    let further = (2..).map(|n| named(&format!("-{n}")));
    let mut names = std::iter::once(named("")).chain(further);
    names.find(is_free).expect("names without an end")
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    const MOST: u64 = 8;

    fn read(path: &Path) -> Result<Option<String>, Unread> {
        open(path)?.map(|file| text(file, MOST)).transpose()
    }

    #[test]
    fn what_is_no_text_of_its_length_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(matches!(read(&path), Ok(None)));
        fs::write(&path, "12345678").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("12345678"));
        let damaged = |told: &str| match read(&path) {
            Err(Unread::Damaged(cause)) => assert!(cause.contains(told), "{cause}"),
            read => panic!("{told}: {read:?}"),
        };
        fs::write(&path, "123456789").unwrap();
        damaged("longer");
        fs::write(&path, b"\xff").unwrap();
        damaged("UTF-8");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        damaged("a directory");
        fs::remove_dir(&path).unwrap();
        mkfifo(&path, Mode::S_IRUSR).unwrap();
        damaged("a pipe");
    }

    #[test]
    fn a_name_is_given_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let at = time::macros::datetime!(2026-11-22 12:00 UTC);
        let names = ["", "-2", "-3"].map(|suffix| {
            let name = aside(&path, at);
            let told = name.file_name().unwrap().to_str().unwrap();
            assert_eq!(told, format!("file.damaged-20261122T120000Z{suffix}"));
            fs::write(&name, suffix).unwrap();
            name
        });
        assert_eq!(fs::read_to_string(&names[0]).unwrap(), "");
    }

    #[test]
    fn a_file_or_directory_is_set_aside_as_it_is() {
        for instead in [None, Some((b"new".as_slice(), 0o600))] {
            for is_directory in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("file");
                match is_directory {
                    true => fs::create_dir(&path).unwrap(),
                    false => fs::write(&path, "damaged").unwrap(),
                }
                set_aside(&path, instead, "cause", "outcome").unwrap();
                let left = fs::read(&path).ok();
                assert_eq!(left.as_deref(), instead.map(|(bytes, _)| bytes));
                let others = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
                let others: Vec<_> = others.filter(|other| *other != path).collect();
                assert_eq!(others.len(), 1, "{others:?}");
                assert_eq!(others[0].is_dir(), is_directory);
            }
        }
    }
}
