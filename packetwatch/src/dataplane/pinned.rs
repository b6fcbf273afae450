//! The maps that a filter hands on: pinned beside its link, for whoever takes the filter over.
//!
//! Those that the program writes or whose deadlines count on the clock of this boot, so that a
//! start goes on with them; and those that the lists can be read back from. What only one process
//! makes sense of, its counters and rings, is each process's own.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{MapData, MapError},
    pin::PinError,
};

use super::{
    Error,
    error::Errno as _,
    links::Links,
    object::{data, second},
    pins,
};

/// Bans with what they dropped, and the filter in front of them.
pub(super) const BANS: [&str; 4] = ["BANS_V4", "BANS_V6", "BAN_FILTER", "BAN_HITS"];
pub(super) const CALLERS: &str = "CALLERS";
pub(super) const POLICY: &str = "POLICY";
pub(super) const ACTIVE: &str = "ACTIVE";
pub(super) const LIST_FRONTS: &str = "LIST_FRONTS";
pub(super) const LISTS: &str = "LISTS";
pub(super) const LISTS_ACTIVE: &str = "LISTS_ACTIVE";
/// The lines in force: `LISTS` names them by id, which only CAP_SYS_ADMIN may open.
pub(super) const LINES: &str = "LINES";
/// Lines that are about to be in force.
pub(super) const LINES_NEXT: &str = "LINES~next";

pub(super) struct PinnedMaps {
    maps: Vec<(&'static str, MapData)>,
    lines: Option<MapData>,
}

impl PinnedMaps {
    /// Opens them a second time, while they are still in the object.
    pub(super) fn new(ebpf: &Ebpf) -> Result<Self, Error> {
        // In this order they are pinned: the lines, whose ids the lists have, come last, so that who is
        // cut short leaves no front of one index beside the lines of another.
        let others = [CALLERS, POLICY, ACTIVE, LISTS_ACTIVE, LISTS, LIST_FRONTS];
        let maps = BANS.into_iter().chain(others);
        let maps = maps.map(|name| Ok((name, data(ebpf, name)?)));
        Ok(Self {
            maps: maps.collect::<Result<_, Error>>()?,
            lines: None,
        })
    }

    pub(super) fn set_lines(&mut self, lines: MapData) {
        self.lines = Some(lines);
    }

    /// In the order in which they are pinned, by the names of their pins.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, &MapData)> {
        let lines = self.lines.iter().map(|lines| (LINES, lines));
        self.maps
            .iter()
            .map(|(name, map)| (*name, map))
            .chain(lines)
    }

    /// Pins all of them in a directory, in the place of what is there.
    pub(super) fn pin_in(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        pins::unlink(&directory.join(LINES_NEXT))?;
        self.each()
            .try_for_each(|(name, map)| pin_over(map, &directory.join(name)))
    }
}

/// Whether it is this map that is pinned there.
///
/// # Errors
/// See [`pins::not_there`].
pub(super) fn is_pinned(map: &MapData, path: &Path) -> io::Result<bool> {
    let id = |map: &MapData| map.info().map(|info| info.id());
    let io_error = |error: MapError| match error.errno() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    };
    match MapData::from_pin(path).and_then(|there| id(&there)) {
        Ok(there) => Ok(there == id(map).map_err(io_error)?),
        Err(error) => pins::not_there(io_error(error)),
    }
}

/// What is pinned there already and another map gives way, at no moment to nothing.
pub(super) fn pin_over(map: &MapData, path: &Path) -> io::Result<()> {
    if is_pinned(map, path).unwrap_or(false) {
        return Ok(());
    }
    let mut next = path.as_os_str().to_owned();
    next.push("~new");
    let next = PathBuf::from(next);
    pins::unlink(&next)?;
    map.pin(&next).map_err(io_error)?;
    fs::rename(&next, path)
}

pub(super) fn io_error(error: PinError) -> io::Error {
    match error {
        PinError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

impl Links {
    /// Where the maps of each filtered interface are pinned.
    fn maps_dirs(&self) -> Vec<PathBuf> {
        let Some(pins) = &self.pins else {
            return Vec::new();
        };
        let held = self.seats.iter().filter(|seat| seat.held.is_some());
        held.map(|seat| pins.maps_dir(&seat.interface.name))
            .collect()
    }

    /// Pins the maps beside the link of an interface that was attached to. Without them the filter
    /// is as good; whoever takes it over begins to count anew.
    pub(super) fn pin_maps(&self, interface: &str) {
        let (Some(pins), Some(maps)) = (&self.pins, &self.maps) else {
            return;
        };
        if !pins.are_on_bpffs() {
            return;
        }
        let directory = pins.maps_dir(interface);
        if let Err(error) = maps.pin_in(&directory) {
            tracing::warn!(
                "a restart will count the callers of {interface} anew: cannot pin the maps at {}: \
                 {error}",
                directory.display()
            );
        }
    }

    /// Pins lines that are about to be in force: whoever takes the filter over at that moment finds
    /// the one or the other.
    pub(super) fn announce_lines(&self, lines: &MapData) {
        for directory in self.maps_dirs() {
            let path = directory.join(LINES_NEXT);
            let pinned = pins::unlink(&path).and_then(|()| lines.pin(&path).map_err(io_error));
            if let Err(error) = pinned {
                tracing::warn!("cannot pin the lists at {}: {error}", path.display());
            }
        }
    }

    /// They are not put in force.
    pub(super) fn withdraw_lines(&self) {
        for directory in self.maps_dirs() {
            let _ = pins::unlink(&directory.join(LINES_NEXT));
        }
    }

    /// They are in force.
    pub(super) fn adopt_lines(&mut self, lines: &MapData) -> Result<(), Error> {
        for directory in self.maps_dirs() {
            let path = directory.join(LINES);
            // One that was attached to meanwhile has the former ones.
            let adopted =
                fs::rename(directory.join(LINES_NEXT), &path).or_else(|_| pin_over(lines, &path));
            if let Err(error) = adopted {
                tracing::warn!("cannot pin the lists at {}: {error}", path.display());
            }
        }
        if let Some(maps) = &mut self.maps {
            maps.set_lines(second(lines, LINES)?);
        }
        Ok(())
    }
}

/// Of a pinned map.
pub(super) fn open(directory: &Path, name: &str) -> Result<MapData, MapError> {
    MapData::from_pin(directory.join(name))
}
