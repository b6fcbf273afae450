//! Which sources get counts of their own: the threshold, the sketch's keys, what became of them.

use std::sync::Mutex;

use aya::{
    Ebpf, Pod,
    maps::{Array, MapData, MapError, PerCpuArray},
};
use packetwatch_abi::{Admission, Admitted, SketchKeys};

use super::{Dataplane, Error, error::map_error, lock, object::take};

const MAP: &str = "ADMISSION";
const KEYS: &str = "SKETCH_KEYS";

pub(super) struct Admissions {
    admission: Mutex<Single<Admission>>,
    keys: Mutex<Single<SketchKeys>>,
    counts: PerCpuArray<MapData, u64>,
}

/// A map of one element, and what was written to it here.
struct Single<T: Pod> {
    map: Array<MapData, T>,
    written: T,
}

impl<T: Pod + PartialEq> Single<T> {
    fn new(ebpf: &mut Ebpf, name: &'static str, value: T) -> Result<Self, Error> {
        let mut single = Self {
            map: take(ebpf, name)?,
            written: value,
        };
        single.put(value).map_err(map_error(name, "write", 1))?;
        Ok(single)
    }

    /// What the kernel refuses now, [`Single::mend`] writes.
    fn put(&mut self, value: T) -> Result<(), MapError> {
        self.written = value;
        self.map.set(0, value, 0)
    }

    /// Whether somebody else had written to it; then it holds again what was written here.
    fn mend(&mut self) -> Result<bool, MapError> {
        let differs = self.map.get(&0, 0)? != self.written;
        if differs {
            self.map.set(0, self.written, 0)?;
        }
        Ok(differs)
    }
}

/// What became of packets whose source had no entry, since the program was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmissionCounts {
    /// sources that got an entry at their first packet
    pub first_sight: u64,
    /// sources that got one because they came often
    pub by_count: u64,
    /// packets that were counted in the sketch alone, those of `deferred` included
    pub sketched: u64,
    /// packets whose source came often enough, but more than a tick's places did
    pub deferred: u64,
    /// packets that no rule looks at, beyond the few places for such
    pub ignored: u64,
    /// packets whose source was to get an entry and did not, as the table was full or the kernel
    /// took none
    pub refused: u64,
}

impl AdmissionCounts {
    /// Entries that were made.
    pub fn admitted(&self) -> u64 {
        self.first_sight + self.by_count
    }

    /// Packets that were not counted exactly.
    pub fn not_admitted(&self) -> u64 {
        self.sketched + self.ignored + self.refused
    }
}

impl Admissions {
    /// For a table of `callers`. The keys of the sketch are new, and leave the process for the map alone.
    pub(super) fn new(ebpf: &mut Ebpf, callers: u32) -> Result<Self, Error> {
        Ok(Self {
            admission: Mutex::new(Single::new(ebpf, MAP, Admission::of(callers))?),
            keys: Mutex::new(Single::new(ebpf, KEYS, random_keys()?)?),
            counts: take(ebpf, "ADMISSIONS")?,
        })
    }
}

fn random_keys() -> Result<SketchKeys, Error> {
    let mut rows = SketchKeys { rows: [[0; 7]; _] }.rows;
    for word in rows.as_flattened_mut() {
        let mut bytes = [0; size_of::<u64>()];
        // SAFETY: the pointer and the length are those of `bytes`. So few are given whole, once
        // the kernel's generator is seeded, which the call waits for.
        let read = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if usize::try_from(read) != Ok(bytes.len()) {
            return Err(Error::Syscall {
                map: KEYS,
                operation: "draw random numbers for",
                source: std::io::Error::last_os_error(),
            });
        }
        *word = u64::from_ne_bytes(bytes);
    }
    Ok(SketchKeys { rows })
}

impl Dataplane {
    /// How new sources are admitted.
    pub fn admission(&self) -> Result<Admission, Error> {
        let admission = lock(&self.0.admissions.admission);
        admission.map.get(&0, 0).map_err(map_error(MAP, "read", 1))
    }

    /// In force from the next packet on.
    pub fn set_admission(&self, admission: Admission) -> Result<(), Error> {
        lock(&self.0.admissions.admission)
            .put(admission)
            .map_err(map_error(MAP, "write", 1))
    }

    /// Whether somebody else had changed how new sources are admitted; then it is as it was set last.
    pub fn mend_admission(&self) -> Result<bool, Error> {
        let mended = lock(&self.0.admissions.admission).mend();
        mended.map_err(map_error(MAP, "mend", 1))
    }

    /// Whether somebody else had changed the keys of the sketch; then they are those of the start. What was
    /// counted by the others lies in other cells: a source may get an entry later by it, or for others'
    /// calls, and starts from zero in any case.
    pub fn mend_sketch_keys(&self) -> Result<bool, Error> {
        let mended = lock(&self.0.admissions.keys).mend();
        mended.map_err(map_error(KEYS, "mend", 1))
    }

    /// A few system calls, whatever the number of sources.
    pub fn admission_counts(&self) -> Result<AdmissionCounts, Error> {
        let read = |what: Admitted| {
            let cpus = self.0.admissions.counts.get(&(what as u32), 0);
            let cpus = cpus.map_err(map_error("ADMISSIONS", "read", 0))?;
            Ok::<u64, Error>(cpus.iter().sum())
        };
        let deferred = read(Admitted::Deferred)?;
        let refused = self.faults()?.into_iter();
        let refused = refused.filter(|(fault, _)| fault.is_of_insertion());
        Ok(AdmissionCounts {
            first_sight: read(Admitted::FirstSight)?,
            by_count: read(Admitted::ByCount)?,
            sketched: read(Admitted::Sketched)? + deferred,
            deferred,
            ignored: read(Admitted::Ignored)?,
            refused: refused.map(|(_, packets)| packets).sum(),
        })
    }
}
