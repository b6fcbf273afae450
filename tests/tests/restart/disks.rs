//! File systems of their own for a state directory.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use packetwatch_tests::patience::until;

use crate::scene::PROMPT;

/// A small file system of its own at a path; unmounted at the end.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn mount(path: &Path) -> Self {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"])
            .arg(path);
        assert!(mount.status().expect("run mount").success());
        Self(path.to_owned())
    }

    #[track_caller]
    pub(crate) fn set_read_only(&self, is_read_only: bool) {
        let done = until(PROMPT, || {
            self.try_set_read_only(is_read_only).then_some(())
        });
        assert!(done.is_some(), "{} is busy", self.0.display());
    }

    /// The kernel refuses `remount,ro` as long as a file is open for writing.
    fn try_set_read_only(&self, is_read_only: bool) -> bool {
        let option = if is_read_only {
            "remount,ro"
        } else {
            "remount,rw"
        };
        let mut mount = Command::new("mount");
        mount
            .args(["-o", option])
            .arg(&self.0)
            .stderr(Stdio::null());
        mount.status().expect("run mount").success()
    }

    /// Fills it with a file, which is returned.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).expect("make a file");
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// Lazily, for a daemon that a failing test has not stopped yet may hold it.
fn unmount(path: &Path) {
    let done = Command::new("umount").arg("-l").arg(path).status();
    if !done.is_ok_and(|status| status.success()) {
        eprintln!("{} is still mounted", path.display());
    }
}
