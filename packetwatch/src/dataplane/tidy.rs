//! Pins that are not as they should be: of dead links, of interfaces that were renamed or have left,
//! and directories and locks that nobody needs.
//!
//! A process that lives is left alone: what its lock protects is its own to put right.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    AttachError, Dataplane,
    hold::{self, Hold, try_hold},
    lock,
    pins::{self, Kept, Pins},
};

impl Dataplane {
    /// Removes what processes left behind that were killed, and that nobody needs: lock files, and pins
    /// whose link is dead, of whichever namespace, with their directories.
    pub fn tidy(&self) {
        hold::remove_orphans();
        if let Some(pins) = &lock(&self.0.links).pins {
            remove_dead(pins);
        }
    }
}

/// A link whose interface is gone never comes to life again, so its pin may go, whoever made it.
/// That is all that is left of a namespace that was deleted; what a namespace has passed on to
/// another, with its filter, lives and stays.
fn remove_dead(pins: &Pins) {
    for version in pins.versions() {
        for dir in pins::entries(&version) {
            let namespace = dir.file_name().and_then(|name| name.to_str());
            let number = namespace.and_then(|name| name.strip_prefix("netns-"));
            let Some(namespace) = number.and_then(|number| number.parse().ok()) else {
                continue;
            };
            for kept in pins::entries(&dir).filter_map(Kept::open) {
                if kept.is_dead() {
                    remove_if_dead(kept, namespace);
                }
            }
            for maps in pins::entries(&dir) {
                remove_if_alone(&maps, namespace);
            }
            if namespace != pins.namespace() {
                let _ = fs::remove_dir(&dir);
            }
        }
        let _ = fs::remove_dir(&version);
    }
}

fn remove_if_dead(kept: Kept, namespace: u64) {
    let Ok(_hold) = try_hold(&kept.pinned_as, namespace) else {
        return;
    };
    // Looked at again, now that nobody else puts another one in its place.
    let dead = Kept::open(kept.path).filter(Kept::is_dead);
    if let Some(dead) = dead {
        let path = dead.path.clone();
        match dead.remove() {
            Ok(()) => tracing::info!("removed {}: its link is dead", path.display()),
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

/// Maps whose link somebody has taken the pin of.
fn remove_if_alone(maps: &Path, namespace: u64) {
    let Some(link) = pins::link_of(maps) else {
        return;
    };
    let Some(name) = pins::interface_of(&link) else {
        return;
    };
    let Ok(_hold) = try_hold(&name, namespace) else {
        return;
    };
    if !link.exists() {
        match pins::remove_maps(maps) {
            Ok(()) => tracing::info!("removed {}: its link is gone", maps.display()),
            Err(error) => tracing::warn!("cannot remove {}: {error}", maps.display()),
        }
    }
}

/// Makes pins bear the names that their interfaces have now, and lets go of filters whose interface
/// is not in this namespace any more. `held`: the interface whose lock the caller has.
pub(super) fn follow_names(pins: &Pins, held: &str) {
    let mut holds = HashMap::new();
    let mut is_free = |name: &str| {
        let taken = holds
            .entry(name.to_owned())
            .or_insert_with(|| try_hold(name, pins.namespace()).ok());
        taken.is_some() || held == name
    };
    let mut moves = Vec::new();
    for kept in pins.kept() {
        let now = kept.interface();
        if kept.is_dead() || now.as_ref() == Some(&kept.pinned_as) || !is_free(&kept.pinned_as) {
            continue;
        }
        match now {
            Some(name) if is_free(&name) => {
                tracing::info!(
                    "the filter that was left on {} is on {name} now: it was renamed",
                    kept.pinned_as
                );
                let to = kept.path.with_file_name(pins::file_name(&name));
                moves.push((kept.path, kept.info.ifindex, to));
            }
            Some(_) => {}
            None => let_go(kept),
        }
    }
    for error in relabel(&moves).into_iter().filter_map(Result::err) {
        tracing::warn!("{error}");
    }
    drop::<HashMap<String, Option<Hold>>>(holds);
}

/// Like a daemon that sees its interface leave.
pub(super) fn let_go(kept: Kept) {
    let name = kept.pinned_as.clone();
    match kept.remove() {
        Ok(()) => tracing::warn!(
            "{name} has left this network namespace: the filter that was left on it is let go of"
        ),
        Err(error) => tracing::warn!("{error}"),
    }
}

/// Renames pins: where from, whose index, and where to. Names may have been exchanged, so first all
/// go and then all come; at no moment is a link without a pin, and one that is stuck halfway is found
/// by its index.
pub(super) fn relabel(moves: &[(PathBuf, u32, PathBuf)]) -> Vec<Result<(), AttachError>> {
    let halfway = |from: &Path, ifindex: &u32| from.with_file_name(format!("{ifindex}~moving"));
    let gone: Vec<_> = moves
        .iter()
        .map(|(from, ifindex, _)| rename(from, &halfway(from, ifindex)))
        .collect();
    moves
        .iter()
        .zip(gone)
        .map(|((from, ifindex, to), gone)| {
            gone.and_then(|()| rename(&halfway(from, ifindex), to))
                .map_err(|source| AttachError::Pin {
                    operation: "rename",
                    path: from.clone(),
                    source,
                })
        })
        .collect()
}

/// With its maps. Never over another pin, which would detach its link, but for a dead one:
/// `rename(2)` would replace it, `link(2)` does not.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if let Err(error) = fs::hard_link(from, to) {
        let is_dead = || Kept::open(to.to_owned()).is_none_or(|kept| kept.is_dead());
        if error.kind() != io::ErrorKind::AlreadyExists || !is_dead() {
            return Err(error);
        }
        pins::remove(to)?;
        fs::hard_link(from, to)?;
    }
    // Where they are when this is cut short, the next start begins without them.
    pins::remove_maps(&pins::maps_of(to))?;
    match fs::rename(pins::maps_of(from), pins::maps_of(to)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => pins::unlink(from),
    }
}
