//! A way to the pins for a user that may not search the BPF file system.
//!
//! systemd mounts `/sys/fs/bpf` for root alone (mode 0700). The unit file has the daemon's own
//! directory bound to where it may go; a daemon that starts as root gives itself a view in which that
//! directory is all there is, under its own path, so that pins have one name for everybody.

use std::{
    fs::{self, OpenOptions},
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{PrivilegeError, account::Account, refused};

const NOTHING: Option<&str> = None;

/// Sees to it that the user can reach `pins`, a directory that is on a BPF file system by now.
///
/// # Errors
/// It cannot yet, and this process may not mount.
pub(super) fn open_way(pins: &Path, account: &Account) -> Result<(), PrivilegeError> {
    let Some(bpffs) = pins.parent() else {
        return Ok(());
    };
    if !pins.is_dir() || may_search(bpffs, account) {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(refused("have a view of the mounts of its own"))?;
    let step = "hide what is no business of its own on the BPF file system";
    // What the host mounts and unmounts later is seen here; what is mounted here is not seen there.
    let follow = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(NOTHING, "/", NOTHING, follow, NOTHING).map_err(refused(step))?;
    let ours = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(pins)
        .map_err(|source| PrivilegeError::Refused { step, source })?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("packetwatch"),
        bpffs,
        Some("tmpfs"),
        flags,
        Some("mode=0755,size=64k"),
    )
    .map_err(refused(step))?;
    fs::create_dir(pins).map_err(|source| PrivilegeError::Refused { step, source })?;
    let ours = format!("/proc/self/fd/{}", ours.as_raw_fd());
    mount(Some(&*ours), pins, NOTHING, MsFlags::MS_BIND, NOTHING).map_err(refused(step))
}

fn may_search(directory: &Path, account: &Account) -> bool {
    let Ok(found) = fs::metadata(directory) else {
        return false;
    };
    let groups = &account.groups;
    let bit = if found.uid() == account.uid.as_raw() {
        0o100
    } else if groups.iter().any(|group| group.as_raw() == found.gid()) {
        0o010
    } else {
        0o001
    };
    found.mode() & bit != 0
}
