//! Taking a filter off that a process left behind, without a daemon.

use std::path::Path;

use super::{
    AttachError,
    pins::{Kept, Pins},
};

/// What was found at one pin.
#[derive(Debug)]
pub struct Detached {
    /// as it is called now; of an interface that is gone, as it was
    pub interface: String,
    /// the directory of the build's ABI version, such as `abi-2`
    pub abi: String,
    pub result: Result<Was, AttachError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Was {
    /// the program was on it
    Filtered,
    /// only the pin was left: the interface is gone, or somebody had taken the program off
    Dead,
}

/// Takes off what is pinned for this network namespace, whichever build pinned it: of one interface,
/// or of all. Empty when there is nothing.
///
/// # Errors
/// The namespace cannot be named, or this process may not see what is pinned.
pub fn detach(bpffs: &Path, interface: Option<&str>) -> Result<Vec<Detached>, AttachError> {
    let pins = Pins::below(bpffs)?;
    pins.may_be_seen()?;
    let mut detached = Vec::new();
    for kept in pins.kept() {
        let name = kept.interface().unwrap_or_else(|| kept.pinned_as.clone());
        if interface.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let abi = kept.path.ancestors().nth(2).and_then(Path::file_name);
        let abi = abi.unwrap_or_default().to_string_lossy().into_owned();
        detached.push(Detached {
            interface: name,
            abi,
            result: take_off(kept, &pins),
        });
    }
    pins.remove_empty();
    Ok(detached)
}

fn take_off(kept: Kept, pins: &Pins) -> Result<Was, AttachError> {
    let _holds = kept.hold(pins.namespace())?;
    let was = if kept.is_dead() {
        Was::Dead
    } else {
        Was::Filtered
    };
    kept.remove()?;
    Ok(was)
}
