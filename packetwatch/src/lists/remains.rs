//! What can still be read of a damaged journal: from a copy in memory, whatever is done to which.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use redb::{Builder, DatabaseError, StorageBackend as _, backends::InMemoryBackend};

use super::{
    error::OpenError,
    journal::CACHE_BYTES,
    tables::{Contents, Unread, load, unopened},
};

/// redb's header, of file format 3 (its `docs/design.md`): nine bytes of magic, a byte of flags, and two
/// slots of a commit each, which begin with their version and end with their checksum.
const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";
const FLAGS: usize = MAGIC.len();
const RECOVERY_REQUIRED: u8 = 2;
const TWO_PHASE_COMMIT: u8 = 4;
const SLOTS: [usize; 2] = [64, 192];
const HEADER: usize = 320;
const FORMAT: u8 = 3;

/// The rows, and how many cannot be read.
///
/// # Errors
/// redb's own check fails for both commits that a file holds; the file cannot be read.
pub(super) fn read(path: &Path) -> Result<(Contents, usize), OpenError> {
    let failed = |error: DatabaseError| unopened(path, error);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(|error| failed(error.into()))?;
    forgive(&mut bytes);
    let opened = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(in_memory(&bytes).map_err(|error| failed(error.into()))?);
    drop(bytes);
    let database = opened.map_err(failed)?;
    let mut unread = Unread::Skip(0);
    let (contents, _) = load(&database, path, &mut unread)?;
    match unread {
        Unread::Skip(skipped) => Ok((contents, skipped)),
        Unread::Refuse => Ok((contents, 0)),
    }
}

/// Has redb take the file for one that a crash left: it then goes back to the commit before, where the
/// last one is damaged. What is wrong in a slot its checksum tells, so the version need not.
fn forgive(bytes: &mut [u8]) {
    let Some(header) = bytes.get_mut(..HEADER) else {
        return;
    };
    header[..FLAGS].copy_from_slice(MAGIC);
    header[FLAGS] = (header[FLAGS] | RECOVERY_REQUIRED) & !TWO_PHASE_COMMIT;
    for slot in SLOTS {
        header[slot] = FORMAT;
    }
}

fn in_memory(bytes: &[u8]) -> io::Result<InMemoryBackend> {
    let memory = InMemoryBackend::new();
    // Of nothing redb would make a new database.
    if bytes.len() < HEADER {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is too short",
        ));
    }
    memory.set_len(bytes.len() as u64)?;
    memory.write(0, bytes)?;
    Ok(memory)
}
