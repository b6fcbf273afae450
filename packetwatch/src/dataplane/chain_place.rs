//! The place for the chained program behind one of ours: a program array of one entry.

use std::os::fd::AsRawFd as _;

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, ProgramArray},
};

use super::{
    Error,
    chained::Chained,
    error::{Errno as _, is_absent, map_error},
    object::{data, second, take},
};

const ENTRY: u32 = 0;

pub(super) struct Place {
    name: &'static str,
    /// The array as `bpf(2)` has it: a descriptor of a program is written, its id is read.
    entry: Array<MapData, u32>,
    /// The same, of which entries can be removed.
    programs: ProgramArray<MapData>,
    map: MapData,
}

impl Place {
    pub(super) fn new(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, Error> {
        let map = data(ebpf, name)?;
        let entry = Map::Array(second(&map, name)?).try_into();
        Ok(Self {
            name,
            entry: entry.map_err(map_error(name, "open", 1))?,
            programs: take(ebpf, name)?,
            map,
        })
    }

    /// For its pin, with its name.
    pub(super) fn map(&self) -> Result<(&'static str, MapData), Error> {
        Ok((self.name, second(&self.map, self.name)?))
    }

    /// The id of the program in it.
    pub(super) fn holds(&self) -> Result<Option<u32>, Error> {
        match self.entry.get(&ENTRY, 0) {
            Ok(id) => Ok(Some(id)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(map_error(self.name, "read", 1)(error)),
        }
    }

    /// Returns the errno if the kernel does not take that program here. EINVAL: it is unlike ours.
    /// EBUSY: another program extends it (6.13), as those of libxdp do their dispatcher.
    ///
    /// # Errors
    /// The kernel refuses the write for another reason.
    pub(super) fn put(&mut self, program: &Chained) -> Result<Option<i32>, Error> {
        let fd = program.fd.as_raw_fd() as u32;
        let Err(error) = self.entry.set(ENTRY, fd, 0) else {
            return Ok(None);
        };
        match error.errno() {
            Some(errno @ (libc::EINVAL | libc::EBUSY)) => Ok(Some(errno)),
            _ => Err(map_error(self.name, "write", 1)(error)),
        }
    }

    pub(super) fn empty(&mut self) -> Result<(), Error> {
        match self.programs.clear_index(&ENTRY) {
            Err(error) if !is_absent(&error) => Err(map_error(self.name, "clear", 1)(error)),
            _ => Ok(()),
        }
    }
}
