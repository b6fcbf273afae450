//! Somebody else's XDP programs, of a few instructions, loaded and pinned as their owner would.

use std::ffi::{CStr, CString};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::maps::{Array, Map, MapData};

use crate::intruder::bpf;

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const SOCKET_FILTER: u32 = 1;
const XDP_PROGRAM: u32 = 6;
const XDP_ATTACHMENT: u32 = 37;
const HAS_FRAGS: u32 = 1 << 5;

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

/// What a program is loaded as; [`Program::load`] loads it.
#[derive(Clone, Debug)]
pub struct Program {
    code: Vec<u64>,
    kind: u32,
    flags: u32,
    attach_type: u32,
    name: &'static str,
}

/// How often programs have run that count it.
pub struct Runs {
    fd: OwnedFd,
    count: Array<MapData, u64>,
}

impl Program {
    fn new(name: &'static str, code: Vec<u64>) -> Self {
        Self {
            code,
            kind: XDP_PROGRAM,
            flags: 0,
            attach_type: XDP_ATTACHMENT,
            name,
        }
    }

    /// Passes everything.
    pub fn passing() -> Self {
        Self::new("passing", vec![insn(MOV, 0, 0, 0, XDP_PASS), EXIT])
    }

    /// Drops everything, and does nothing else.
    pub fn dropping_all() -> Self {
        Self::new("dropping_all", vec![insn(MOV, 0, 0, 0, XDP_DROP), EXIT])
    }

    /// Drops everything, and counts what it is given.
    pub fn dropping(runs: &Runs) -> Self {
        let map = runs.fd.as_raw_fd();
        let code = vec![
            insn(STORE_WORD, 10, 0, -4, 0),
            insn(MOVE, 2, 10, 0, 0),
            insn(ADD, 2, 0, 0, -4),
            insn(LOAD_MAP, 1, 1, 0, map),
            0,
            insn(CALL, 0, 0, 0, MAP_LOOKUP),
            insn(JUMP_EQ, 0, 0, 2, 0),
            insn(MOV, 1, 0, 0, 1),
            insn(ATOMIC_ADD, 0, 1, 0, 0),
            insn(MOV, 0, 0, 0, XDP_DROP),
            EXIT,
        ];
        Self::new("dropping", code)
    }

    /// Drops what goes to a port over IPv4 without options, and passes the rest.
    pub fn closing(port: u16) -> Self {
        const TYPE: i16 = 12;
        const PORT: i16 = 36;
        let ipv4 = i32::from(0x0800u16.to_be());
        let code = vec![
            insn(LOAD_WORD, 2, 1, 0, 0),
            insn(LOAD_WORD, 3, 1, 4, 0),
            insn(MOV, 0, 0, 0, XDP_PASS),
            insn(MOVE, 4, 2, 0, 0),
            insn(ADD, 4, 0, 0, i32::from(PORT) + 2),
            insn(JUMP_GT, 4, 3, 5, 0),
            insn(LOAD_HALF, 5, 2, TYPE, 0),
            insn(JUMP_NE, 5, 0, 3, ipv4),
            insn(LOAD_HALF, 5, 2, PORT, 0),
            insn(JUMP_NE, 5, 0, 1, i32::from(port.to_be())),
            insn(MOV, 0, 0, 0, XDP_DROP),
            EXIT,
        ];
        Self::new("closing", code)
    }

    /// Drops what an address sends over IPv4, and passes the rest.
    pub fn refusing(source: Ipv4Addr) -> Self {
        const TYPE: i16 = 12;
        const SOURCE: i16 = 26;
        let half = |value: u16| i32::from(value.to_be());
        let [a, b, c, d] = source.octets().map(u16::from);
        let code = vec![
            insn(LOAD_WORD, 2, 1, 0, 0),
            insn(LOAD_WORD, 3, 1, 4, 0),
            insn(MOV, 0, 0, 0, XDP_PASS),
            insn(MOVE, 4, 2, 0, 0),
            insn(ADD, 4, 0, 0, i32::from(SOURCE) + 4),
            insn(JUMP_GT, 4, 3, 7, 0),
            insn(LOAD_HALF, 5, 2, TYPE, 0),
            insn(JUMP_NE, 5, 0, 5, half(0x0800)),
            insn(LOAD_HALF, 5, 2, SOURCE, 0),
            insn(JUMP_NE, 5, 0, 3, half(a << 8 | b)),
            insn(LOAD_HALF, 5, 2, SOURCE + 2, 0),
            insn(JUMP_NE, 5, 0, 1, half(c << 8 | d)),
            insn(MOV, 0, 0, 0, XDP_DROP),
            EXIT,
        ];
        Self::new("refusing", code)
    }

    /// A filter of sockets, which is no XDP program.
    pub fn of_sockets() -> Self {
        Self {
            kind: SOCKET_FILTER,
            attach_type: 0,
            ..Self::new("of_sockets", vec![insn(MOV, 0, 0, 0, 0), EXIT])
        }
    }

    /// It takes frames of several buffers, as one from a section `xdp.frags`.
    pub fn with_frags(self) -> Self {
        Self {
            flags: HAS_FRAGS,
            ..self
        }
    }

    /// Without an `expected_attach_type`, as loaders before 2026 left it.
    pub fn without_attach_type(self) -> Self {
        Self {
            attach_type: 0,
            ..self
        }
    }

    pub fn load(&self) -> OwnedFd {
        const LICENSE: &CStr = c"GPL";
        let (code, license) = (self.code.as_ptr() as u64, LICENSE.as_ptr() as u64);
        let mut attributes = [0u32; 18];
        attributes[0] = self.kind;
        attributes[1] = self.code.len() as u32;
        attributes[2..4].copy_from_slice(&halves(code));
        attributes[4..6].copy_from_slice(&halves(license));
        // Behind the log and the version.
        attributes[11] = self.flags;
        let mut name = [0; 16];
        name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        for (word, bytes) in attributes[12..16].iter_mut().zip(name.chunks(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
        }
        attributes[17] = self.attach_type;
        owned(bpf(PROG_LOAD, &mut attributes).expect("load a program"))
    }

    /// Loads it, and pins it at a path on a BPF file system whose name has no dot.
    pub fn pin(&self, path: &Path) {
        pin(&self.load(), path);
    }
}

impl Runs {
    pub fn new() -> Self {
        const ARRAY: u32 = 2;
        let [key, value, entries, flags] = [4, 8, 1, 0];
        let mut attributes = [ARRAY, key, value, entries, flags];
        let fd = owned(bpf(MAP_CREATE, &mut attributes).expect("make a map"));
        let map = fd.try_clone().expect("a descriptor");
        let map = MapData::from_fd(map).expect("it is a map");
        Self {
            fd,
            count: Map::Array(map).try_into().expect("it is an array"),
        }
    }

    pub fn count(&self) -> u64 {
        self.count.get(&0, 0).expect("read the map")
    }

    /// Pins the counter itself, which is no program.
    pub fn pin(&self, path: &Path) {
        pin(&self.fd, path);
    }
}

impl Default for Runs {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether this kernel has a program array hold programs of one `expected_attach_type` alone: 6.18, and
/// stable releases of 6.1 to 6.17 since October 2025.
pub fn attach_types_must_be_alike() -> bool {
    const PROGRAM_ARRAY: u32 = 3;
    let mut attributes = [PROGRAM_ARRAY, 4, 4, 1, 0];
    let array = owned(bpf(MAP_CREATE, &mut attributes).expect("make a map"));
    let put = |program: &Program| {
        let (key, value) = (0u32, program.load());
        let value = value.as_raw_fd();
        let mut attributes = [0; 8];
        attributes[0] = array.as_raw_fd() as u32;
        attributes[2..4].copy_from_slice(&halves((&raw const key) as u64));
        attributes[4..6].copy_from_slice(&halves((&raw const value) as u64));
        bpf(MAP_UPDATE_ELEM, &mut attributes)
    };
    put(&Program::passing()).expect("an array without an owner takes any");
    put(&Program::passing().without_attach_type()).is_err()
}

/// Pins a program, map or link.
pub fn pin(object: &OwnedFd, path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
    let [low, high] = halves(path.as_ptr() as u64);
    bpf(OBJ_PIN, &mut [low, high, object.as_raw_fd() as u32, 0]).expect("pin it");
}

/// As the kernel reads it from two words, in its own byte order.
fn halves(address: u64) -> [u32; 2] {
    let [low, high] = [address as u32, (address >> 32) as u32];
    if cfg!(target_endian = "big") {
        [high, low]
    } else {
        [low, high]
    }
}

pub(crate) fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it, for the caller alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

const MOV: u8 = 0xb7;
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
const LOAD_HALF: u8 = 0x69;
const LOAD_WORD: u8 = 0x61;
const LOAD_MAP: u8 = 0x18;
const STORE_WORD: u8 = 0x62;
const ATOMIC_ADD: u8 = 0xdb;
const JUMP_EQ: u8 = 0x15;
const JUMP_NE: u8 = 0x55;
const JUMP_GT: u8 = 0x2d;
const CALL: u8 = 0x85;
const EXIT: u64 = 0x95;
const MAP_LOOKUP: i32 = 1;

/// `struct bpf_insn`, of a little-endian machine.
const fn insn(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    code as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset as u16 as u64) << 16
        | (value as u32 as u64) << 32
}
