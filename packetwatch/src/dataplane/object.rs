//! Loading: the object in this binary, into the kernel.

use std::{
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapData, MapError},
    programs::ProgramError,
};
use packetwatch_abi::capacity;

use super::{
    Dataplane, Error, Holder, Rooms,
    admission::Admissions,
    bans::Bans,
    callers::Callers,
    chain::Chain,
    counters::Counters,
    error::{Errno as _, in_full, map_error},
    events::Events,
    features,
    inherit::Inheritance,
    links::Links,
    lists::Standings,
    pinned::PinnedMaps,
    pins::Pins,
    policy::Policies,
    variant::{self, Programs, Variant},
};

/// Built from `packetwatch-ebpf` by the build script; the installed binary needs no tool chain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/packetwatch"));

/// Entries of the maps whose size the configuration sets.
#[derive(Clone, Copy, Debug)]
pub struct Capacities {
    /// allow and deny entries together; beside them there is room for [`capacity::PROTECTED`]
    pub lists: u32,
    pub bans: u32,
    pub callers: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            lists: capacity::LISTS,
            bans: capacity::BANS,
            callers: capacity::CALLERS,
        }
    }
}

#[derive(Debug, Default)]
pub struct Options {
    pub capacities: Capacities,
    /// `None`: the filter goes with the process
    pub pins: Option<Pins>,
    /// that will be attached to: what is left of their filters is taken over
    pub interfaces: Vec<String>,
    /// who holds interfaces, as far as a process with more rights has found out
    pub holders: Vec<Holder>,
    /// Where the program is pinned that gets what passes.
    pub chain: Option<PathBuf>,
    /// Time is what [`Dataplane::set_clock`] says, for tests of windows.
    pub clock_from_map: bool,
    /// the program's own debug messages, through the `log` crate
    pub debug: bool,
}

impl Dataplane {
    /// Loads program and maps; nothing is attached yet, and the policy in force passes everything.
    ///
    /// # Errors
    /// The kernel lacks a feature, memory or this process the rights.
    pub fn load(options: Options) -> Result<(Self, Events), Error> {
        Self::try_load(options).map_err(|error| match error {
            Error::NotPermitted => error,
            // Asked for now alone: the kernel's own words seldom tell a missing feature from others.
            error => features::missing().map_or(error, Error::Unsupported),
        })
    }

    fn try_load(options: Options) -> Result<(Self, Events), Error> {
        let Options {
            capacities,
            pins,
            interfaces,
            holders,
            chain,
            clock_from_map,
            debug,
        } = options;
        let Capacities {
            lists,
            bans,
            callers,
        } = capacities;
        let log_level: u8 = if debug {
            aya_log::Level::Debug as u8
        } else {
            0
        };
        let clock_from_map = u8::from(clock_from_map);
        let inheritance = pins.as_ref();
        let inheritance =
            inheritance.and_then(|pins| Inheritance::of(pins, &interfaces, capacities));
        let mut loader = EbpfLoader::new();
        if let Some(inheritance) = &inheritance {
            inheritance.share(&mut loader);
        }
        let mut ebpf = loader
            .override_global(aya_log::LEVEL, &log_level, false)
            .override_global("CLOCK_FROM_MAP", &clock_from_map, true)
            .map_max_entries("LIST_HITS", capacity::list_hits(lists))
            .map_max_entries("BANS_V4", bans)
            .map_max_entries("BANS_V6", bans)
            .map_max_entries("BAN_HITS", bans)
            .map_max_entries("CALLERS", callers)
            .verifier_log_level(VerifierLogLevel::STATS)
            .load(OBJECT)
            .map_err(unloadable)?;
        // First: it opens maps a second time that others take out of the object.
        let counters = Counters::new(&mut ebpf, lists)?;
        let events = Events::new(&mut ebpf, debug)?;
        let mut maps = PinnedMaps::new(&ebpf)?;
        let standings = Standings::new(&mut ebpf, lists)?;
        maps.set_lines(standings.lines()?);
        let others = inheritance.as_ref().map(Inheritance::other_bans);
        let (chain, in_force) = match &chain {
            Some(path) => {
                let (chain, in_force) = Chain::new(&mut ebpf, path)?;
                (Some(chain), in_force)
            }
            None => {
                variant::load(&mut ebpf, &[Variant::Alone])?;
                (None, Variant::Alone)
            }
        };
        let mut links = Links::new(pins, Some(maps), holders);
        if let Some(chain) = &chain {
            links.chain = chain.maps()?;
        }
        let rooms = Rooms {
            links: Mutex::new(links),
            standings: Mutex::new(standings),
            bans: Mutex::new(Bans::new(
                &mut ebpf,
                inheritance.as_ref().is_some_and(Inheritance::shares_bans),
            )?),
            callers: Callers::new(&mut ebpf)?,
            admissions: Admissions::new(&mut ebpf, callers)?,
            counters,
            policies: Mutex::new(Policies::new(&mut ebpf)?),
            inheritance: Mutex::new(inheritance),
            chain: chain.map(Mutex::new),
            programs: Mutex::new(Programs::new(ebpf, in_force)),
        };
        let dataplane = Self(Arc::new(rooms));
        dataplane.copy_bans(&others.unwrap_or_default())?;
        Ok((dataplane, events))
    }
}

fn unloadable(source: EbpfError) -> Error {
    match &source {
        EbpfError::MapError(error) if error.errno() == Some(libc::EPERM) => Error::NotPermitted,
        _ => Error::Load(Box::new(source)),
    }
}

/// Why the kernel takes no program of ours.
pub(super) fn refused(source: ProgramError) -> Error {
    let reason = match (&source, source.errno()) {
        (_, Some(libc::EPERM)) => "not permitted".to_owned(),
        (ProgramError::LoadError { verifier_log, .. }, _) => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            // The verdict stands at the end; the rest is the way there.
            lines[lines.len().saturating_sub(8)..].join(" | ")
        }
        _ => in_full(&source),
    };
    Error::Refused {
        reason,
        source: Box::new(source),
    }
}

/// Takes a map out of the object, as the type that it is used as.
pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    ebpf.take_map(name)
        .ok_or(Error::Missing(name))?
        .try_into()
        .map_err(map_error(name, "open", 0))
}

/// A second handle of a map that [`take`] took before, for calls that aya does not have.
pub(super) fn data(ebpf: &Ebpf, name: &'static str) -> Result<MapData, Error> {
    let map = ebpf.map(name).ok_or(Error::Missing(name))?;
    second_of(map, name)
}

/// A second handle of a map of any type that the program has.
pub(super) fn second_of(map: &Map, name: &'static str) -> Result<MapData, Error> {
    let (Map::HashMap(data)
    | Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::RingBuf(data)
    | Map::ProgramArray(data)
    | Map::ArrayOfMaps(data)) = map
    else {
        return Err(Error::Missing(name));
    };
    second(data, name)
}

/// A second handle of a map, by its descriptor: opening it by its id would need CAP_SYS_ADMIN.
pub(super) fn second(map: &MapData, name: &'static str) -> Result<MapData, Error> {
    let fd = map.fd().as_fd().try_clone_to_owned();
    let fd = fd.map_err(|source| Error::Syscall {
        map: name,
        operation: "open",
        source,
    })?;
    MapData::from_fd(fd).map_err(map_error(name, "open", 0))
}
