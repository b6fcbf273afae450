//! A disk that fails, and that after a crash holds of what was not synced whatever it likes.

use std::{
    fmt,
    io::{Error, ErrorKind, Result},
    sync::{Arc, Mutex, MutexGuard},
};

use redb::StorageBackend;

use super::random::Random;

const SECTOR: usize = 512;

/// One file on it. Clones are the same disk; [`Disk::reopened`] is what a program sees that opens
/// the file anew.
#[derive(Clone)]
pub(super) struct Disk(Arc<Mutex<Platter>>);

struct Platter {
    random: Random,
    /// what a crash leaves for certain
    stored: Vec<u8>,
    /// what came since, in order: any part of it may be there after a crash
    unsynced: Vec<Change>,
    /// what the program reads: all of it, and what a failed sync took for written
    cached: Vec<u8>,
    /// calls until the next fault
    until_fault: u64,
    fault: Option<Fault>,
    /// faults that the program has met
    met: u64,
}

enum Change {
    Len(usize),
    Write(usize, Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// This call and all that follow fail, until [`Disk::crash`].
    Crash,
    /// So many calls fail.
    Error(ErrorKind, u64),
    /// So many of a hundred syncs fail, to the end.
    Syncs(u64),
}

impl Disk {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            random: Random::new(seed),
            stored: Vec::new(),
            unsynced: Vec::new(),
            cached: Vec::new(),
            until_fault: 0,
            fault: None,
            met: 0,
        })))
    }

    /// The fault comes after so many calls that succeed; `None` mends the disk.
    pub(super) fn plan(&self, after: u64, fault: Option<Fault>) {
        let mut platter = self.platter();
        (platter.until_fault, platter.fault) = (after, fault);
    }

    pub(super) fn faults_met(&self) -> u64 {
        self.platter().met
    }

    /// Whether the program can go on.
    pub(super) fn has_power(&self) -> bool {
        !matches!(self.platter().fault, Some(Fault::Crash))
    }

    /// The power goes and comes back.
    pub(super) fn crash(&self) {
        self.platter().crash();
    }

    /// As [`Journal`](crate::lists::journal::Journal) opens its file: without what the cache alone
    /// holds.
    pub(super) fn reopened(&self) -> Self {
        let mut platter = self.platter();
        let mut cached = platter.stored.clone();
        for change in &platter.unsynced {
            change.apply(&mut cached);
        }
        platter.cached = cached;
        drop(platter);
        self.clone()
    }

    /// Another disk with the same file on it.
    pub(super) fn image(&self) -> Self {
        let image = Self::new(0);
        let file = self.platter().cached.clone();
        image.platter().stored.clone_from(&file);
        image.platter().cached = file;
        image
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Len(len) => resize(file, *len),
            Self::Write(offset, data) => file[*offset..offset + data.len()].copy_from_slice(data),
        }
    }
}

/// `Vec::resize` goes byte by byte in a debug build.
fn resize(file: &mut Vec<u8>, len: usize) {
    file.truncate(len);
    file.append(&mut vec![0; len - file.len()]);
}

impl Platter {
    /// Whether the next call fails, and how.
    fn fault(&mut self, is_sync: bool) -> Result<()> {
        let Some(fault) = &mut self.fault else {
            return Ok(());
        };
        if self.until_fault > 0 {
            self.until_fault -= 1;
            return Ok(());
        }
        if let Fault::Syncs(chance) = *fault
            && !(is_sync && self.random.percent(chance))
        {
            return Ok(());
        }
        self.met += 1;
        match fault {
            Fault::Syncs(_) => Err(Error::other("the disk lost what it was given")),
            Fault::Crash => Err(Error::other("the power is off")),
            Fault::Error(kind, left) => {
                let kind = *kind;
                *left -= 1;
                if *left == 0 {
                    self.fault = None;
                }
                Err(kind.into())
            }
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.cached);
        self.unsynced.push(change);
    }

    /// A sync that failed: each write reached the disk, or is tried again by the next sync, or is
    /// taken for written and forgotten.
    fn fail_sync(&mut self) {
        let all_wait = self.random.percent(20);
        for change in std::mem::take(&mut self.unsynced) {
            let is_write = matches!(change, Change::Write(..));
            match self.random.below(3) {
                0 if is_write && !all_wait => {}
                1 if self.unsynced.is_empty() => change.apply(&mut self.stored),
                _ => self.unsynced.push(change),
            }
        }
    }

    fn crash(&mut self) {
        let manner = self.random.below(6);
        let kept = self.random.below(self.unsynced.len() as u64 + 1) as usize;
        let chance = *self.random.of(&[5, 50, 95]);
        // Lengths are kept in their order, as the journals of file systems keep them.
        let lengths = self.random.below(self.unsynced.len() as u64 + 1) as usize;
        for (i, change) in std::mem::take(&mut self.unsynced).into_iter().enumerate() {
            let (offset, data) = match change {
                Change::Len(len) if i < lengths || manner == 0 => {
                    resize(&mut self.stored, len);
                    continue;
                }
                Change::Len(_) => continue,
                Change::Write(offset, data) => (offset, data),
            };
            let torn = self.random.below(data.len() as u64 + 1) as usize;
            let mut keep = |from: usize, to: usize| {
                let end = self.stored.len().min(offset + to);
                if let Some(place) = self.stored.get_mut(offset + from..end) {
                    place.copy_from_slice(&data[from..from + place.len()]);
                }
            };
            match manner {
                // All of it: the program alone was killed.
                0 => keep(0, data.len()),
                // Nothing.
                1 => {}
                // In the order of the writes, up to a byte of one of them.
                2 if i < kept => keep(0, data.len()),
                2 if i == kept => keep(0, torn),
                2 => {}
                // Some writes, whole.
                3 if self.random.percent(chance) => keep(0, data.len()),
                3 => {}
                // Some sectors.
                4 => {
                    for from in (0..data.len()).step_by(SECTOR) {
                        if self.random.percent(chance) {
                            keep(from, data.len().min(from + SECTOR));
                        }
                    }
                }
                // The first bytes of some writes, the last bytes of others.
                _ if self.random.percent(50) => keep(0, torn),
                _ => keep(torn, data.len()),
            }
        }
        self.cached.clone_from(&self.stored);
        (self.until_fault, self.fault) = (0, None);
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64> {
        Ok(self.platter().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut platter = self.platter();
        platter.fault(false)?;
        let range = offset as usize..offset as usize + out.len();
        let read = platter.cached.get(range);
        out.copy_from_slice(read.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut platter = self.platter();
        platter.fault(false)?;
        platter.change(Change::Len(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        let mut platter = self.platter();
        if let Err(error) = platter.fault(true) {
            platter.fail_sync();
            return Err(error);
        }
        let platter = &mut *platter;
        for change in platter.unsynced.drain(..) {
            change.apply(&mut platter.stored);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut platter = self.platter();
        let failed = platter.fault(false);
        let written = match failed {
            Ok(()) => data.len(),
            Err(_) => platter.random.below(data.len() as u64 + 1) as usize,
        };
        platter.change(Change::Write(offset as usize, data[..written].to_vec()));
        failed
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}
