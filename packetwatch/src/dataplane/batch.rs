//! Reading a whole map in batches, and removing from it.
//!
//! aya reads a map with two system calls an entry. `BPF_MAP_LOOKUP_BATCH` takes a thousand a call:
//! of a hash (kernel 5.6) bucket by bucket, each entry at most once; of a longest-match map (5.13)
//! key by key, and it starts over when the key that it stands on vanishes.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{Pod, maps::MapData};

use super::{Error, error::map_error};

/// Entries a call. A bucket that holds more asks for a larger batch.
const BATCH: usize = 1024;

/// What the kernel keeps of its place: a bucket's number of a hash, else a key.
type Cursor = [u64; 8];

/// The part of `union bpf_attr` that batch commands use.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Visits each entry of a map, as [`each_batch`].
pub(super) fn each<K: Pod, V: Pod>(
    map: &MapData,
    name: &'static str,
    mut visit: impl FnMut(K, V),
) -> Result<(), Error> {
    each_batch(map, name, |entries| {
        entries.for_each(|(key, value)| visit(key, value));
    })
}

/// Visits the entries of a map, those of one system call after those of another: a thousand, or all of a
/// bucket that holds more.
///
/// # Errors
/// The system call's, or the map changed so fast that there was no end in sight. Entries visited
/// before it stand.
pub(super) fn each_batch<K: Pod, V: Pod>(
    map: &MapData,
    name: &'static str,
    mut visit: impl FnMut(&mut dyn Iterator<Item = (K, V)>),
) -> Result<(), Error> {
    const { assert!(size_of::<K>() <= size_of::<Cursor>()) };
    let info = map.info().map_err(map_error(name, "inspect", 0))?;
    let mut left = 2 * u64::from(info.max_entries()) + 2 * BATCH as u64;
    let mut size = BATCH;
    let mut keys: Vec<MaybeUninit<K>> = Vec::new();
    let mut values: Vec<MaybeUninit<V>> = Vec::new();
    let mut cursor = Cursor::default();
    let mut started = false;
    loop {
        keys.resize_with(size, MaybeUninit::uninit);
        values.resize_with(size, MaybeUninit::uninit);
        let mut next = Cursor::default();
        let mut attributes = Attributes {
            in_batch: if started { cursor.as_ptr() as u64 } else { 0 },
            out_batch: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: size as u32,
            map_fd: map.fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        let last = match call(BPF_MAP_LOOKUP_BATCH, &mut attributes) {
            Ok(()) => false,
            // the end; what was read before it is there
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                size *= 2;
                continue;
            }
            Err(source) => {
                return Err(Error::Syscall {
                    map: name,
                    operation: "read",
                    source,
                });
            }
        };
        let read = keys.iter().zip(&values).take(attributes.count as usize);
        // SAFETY: the kernel filled in the first `count` of both; any bits are a Pod.
        visit(
            &mut read
                .map(|(key, value)| unsafe { (key.assume_init_read(), value.assume_init_read()) }),
        );
        if last {
            return Ok(());
        }
        left = left.saturating_sub(attributes.count.into());
        if left == 0 {
            return Err(Error::Syscall {
                map: name,
                operation: "read",
                source: io::Error::other("it changed too often meanwhile"),
            });
        }
        cursor = next;
        started = true;
    }
}

/// Removes `keys`, those that are there; returns how many were.
///
/// # Errors
/// The system call's; those removed before it stay removed.
pub(super) fn delete<K: Pod>(map: &MapData, name: &'static str, keys: &[K]) -> Result<u64, Error> {
    let mut removed = 0;
    let mut rest = keys;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(BATCH)];
        let mut attributes = Attributes {
            in_batch: 0,
            out_batch: 0,
            keys: batch.as_ptr() as u64,
            values: 0,
            count: batch.len() as u32,
            map_fd: map.fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        let result = call(BPF_MAP_DELETE_BATCH, &mut attributes);
        let done = (attributes.count as usize).min(batch.len());
        removed += done as u64;
        rest = &rest[done..];
        match result {
            Ok(()) => {}
            // It stops at the first that is gone already, or where a bucket is fought over, which
            // a program waits for no longer than we would.
            Err(error) if is_passed_over(&error) => rest = rest.get(1..).unwrap_or_default(),
            Err(source) => {
                return Err(Error::Syscall {
                    map: name,
                    operation: "remove from",
                    source,
                });
            }
        }
    }
    Ok(removed)
}

fn is_passed_over(error: &io::Error) -> bool {
    let passed_over = [libc::ENOENT, libc::EBUSY, libc::EDEADLK, libc::ETIMEDOUT];
    error
        .raw_os_error()
        .is_some_and(|errno| passed_over.contains(&errno))
}

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

fn call(command: libc::c_long, attributes: &mut Attributes) -> io::Result<()> {
    // SAFETY: the kernel reads and writes the attributes and the arrays that they point to, which
    // live in the caller and are as long as `count` says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes as *mut Attributes,
            size_of::<Attributes>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
