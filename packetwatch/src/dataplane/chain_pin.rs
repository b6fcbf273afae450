//! The pins of the chain, beside that of the link: they keep the kernel from emptying the program arrays
//! when the process is gone.
//!
//! Those of the filter that is about to be attached are pinned before, so that at no moment the one in
//! force is without a pin; the pins of the one before give way afterwards.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::MapData;

use super::{chain, links::Links, pinned, pins};

/// Where an array of a filter that is about to be attached is pinned.
fn next(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}~next"))
}

impl Links {
    /// Before the filter of an interface is attached, or another put in its place.
    pub(super) fn announce_chain(&self, interface: &str) {
        if self.chain.is_empty() {
            return;
        }
        self.in_maps_of(interface, |directory| {
            fs::create_dir_all(directory)?;
            self.chain.iter().try_for_each(|(name, map)| {
                let next = next(directory, name);
                pins::unlink(&next)?;
                pin(map, &next)
            })
        });
    }

    /// It is in force.
    pub(super) fn adopt_chain(&self, interface: &str) {
        self.in_maps_of(interface, |directory| {
            if self.chain.is_empty() {
                for name in chain::MAPS {
                    pins::unlink(&directory.join(name))?;
                }
                return leave(directory);
            }
            self.chain.iter().try_for_each(|(name, map)| {
                let next = next(directory, name);
                if !next.exists() {
                    // It went with the pins of a filter in another mode, which this one could not follow at
                    // once.
                    fs::create_dir_all(directory)?;
                    pin(map, &next)?;
                }
                fs::rename(&next, directory.join(name))
            })
        });
    }

    /// It is not, and what was before is as it was.
    pub(super) fn withdraw_chain(&self, interface: &str) {
        self.in_maps_of(interface, leave);
    }

    fn in_maps_of(&self, interface: &str, work: impl FnOnce(&Path) -> io::Result<()>) {
        let Some(pins) = &self.pins else {
            return;
        };
        let directory = pins.maps_dir(interface);
        let Err(error) = work(&directory) else {
            return;
        };
        let directory = directory.display();
        match &*self.chain {
            [_, ..] => tracing::warn!(
                "what is chained on {interface} ends with this process: cannot keep a pin at \
                 {directory}: {error}"
            ),
            [] => tracing::warn!("cannot remove what is left of a chain at {directory}: {error}"),
        }
    }
}

/// Without the announcement, and without the directory if nothing else is in it.
fn leave(directory: &Path) -> io::Result<()> {
    for name in chain::MAPS {
        pins::unlink(&next(directory, name))?;
    }
    let _ = fs::remove_dir(directory);
    Ok(())
}

fn pin(chain: &MapData, path: &Path) -> io::Result<()> {
    chain.pin(path).map_err(pinned::io_error)
}
