//! A kernel that lacks something: a system call that is there answers as if it were not.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// What bpf(2) is to lack.
#[derive(Clone, Copy, Debug)]
pub enum Lacking {
    /// The call, as without CONFIG_BPF_SYSCALL.
    Call,
    /// Every kind of map, as when a kernel does not know them.
    Maps,
}

/// The command of bpf(2) that makes a map.
const BPF_MAP_CREATE: u32 = 0;

/// Lets a command, and whatever it executes, run as on a kernel that lacks something. It has to run as
/// root.
pub fn deprive(command: &mut Command, lacking: Lacking) {
    let filter = filter(lacking);
    let install = move || {
        let program = libc::sock_fprog {
            len: filter.len() as libc::c_ushort,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel copies the program, which lives as long as the call.
        match unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(install) };
}

/// A seccomp filter in classic BPF; see seccomp(2).
fn filter(lacking: Lacking) -> [libc::sock_filter; 6] {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUALS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const NUMBER: u32 = 0;
    // The low half, on a little-endian machine.
    const FIRST_ARGUMENT: u32 = 16;
    let does = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let (errno, otherwise) = match lacking {
        Lacking::Call => (libc::ENOSYS, 0),
        Lacking::Maps => (libc::EINVAL, 1),
    };
    [
        does(LOAD, NUMBER, 0, 0),
        does(EQUALS, libc::SYS_bpf as u32, 0, 3),
        does(LOAD, FIRST_ARGUMENT, 0, 0),
        does(EQUALS, BPF_MAP_CREATE, 0, otherwise),
        does(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        does(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ]
}
