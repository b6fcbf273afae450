//! BPF links of XDP programs: what holds a program on an interface.
//!
//! aya's links do not tell on which interface they are, which is what taking one over turns on. So
//! the calls are made here, on file descriptors: `BPF_LINK_CREATE`, `BPF_LINK_UPDATE` (Linux 5.9),
//! `BPF_OBJ_PIN`, `BPF_OBJ_GET` and `BPF_OBJ_GET_INFO_BY_FD`, none of which needs more than CAP_BPF
//! and CAP_NET_ADMIN. Layouts: `union bpf_attr` and `struct bpf_link_info` in `linux/bpf.h`.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::XdpMode;

const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_GET_FD_BY_ID: libc::c_long = 30;

/// `BPF_XDP` of `enum bpf_attach_type`
const ATTACH_TYPE: u32 = 37;
/// `BPF_LINK_TYPE_XDP`
const LINK_TYPE: u32 = 6;

/// A link, by a file descriptor of this process. With its last descriptor and pin it ends, and the
/// program leaves the interface.
#[derive(Debug)]
pub(super) struct XdpLink(OwnedFd);

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub(super) id: u32,
    pub(super) program_id: u32,
    /// 0 when it is dead: its interface was removed, or somebody detached it. It never comes back.
    pub(super) ifindex: u32,
}

impl XdpLink {
    /// Attaches a program to an interface that has none.
    ///
    /// # Errors
    /// EBUSY: there is one; EEXIST: there is one in the other mode; else what the driver answers.
    pub(super) fn create(program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode) -> io::Result<Self> {
        const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
        const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
        let flags = match mode {
            XdpMode::Native => XDP_FLAGS_DRV_MODE,
            XdpMode::Generic => XDP_FLAGS_SKB_MODE,
        };
        let mut attributes = [program.as_raw_fd() as u32, ifindex, ATTACH_TYPE, flags];
        bpf(LINK_CREATE, &mut attributes).map(Self::owned)
    }

    /// Puts another program in the place of the one under it, in one step.
    ///
    /// # Errors
    /// ENOLINK: it is dead; else what the driver answers. The program under it stays.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attributes = [self.0.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0];
        bpf(LINK_UPDATE, &mut attributes).map(drop)
    }

    pub(super) fn info(&self) -> io::Result<LinkInfo> {
        // type, id, program, and behind a gap the union, whose member `xdp` is the index
        let mut info = [0u32; 16];
        let (address, length) = (info.as_mut_ptr() as u64, size_of_val(&info) as u32);
        let mut attributes = [
            self.0.as_raw_fd() as u32,
            length,
            address as u32,
            (address >> 32) as u32,
        ];
        // The kernel reads a 64-bit pointer in its own byte order.
        if cfg!(target_endian = "big") {
            attributes.swap(2, 3);
        }
        bpf(OBJ_GET_INFO_BY_FD, &mut attributes)?;
        let [kind, id, program_id, _, ifindex, ..] = info;
        if kind != LINK_TYPE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no link of an XDP program",
            ));
        }
        Ok(LinkInfo {
            id,
            program_id,
            ifindex,
        })
    }

    /// Opens a pin.
    ///
    /// # Errors
    /// There is none, or it holds something else.
    pub(super) fn open(pin: &Path) -> io::Result<Self> {
        match Pinned::open(pin)? {
            Pinned::Link(link) => Ok(link),
            Pinned::Program { .. } | Pinned::Other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "what is pinned there is no link",
            )),
        }
    }

    /// Needs CAP_SYS_ADMIN.
    pub(super) fn by_id(id: u32) -> io::Result<Self> {
        bpf(LINK_GET_FD_BY_ID, &mut [id, 0, 0]).map(Self::owned)
    }

    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        object(OBJ_PIN, path, self.0.as_raw_fd()).map(drop)
    }

    fn owned(fd: libc::c_int) -> Self {
        // SAFETY: the kernel has just made it, for this call alone.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// What a file on a BPF file system stands for.
#[derive(Debug)]
pub(super) enum Pinned {
    Link(XdpLink),
    Program { fd: OwnedFd, id: u32 },
    Other,
}

impl Pinned {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let link = XdpLink::owned(object(OBJ_GET, path, 0)?);
        // Which of the three kinds a descriptor is, no command of bpf(2) says; these lines do.
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.0.as_raw_fd()))?;
        let number = |key| told.lines().find_map(|line| line.strip_prefix(key));
        if number("link_id:").is_some() {
            return Ok(Self::Link(link));
        }
        let program = number("prog_id:").and_then(|id| id.trim().parse().ok());
        Ok(program.map_or(Self::Other, |id| Self::Program { fd: link.0, id }))
    }
}

fn object(command: libc::c_long, path: &Path, fd: libc::c_int) -> io::Result<libc::c_int> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let address = path.as_ptr() as u64;
    let mut attributes = [address as u32, (address >> 32) as u32, fd as u32, 0];
    if cfg!(target_endian = "big") {
        attributes.swap(0, 1);
    }
    bpf(command, &mut attributes)
}

fn bpf(command: libc::c_long, attributes: &mut [u32]) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are as long as is said, and what they point to lives in the caller.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as libc::c_int)
}
