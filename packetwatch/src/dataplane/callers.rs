//! Callers: read by the daemon, written by the program.

use std::{sync::Mutex, thread, time::Duration};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use ipnet::IpNet;
use packetwatch_abi::{Caller, Prefix};

use super::{
    Dataplane, Differences, Error, batch,
    census::Census,
    error::{is_absent, map_error},
    key::{self, canonical, key},
    lock,
    object::{data, take},
};

pub(super) const MAP: &str = "CALLERS";
/// A caller that is found is counted as new by then: in the program that is the next but a few instructions.
const UNDER_WAY: Duration = Duration::from_millis(10);

pub(super) struct Callers {
    table: Mutex<Table>,
    /// of its own, so that reading all of them keeps no one waiting
    raw: MapData,
}

struct Table {
    map: HashMap<MapData, Prefix, Caller>,
    census: Census,
}

impl Callers {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            raw: data(ebpf, MAP)?,
            table: Mutex::new(Table {
                map: take(ebpf, MAP)?,
                census: Census::default(),
            }),
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

    /// As [`Dataplane::callers`], without keeping a kilobyte for each. Keys that no caller has are
    /// passed over.
    pub fn each_caller(&self, mut visit: impl FnMut(IpNet, &Caller)) -> Result<(), Error> {
        self.each_caller_or(&mut visit, |_| {})
    }

    /// As [`Dataplane::each_caller`]; removes the keys that no caller has. No look-up finds them, the
    /// program's neither, but they take room, and each would pass for the caller of a unit near it. Tells of
    /// those too, and how many callers somebody else has removed since it was called before. Sleeps for
    /// milliseconds, so it is not for async code.
    ///
    /// # Errors
    /// As [`Dataplane::each_caller`], or the table cannot be written.
    pub fn tidy_callers(
        &self,
        mut visit: impl FnMut(IpNet, &Caller),
    ) -> Result<Differences, Error> {
        let mut strays = Vec::new();
        let mut found = 0;
        let mut count = |unit, caller: &Caller| {
            found += 1;
            visit(unit, caller);
        };
        let admitted = self.admission_counts()?.admitted();
        let begun = lock(&self.0.callers.table).census.begin(admitted);
        self.each_caller_or(&mut count, |key| strays.push(key))?;
        thread::sleep(UNDER_WAY);
        let admitted = self.admission_counts()?.admitted();
        let missing = lock(&self.0.callers.table)
            .census
            .end(&begun, found, admitted);
        let foreign = batch::delete(&self.0.callers.raw, MAP, &strays)?;
        Ok(Differences {
            missing,
            foreign,
            example: strays.first().filter(|_| foreign > 0).map(key::prefix),
            ..Differences::default()
        })
    }

    fn each_caller_or(
        &self,
        visit: &mut impl FnMut(IpNet, &Caller),
        mut stray: impl FnMut(Prefix),
    ) -> Result<(), Error> {
        batch::each::<Prefix, Caller>(&self.0.callers.raw, MAP, |key, caller| {
            match canonical(&key) {
                Some(unit) => visit(unit, &caller),
                None => stray(key),
            }
        })
    }

    /// The counts of exactly this unit.
    pub fn caller(&self, unit: IpNet) -> Result<Option<Caller>, Error> {
        match lock(&self.0.callers.table).map.get(&key(unit), 0) {
            Ok(caller) => Ok(Some(caller)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(map_error(MAP, "read", 0)(error)),
        }
    }

    /// Forgets those of the callers that have not been seen after the time beside them; returns how
    /// many.
    ///
    /// A few at a time: each is looked at once more, and all of them are removed in one call. What
    /// a caller does within those tens of microseconds is forgotten with the rest.
    pub fn forget_silent(
        &self,
        callers: impl IntoIterator<Item = (IpNet, u64)>,
    ) -> Result<u64, Error> {
        const AT_ONCE: usize = 32;
        let mut callers = callers.into_iter().peekable();
        let mut forgotten = 0;
        while callers.peek().is_some() {
            let mut keys = Vec::with_capacity(AT_ONCE);
            for (unit, last_seen) in callers.by_ref().take(AT_ONCE) {
                let caller = self.caller(unit)?;
                if caller.is_some_and(|caller| caller.last_seen == last_seen) {
                    keys.push(key(unit));
                }
            }
            let census = &mut lock(&self.0.callers.table).census;
            let gone = batch::delete(&self.0.callers.raw, MAP, &keys);
            census.removed(*gone.as_ref().unwrap_or(&(keys.len() as u64)));
            forgotten += gone?;
        }
        Ok(forgotten)
    }

    /// Forgets a caller: its next packet counts from zero.
    pub fn forget_caller(&self, unit: IpNet) -> Result<(), Error> {
        let Table { map, census } = &mut *lock(&self.0.callers.table);
        match map.remove(&key(unit)) {
            Ok(()) => census.removed(1),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(map_error(MAP, "remove from", 0)(error)),
        }
        Ok(())
    }
}
