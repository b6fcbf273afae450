//! The BPF file system that pins are made on.

use std::{fs, io, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::AttachError;

/// Where every distribution mounts it.
pub(super) const USUAL: &str = "/sys/fs/bpf";

/// Makes sure that `dir` is on a BPF file system: mounts one where nothing is hidden by it, which is
/// a directory that does not exist yet, an empty one, or `/sys/fs/bpf`, which is there for it.
///
/// # Errors
/// There are files, or the mount is refused.
pub(super) fn ensure(dir: &Path) -> Result<(), AttachError> {
    let error = |operation| {
        let path = dir.to_owned();
        move |source| AttachError::Pin {
            operation,
            path,
            source,
        }
    };
    if is_bpffs(dir) {
        return Ok(());
    }
    let is_new = !dir.exists();
    if is_new {
        fs::create_dir_all(dir).map_err(error("create"))?;
        // below one that is mounted
        if is_bpffs(dir) {
            return Ok(());
        }
    } else if !may_be_hidden(dir).map_err(error("read"))? {
        return Err(AttachError::NotBpffs(dir.to_owned()));
    }
    let nothing = None::<&str>;
    mount(Some("bpf"), dir, Some("bpf"), MsFlags::empty(), nothing).map_err(|errno| {
        if is_new {
            let _ = fs::remove_dir(dir);
        }
        error("mount bpffs on")(errno.into())
    })
}

fn may_be_hidden(dir: &Path) -> io::Result<bool> {
    if fs::canonicalize(dir)? == Path::new(USUAL) {
        return Ok(true);
    }
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mounted_over_files() {
        let dir = tempfile::tempdir().unwrap();
        assert!(may_be_hidden(dir.path()).unwrap());
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(!may_be_hidden(dir.path()).unwrap());
        for path in [dir.path(), &file] {
            let refused = ensure(path).unwrap_err().to_string();
            assert!(refused.contains(&path.display().to_string()), "{refused}");
            assert!(refused.contains("--bpffs"), "{refused}");
        }
        assert!(!is_bpffs(dir.path()));
    }
}
