//! Callers: read by the daemon, written by the program.

use std::sync::Mutex;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use ipnet::IpNet;
use packetwatch_abi::{Caller, Prefix};

use super::{
    Dataplane, Error, batch,
    error::{is_absent, map_error},
    key::{self, key},
    lock,
    object::{data, take},
};

pub(super) const MAP: &str = "CALLERS";

pub(super) struct Callers {
    map: Mutex<HashMap<MapData, Prefix, Caller>>,
    /// of its own, so that reading all of them keeps no one waiting
    raw: MapData,
}

impl Callers {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            raw: data(ebpf, MAP)?,
            map: Mutex::new(take(ebpf, MAP)?),
        })
    }

    pub(super) fn raw(&self) -> &MapData {
        &self.raw
    }
}

impl Dataplane {
    /// All callers, in no order. A snapshot in batches: each entry is whole, the set is not of one
    /// instant.
    pub fn callers(&self) -> Result<Vec<(IpNet, Caller)>, Error> {
        let mut all = Vec::new();
        self.each_caller(|prefix, caller| all.push((prefix, *caller)))?;
        Ok(all)
    }

    /// As [`Dataplane::callers`], without keeping a kilobyte for each.
    pub fn each_caller(&self, mut visit: impl FnMut(IpNet, &Caller)) -> Result<(), Error> {
        batch::each::<Prefix, Caller>(&self.0.callers.raw, MAP, |prefix, caller| {
            visit(key::prefix(&prefix), &caller);
        })
    }

    /// The counts of exactly this unit.
    pub fn caller(&self, unit: IpNet) -> Result<Option<Caller>, Error> {
        match lock(&self.0.callers.map).get(&key(unit), 0) {
            Ok(caller) => Ok(Some(caller)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(map_error(MAP, "read", 0)(error)),
        }
    }

    /// Forgets a caller: its next packet counts from zero.
    pub fn forget_caller(&self, unit: IpNet) -> Result<(), Error> {
        match lock(&self.0.callers.map).remove(&key(unit)) {
            Err(error) if !is_absent(&error) => Err(map_error(MAP, "remove from", 0)(error)),
            _ => Ok(()),
        }
    }
}
