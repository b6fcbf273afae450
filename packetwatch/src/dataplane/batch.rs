//! Reading a whole hash map in batches.
//!
//! aya reads a map with two system calls an entry, and starts over when the entry that it stands
//! on vanishes. `BPF_MAP_LOOKUP_BATCH` (kernel 5.6) goes bucket by bucket: a thousand entries a
//! call, each at most once.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{Pod, maps::MapData};

use super::Error;

/// Entries a call. A bucket that holds more asks for a larger batch.
const BATCH: usize = 1024;

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

/// Visits each entry of a hash map.
///
/// # Errors
/// The system call's. Entries visited before it stand.
pub(super) fn each<K: Pod, V: Pod>(
    map: &MapData,
    name: &'static str,
    mut visit: impl FnMut(K, V),
) -> Result<(), Error> {
    let mut size = BATCH;
    let mut keys: Vec<MaybeUninit<K>> = Vec::new();
    let mut values: Vec<MaybeUninit<V>> = Vec::new();
    let mut cursor = [0u32; 1];
    let mut started = false;
    loop {
        keys.resize_with(size, MaybeUninit::uninit);
        values.resize_with(size, MaybeUninit::uninit);
        let mut next = [0u32; 1];
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
        let last = match lookup(&mut attributes) {
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
        for (key, value) in keys.iter().zip(&values).take(attributes.count as usize) {
            // SAFETY: the kernel filled in the first `count` of both; any bits are a Pod.
            unsafe { visit(key.assume_init_read(), value.assume_init_read()) };
        }
        if last {
            return Ok(());
        }
        cursor = next;
        started = true;
    }
}

fn lookup(attributes: &mut Attributes) -> io::Result<()> {
    const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
    // SAFETY: the kernel reads and writes the attributes and the arrays that they point to, which
    // live in the caller and are as long as `count` says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
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
