//! File systems of their own for a state directory: small ones, and one that fails.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::patience::until;

/// For what the kernel does in a moment, however busy the machine is.
const PROMPT: Duration = Duration::from_secs(30);

/// A small file system of its own at a path; unmounted at the end.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it: 24 MiB.
    pub fn mount(path: &Path) -> Self {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"])
            .arg(path);
        assert!(mount.status().expect("run mount").success());
        Self(path.to_owned())
    }

    /// Waits for files that are open for writing to be closed.
    #[track_caller]
    pub fn set_read_only(&self, is_read_only: bool) {
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
    pub fn fill(&self) -> PathBuf {
        self.fill_but(0)
    }

    /// As [`SmallDisk::fill`], but for so many pages: small files.
    pub fn fill_but(&self, pages: u64) -> PathBuf {
        const PAGE: usize = 4096;
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).expect("make a file");
        while file.write_all(&[0; PAGE]).is_ok() {}
        let length = file.metadata().expect("its length").len();
        let kept = length - length % PAGE as u64 - pages * PAGE as u64;
        file.set_len(kept).expect("make room");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// An ext4 file system in a file, which can be made to meet an error.
#[derive(Debug)]
pub struct FailingDisk {
    image: NamedTempFile,
    at: PathBuf,
}

impl FailingDisk {
    const BYTES: u64 = 32 << 20;

    /// Mounts it at a path, as distributions mount the root file system: an error makes it read-only.
    pub fn mount(at: &Path) -> Self {
        let image = NamedTempFile::with_prefix("packetwatch-").expect("make a file");
        image.as_file().set_len(Self::BYTES).expect("a sparse file");
        let mut make = Command::new("mkfs.ext4");
        run(make.arg("-q").arg(image.path()), "package e2fsprogs");
        let disk = Self {
            image,
            at: at.to_owned(),
        };
        disk.mount_again();
        disk
    }

    /// After [`FailingDisk::unmount`], what an administrator does who has seen to it.
    pub fn mount_again(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,errors=remount-ro"]);
        mount.arg(self.image.path()).arg(&self.at);
        run(&mut mount, "needs loop devices");
    }

    /// Lets the kernel find an error in it.
    pub fn fail(&self) {
        let path = format!("/sys/fs/ext4/{}/trigger_fs_error", self.device());
        fs::write(&path, "1").unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Nobody may have a file open there. Returns when the kernel has let go of it: whoever copies
    /// the mounts meanwhile, as a new mount namespace does, holds it for as long.
    pub fn unmount(&self) {
        let backing_file = format!("/sys/block/{}/loop/backing_file", self.device());
        run(Command::new("umount").arg(&self.at), "is it in use?");
        let image = self.image.path();
        let is_free =
            || !fs::read_to_string(&backing_file).is_ok_and(|file| Path::new(file.trim()) == image);
        let freed = until(PROMPT, || is_free().then_some(()));
        assert!(
            freed.is_some(),
            "{backing_file} still names {}",
            image.display()
        );
    }

    /// The name of its loop device.
    fn device(&self) -> String {
        let device = fs::metadata(&self.at).expect("it is mounted").dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let device = fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
        let device = device.expect("a block device");
        device.file_name().expect("a name").display().to_string()
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}

fn run(command: &mut Command, hint: &str) {
    let status = command.status();
    let done = status.as_ref().is_ok_and(ExitStatus::success);
    assert!(done, "{command:?}: {status:?} ({hint})");
}

/// Lazily, for a daemon that a failing test has not stopped yet may hold it.
fn unmount(path: &Path) {
    let done = Command::new("umount").arg("-l").arg(path).status();
    if !done.is_ok_and(|status| status.success()) {
        eprintln!("{} is still mounted", path.display());
    }
}
