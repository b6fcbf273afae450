//! Pins that somebody takes away while the daemon runs: missed, and made anew.
//!
//! The kernel tells nobody of a pin that goes. The filter works on without it, and ends with its
//! process: whoever promises that it stays has to look.

use std::{io, path::PathBuf};

use super::{
    AttachError, Dataplane,
    link::XdpLink,
    links::Links,
    lock,
    pinned::{is_pinned, pin_over},
};

/// What became of the pins of an interface.
#[derive(Debug)]
pub struct Repinned {
    pub interface: String,
    /// Where the link belongs; the maps lie in the directory of that name and `:maps`.
    pub path: PathBuf,
    /// What was not there, or was another's: `link`, and maps by name. Empty if somebody else has put
    /// all of it back.
    pub missing: Vec<&'static str>,
    /// At the look before, all was there.
    pub was_whole: bool,
    /// Why they cannot be made.
    pub result: Result<(), AttachError>,
}

impl Dataplane {
    /// Looks after the pins of each filtered interface, and makes anew those that are not there. Tells
    /// of what has changed since the look before, so once of what cannot be mended. Some forty system
    /// calls an interface, none of which sleeps.
    pub fn keep_pins(&self) -> Vec<Repinned> {
        let mut links = lock(&self.0.links);
        let held = (0..links.seats.len()).filter(|seat| links.seats[*seat].held.is_some());
        let held: Vec<usize> = held.collect();
        let looked = held.into_iter().filter_map(|seat| links.keep_pins(seat));
        looked.collect()
    }
}

impl Links {
    /// `None` if nothing has changed.
    fn keep_pins(&mut self, seat: usize) -> Option<Repinned> {
        let interface = self.seats[seat].interface.name.clone();
        let path = self.pins.as_ref()?.path(&interface);
        let link = &self.seats[seat].held.as_ref()?.link;
        // What cannot be looked at now is looked at again in a second.
        let missing = self.missing_pins(&interface, link).ok()?;
        let result = match &*missing {
            [] => Ok(()),
            _ => self.repin(&interface, link),
        };
        let before = &mut self.seats[seat].interface.not_pinned;
        let now = result.as_ref().err().map(AttachError::to_string);
        let told = std::mem::replace(before, now);
        let is_news = match &result {
            Ok(()) => told.is_some() || !missing.is_empty(),
            Err(_) => told != *before,
        };
        is_news.then_some(Repinned {
            interface,
            path,
            missing,
            was_whole: told.is_none(),
            result,
        })
    }

    fn missing_pins(&self, interface: &str, link: &XdpLink) -> io::Result<Vec<&'static str>> {
        let mut missing = Vec::new();
        let Some(pins) = &self.pins else {
            return Ok(missing);
        };
        if !pins.is_pinned(interface, link)? {
            missing.push("link");
        }
        let directory = pins.maps_dir(interface);
        let maps = self.maps.iter().flat_map(|maps| maps.each());
        let chain = self.chain.iter().map(|(name, map)| (*name, map));
        for (name, map) in maps.chain(chain) {
            if !is_pinned(map, &directory.join(name))? {
                missing.push(name);
            }
        }
        Ok(missing)
    }

    /// The link first: it is the filter.
    fn repin(&self, interface: &str, link: &XdpLink) -> Result<(), AttachError> {
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        // Where none is mounted any more, directories of another file system would be made.
        if !pins.are_on_bpffs() {
            return Err(AttachError::BpffsGone(pins.bpffs().to_owned()));
        }
        if !pins.is_pinned(interface, link).unwrap_or(false) {
            pins.pin(interface, link)?;
        }
        let directory = pins.maps_dir(interface);
        let maps = self.maps.as_ref().map(|maps| maps.pin_in(&directory));
        let chain = self.chain.iter();
        let chain = chain.map(|(name, map)| pin_over(map, &directory.join(name)));
        let pinned = maps.into_iter().chain(chain).collect::<Result<(), _>>();
        pinned.map_err(|source| AttachError::Pin {
            operation: "pin the maps at",
            path: directory,
            source,
        })
    }
}
