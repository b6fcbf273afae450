//! The pin of the chain, beside that of the link: it keeps the kernel from emptying the program array
//! when the process is gone.
//!
//! The array of the filter that is about to be attached is pinned before, so that at no moment the one
//! in force is without a pin; the pin of the one before gives way afterwards.

use std::{fs, io, path::Path};

use aya::maps::MapData;

use super::{chain, links::Links, pinned, pins};

/// Of a filter that is about to be attached.
const NEXT: &str = "CHAIN~next";

impl Links {
    /// Before the filter of an interface is attached, or another put in its place.
    pub(super) fn announce_chain(&self, interface: &str) {
        let Some(chain) = &self.chain else {
            return;
        };
        self.in_maps_of(interface, |directory| {
            fs::create_dir_all(directory)?;
            let next = directory.join(NEXT);
            pins::unlink(&next)?;
            pin(chain, &next)
        });
    }

    /// It is in force.
    pub(super) fn adopt_chain(&self, interface: &str) {
        self.in_maps_of(interface, |directory| {
            let (next, path) = (directory.join(NEXT), directory.join(chain::MAP));
            let Some(chain) = &self.chain else {
                pins::unlink(&path)?;
                return leave(directory);
            };
            if !next.exists() {
                // It went with the pins of a filter in another mode, which this one could not follow at once.
                fs::create_dir_all(directory)?;
                pin(chain, &next)?;
            }
            fs::rename(&next, &path)
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
        match self.chain {
            Some(_) => tracing::warn!(
                "what is chained on {interface} ends with this process: cannot keep a pin at \
                 {directory}: {error}"
            ),
            None => tracing::warn!("cannot remove what is left of a chain at {directory}: {error}"),
        }
    }
}

/// Without the announcement, and without the directory if nothing else is in it.
fn leave(directory: &Path) -> io::Result<()> {
    pins::unlink(&directory.join(NEXT))?;
    let _ = fs::remove_dir(directory);
    Ok(())
}

fn pin(chain: &MapData, path: &Path) -> io::Result<()> {
    chain.pin(path).map_err(pinned::io_error)
}
