//! Opening what has to be a regular file: a pipe, a device or a socket in its place keeps nobody waiting.

use std::{
    fs::{self, File, FileType, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use nix::fcntl::OFlag;

/// Opens a file to read it.
///
/// # Errors
/// There is none, or it is not let be opened; [`io::ErrorKind::InvalidData`] with what it is, if it is
/// something else than a file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // A pipe would be waited for, and a terminal become the process's own.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path);
    let kind = match &opened {
        Ok(file) => file.metadata()?.file_type(),
        // A socket, or a device that nothing drives.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => fs::metadata(path)?.file_type(),
        Err(_) => return opened,
    };
    if kind.is_file() {
        return opened;
    }
    let what = format!("it is {}, and no regular file", name(kind));
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

fn name(kind: FileType) -> &'static str {
    match kind {
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn what_is_no_file_is_named_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "").unwrap();
        assert!(open(&path("file")).is_ok());
        let missing = open(&path("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);

        mkfifo(&path("pipe"), Mode::S_IRUSR).unwrap();
        let _bound = UnixListener::bind(path("socket")).unwrap();
        for (path, what) in [
            (dir.path().to_owned(), "a directory"),
            (path("pipe"), "a pipe"),
            (path("socket"), "a socket"),
            ("/dev/null".into(), "a device"),
        ] {
            let error = open(&path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            assert_eq!(
                error.to_string(),
                format!("it is {what}, and no regular file")
            );
        }
    }
}
