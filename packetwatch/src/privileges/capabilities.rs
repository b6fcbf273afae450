//! The two capabilities that stay, and the one that goes when the program is loaded.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::{
    sys::prctl,
    unistd::{setgroups, setresgid, setresuid},
};

use super::{PrivilegeError, account::Account, refused};

/// CAP_BPF (Linux 5.8): maps, programs and links. CAP_NET_ADMIN: XDP programs, and their links.
const KEPT: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_BPF];

/// CAP_PERFMON: to its holder alone the verifier grants stack slots that global functions are handed
/// before every byte of them is written, as ours are, and a program without barriers against
/// speculation.
const LOADING: Capability = Capability::CAP_PERFMON;

/// Becomes the user, if one is named, and gives up every other capability, for good: nothing that
/// this process executes, or is made to, gets one back. What it did not have it does not get.
pub(super) fn keep_for_loading(account: Option<&Account>) -> Result<(), PrivilegeError> {
    let mut kept = CapsHashSet::from(KEPT);
    // Without CAP_SETPCAP the bounding set is as whoever started us has left it.
    if has(Capability::CAP_SETPCAP)? {
        for capability in caps::runtime::thread_all_supported().difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(failed)?;
        }
    }
    match account {
        Some(root) if root.is_root() && has(Capability::CAP_SETGID)? => {
            setgroups(&root.groups).map_err(refused("take the group of the API's socket"))?;
        }
        Some(user) if !user.is_root() => become_user(user)?,
        _ => {}
    }
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    kept.insert(LOADING);
    hold_at_most(&kept)?;
    caps::clear(None, CapSet::Inheritable).map_err(failed)?;
    prctl::set_no_new_privs().map_err(refused("renounce new privileges"))?;
    // No core file with tokens in it, and no other process of this user that reads its memory.
    prctl::set_dumpable(false).map_err(refused("forbid core files"))
}

/// Gives up what only loading needs. Returns what is left.
pub(super) fn keep_for_running() -> Result<Vec<String>, PrivilegeError> {
    let left = hold_at_most(&CapsHashSet::from(KEPT))?;
    let mut left: Vec<Capability> = left.into_iter().collect();
    left.sort_by_key(Capability::index);
    Ok(left.iter().map(ToString::to_string).collect())
}

fn hold_at_most(kept: &CapsHashSet) -> Result<CapsHashSet, PrivilegeError> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed)?;
    let left: CapsHashSet = permitted.intersection(kept).copied().collect();
    // In this order each step asks for no more than the one before has left.
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &left).map_err(failed)?;
    }
    Ok(left)
}

/// The permitted capabilities stay, the effective ones go.
fn become_user(account: &Account) -> Result<(), PrivilegeError> {
    let Account {
        name: _,
        uid,
        gid,
        groups,
    } = account;
    prctl::set_keepcaps(true).map_err(refused("keep capabilities over a change of the user"))?;
    setgroups(groups).map_err(refused("take the user's groups"))?;
    setresgid(*gid, *gid, *gid).map_err(refused("take the user's group"))?;
    setresuid(*uid, *uid, *uid).map_err(refused("become the user"))?;
    prctl::set_keepcaps(false).map_err(refused("forget root's capabilities"))
}

/// Whether another user can be taken, and capabilities with it.
pub(super) fn may_change_user() -> bool {
    let needed = [Capability::CAP_SETUID, Capability::CAP_SETGID];
    needed
        .into_iter()
        .all(|needed| has(needed).unwrap_or(false))
}

fn has(capability: Capability) -> Result<bool, PrivilegeError> {
    caps::has_cap(None, CapSet::Effective, capability).map_err(failed)
}

fn failed(error: CapsError) -> PrivilegeError {
    PrivilegeError::Refused {
        step: "give up capabilities",
        source: std::io::Error::other(error.to_string()),
    }
}
