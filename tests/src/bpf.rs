//! Calls of bpf(2) that aya has for programs and maps of an object that it loaded, but not for a
//! peer's or for ones of a few instructions.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{ProgramInfo, loaded_programs};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// Frames take the real path of what the program answers, instead of being thrown away (5.18).
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
/// What a driver's poll takes at once, and the kernel's own default.
const BATCH: u32 = 64;

/// The fields of `union bpf_attr` for `BPF_PROG_LOAD`, as far as they are used.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// Likewise for `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// Likewise for `BPF_MAP_UPDATE_BATCH` and `BPF_MAP_LOOKUP_BATCH`.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Likewise for `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
#[derive(Default)]
struct Update {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Likewise for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    _pad: u32,
}

/// Loads an XDP program of plain instructions, which calls no helper that is GPL-only.
pub fn load_xdp(instructions: &[u64]) -> Result<OwnedFd> {
    load(instructions, 0, 0)
}

/// The same for a program that calls ours: it takes frames in fragments and is meant for XDP alone,
/// or the kernel would not let it.
pub fn load_xdp_frags(instructions: &[u64]) -> Result<OwnedFd> {
    const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
    const BPF_XDP: u32 = 37;
    load(instructions, BPF_F_XDP_HAS_FRAGS, BPF_XDP)
}

fn load(instructions: &[u64], flags: u32, expected_attach_type: u32) -> Result<OwnedFd> {
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: u32::try_from(instructions.len())?,
        insns: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        prog_flags: flags,
        expected_attach_type,
        ..Load::default()
    };
    attr.prog_name[..9].copy_from_slice(b"generator");
    let fd = bpf(BPF_PROG_LOAD, &mut attr)
        .context("load the generator's program: needs CAP_BPF with CAP_NET_ADMIN, or root")?;
    // SAFETY: the kernel has just handed out this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An array for tail calls that holds one program.
pub fn program_array(program: BorrowedFd<'_>) -> Result<OwnedFd> {
    const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
    let array = create(BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 1)?;
    let (key, value) = (0u32, program.as_raw_fd());
    let mut attr = Update {
        map_fd: array.as_raw_fd().cast_unsigned(),
        key: &raw const key as u64,
        value: &raw const value as u64,
        ..Update::default()
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).context("put a program into an array")?;
    Ok(array)
}

/// Counts of sources; a new one takes the place of one that was not seen of late.
pub fn lru_hash(key_size: u32, value_size: u32, max_entries: u32) -> Result<OwnedFd> {
    const BPF_MAP_TYPE_LRU_HASH: u32 = 9;
    create(BPF_MAP_TYPE_LRU_HASH, key_size, value_size, max_entries)
}

/// The kernel's longest match; it can be had without preallocation alone.
pub fn trie(key_size: u32, value_size: u32, max_entries: u32) -> Result<OwnedFd> {
    const BPF_MAP_TYPE_LPM_TRIE: u32 = 11;
    const BPF_F_NO_PREALLOC: u32 = 1;
    create_with(Create {
        map_type: BPF_MAP_TYPE_LPM_TRIE,
        key_size,
        value_size,
        max_entries,
        map_flags: BPF_F_NO_PREALLOC,
    })
}

/// Values of zeroes.
pub fn array(value_size: u32, max_entries: u32) -> Result<OwnedFd> {
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    create(BPF_MAP_TYPE_ARRAY, 4, value_size, max_entries)
}

fn create(map_type: u32, key_size: u32, value_size: u32, max_entries: u32) -> Result<OwnedFd> {
    create_with(Create {
        map_type,
        key_size,
        value_size,
        max_entries,
        map_flags: 0,
    })
}

fn create_with(mut attr: Create) -> Result<OwnedFd> {
    let fd = bpf(BPF_MAP_CREATE, &mut attr).context("make a map")?;
    // SAFETY: the kernel has just handed out this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Enters values under keys, each as long as told and one behind the other (kernel 5.6; a trie 5.13).
pub fn fill(
    map: BorrowedFd<'_>,
    keys: &[u8],
    key_size: usize,
    values: &[u8],
    value_size: usize,
) -> Result<()> {
    const AT_ONCE: usize = 1 << 16;
    ensure!(
        keys.len() / key_size == values.len() / value_size,
        "a value for each key"
    );
    let keys = keys.chunks(AT_ONCE * key_size);
    let values = values.chunks(AT_ONCE * value_size);
    for (keys, values) in keys.zip(values) {
        let mut attr = Batch {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: u32::try_from(keys.len() / key_size)?,
            map_fd: map.as_raw_fd().cast_unsigned(),
            ..Batch::default()
        };
        bpf(BPF_MAP_UPDATE_BATCH, &mut attr).context("fill a map")?;
    }
    Ok(())
}

/// What the program answers to `frame`, and how many nanoseconds one of `repeat` runs took.
///
/// They are the thread's time on a core, so that neighbours do not count. The kernel's own figure is
/// of the wall clock, and whole nanoseconds a run: too coarse for a ratio.
pub fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Result<(u32, f64)> {
    let start = time_on_core();
    let answer = test_run(program, frame, repeat, 0).context("run an XDP program on a frame")?;
    let took = time_on_core() - start;
    Ok((answer, took.as_nanos() as f64 / f64::from(repeat)))
}

/// Sends `count` copies of `frame` where the program redirects them to. Returns the whole time, by
/// the wall clock: part of the work is the kernel's own, charged to nobody.
///
/// The interface number the program names is looked up in the namespace of the calling thread.
pub fn send_live(program: BorrowedFd<'_>, frame: &[u8], count: u32) -> Result<Duration> {
    let start = Instant::now();
    test_run(program, frame, count, BPF_F_TEST_XDP_LIVE_FRAMES)
        .context("send live frames (BPF_F_TEST_XDP_LIVE_FRAMES needs Linux 5.18)")?;
    Ok(start.elapsed())
}

/// Returns what the last run answered.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    repeat: u32,
    flags: u32,
) -> io::Result<u32> {
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_in: frame.as_ptr() as u64,
        repeat,
        flags,
        batch_size: if flags == 0 { 0 } else { BATCH },
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(attr.retval)
}

/// Puts the calling thread before the others of the machine, as far as `nice` goes.
pub fn take_precedence() -> io::Result<()> {
    const ITSELF: libc::id_t = 0;
    const HIGHEST: libc::c_int = -20;
    // SAFETY: numbers alone. On Linux this is the thread's own priority, not the process's.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, ITSELF, HIGHEST) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn time_on_core() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is that of `time`. The clock is always there, so nothing can fail.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the pointer and the size are those of `attr`, and what it points to outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer as i32)
}

/// What the kernel knows of the program of this id.
pub fn program(id: u32) -> Result<ProgramInfo> {
    loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .with_context(|| format!("there is no BPF program {id}"))
}
