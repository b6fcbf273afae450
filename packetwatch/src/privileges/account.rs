//! The user that the daemon becomes.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist, getgroups};

use super::{PrivilegeError, capabilities};

/// The group whose members may use the API's socket: the socket is given to it.
const SOCKET_GROUP: &str = "packetwatch";

/// Whom the configuration names.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// The default: this user where the host has it, else root without its capabilities.
    IfThere(&'a str),
    /// This user and no other.
    Named(&'a str),
}

/// Whom a process that was started as root becomes; it may be root.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    /// the group of the socket is one of them, if there is one
    pub(super) groups: Vec<Gid>,
}

impl Account {
    /// `None` where the process is not root: it stays who it is.
    ///
    /// # Errors
    /// There is no user of the name that is asked for.
    pub(super) fn find(wanted: Wanted<'_>) -> Result<Option<Self>, PrivilegeError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let named = |name| User::from_name(name).ok().flatten();
        let found = match wanted {
            Wanted::IfThere(name) if capabilities::may_change_user() => named(name).map(Self::of),
            // Root of a container, which is root of little.
            Wanted::IfThere(_) => None,
            Wanted::Named(name) => {
                let user = named(name).ok_or_else(|| PrivilegeError::NoUser {
                    name: name.to_owned(),
                })?;
                Some(Self::of(user))
            }
        };
        Ok(Some(found.unwrap_or_else(Self::root)))
    }

    pub(super) fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    fn root() -> Self {
        Self {
            name: "root".to_owned(),
            uid: Uid::from_raw(0),
            gid: Gid::from_raw(0),
            // Without CAP_CHOWN a file is given to no group but one's own.
            groups: getgroups()
                .into_iter()
                .flatten()
                .chain(socket_group())
                .collect(),
        }
    }

    fn of(user: User) -> Self {
        let listed = CString::new(user.name.as_str()).ok();
        let listed = listed.and_then(|name| getgrouplist(&name, user.gid).ok());
        let mut groups = listed.unwrap_or_else(|| vec![user.gid]);
        groups.extend(socket_group());
        groups.sort_by_key(|group| group.as_raw());
        groups.dedup();
        Self {
            name: user.name,
            uid: user.uid,
            gid: user.gid,
            groups,
        }
    }
}

fn socket_group() -> Option<Gid> {
    let group = Group::from_name(SOCKET_GROUP).ok().flatten();
    group.map(|group| group.gid)
}

/// What the user of this process is called, or its number.
pub fn own_name() -> String {
    let uid = geteuid();
    let user = User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}
