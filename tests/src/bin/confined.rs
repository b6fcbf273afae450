//! Makes system calls that the daemon must not be able to make, and prints what the kernel answers:
//! `NAME ERRNO` a line, 0 for success. With the argument `free` without the daemon's filter, else
//! under it. What is tried does no harm where it is allowed: its arguments are wrong, or its effect
//! ends with this process.

use std::{env, io, ptr, sync::mpsc, thread};

use libc::{c_int, c_long, c_ulong};

/// A name and a call.
type Attempt = (&'static str, fn() -> c_long);

const NOWHERE: &std::ffi::CStr = c"/nonexistent/packetwatch";

const ATTEMPTS: &[Attempt] = &[
    ("execve", || {
        // SAFETY: a path and empty lists, of which there is none to execute.
        unsafe {
            libc::execve(
                NOWHERE.as_ptr(),
                [ptr::null()].as_ptr(),
                [ptr::null()].as_ptr(),
            )
        }
        .into()
    }),
    ("execveat", || call(libc::SYS_execveat, [-1, 0, 0, 0, 0])),
    ("fork", || {
        // SAFETY: the child ends at once.
        match unsafe { libc::fork() } {
            // SAFETY: ends the process without a destructor.
            0 => unsafe { libc::_exit(0) },
            child => child.into(),
        }
    }),
    ("clone3", || call(libc::SYS_clone3, [0; 5])),
    ("unshare-user", || unshare(libc::CLONE_NEWUSER)),
    ("unshare-net", || unshare(libc::CLONE_NEWNET)),
    ("unshare-mount", || unshare(libc::CLONE_NEWNS)),
    ("setns", || call(libc::SYS_setns, [-1, 0, 0, 0, 0])),
    // Of no process: a tracer would have to wait for this one.
    ("ptrace", || {
        call(
            libc::SYS_ptrace,
            [libc::PTRACE_PEEKDATA.into(), -1, 0, 0, 0],
        )
    }),
    ("process_vm_readv", || {
        call(libc::SYS_process_vm_readv, [own(), 0, 0, 0, 0])
    }),
    ("process_vm_writev", || {
        call(libc::SYS_process_vm_writev, [own(), 0, 0, 0, 0])
    }),
    ("pidfd_getfd", || {
        call(libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0])
    }),
    ("init_module", || call(libc::SYS_init_module, [0; 5])),
    ("finit_module", || {
        call(libc::SYS_finit_module, [-1, 0, 0, 0, 0])
    }),
    ("delete_module", || call(libc::SYS_delete_module, [0; 5])),
    ("kexec_load", || {
        call(libc::SYS_kexec_load, [0, 17, 0, 0, 0])
    }),
    // Without its magic numbers.
    ("reboot", || call(libc::SYS_reboot, [0; 5])),
    ("mount", || call(libc::SYS_mount, [0, nowhere(), 0, 0, 0])),
    ("umount", || {
        call(libc::SYS_umount2, [nowhere(), 0, 0, 0, 0])
    }),
    ("move_mount", || {
        call(libc::SYS_move_mount, [-1, 0, -1, 0, 0])
    }),
    ("open_tree", || {
        call(libc::SYS_open_tree, [-1, nowhere(), 0, 0, 0])
    }),
    ("fsopen", || call(libc::SYS_fsopen, [nowhere(), 0, 0, 0, 0])),
    ("pivot_root", || {
        call(libc::SYS_pivot_root, [nowhere(), nowhere(), 0, 0, 0])
    }),
    ("chroot", || call(libc::SYS_chroot, [nowhere(), 0, 0, 0, 0])),
    ("swapon", || call(libc::SYS_swapon, [nowhere(), 0, 0, 0, 0])),
    ("setuid", || call(libc::SYS_setuid, [0; 5])),
    ("setresuid", || call(libc::SYS_setresuid, [0; 5])),
    ("setgroups", || call(libc::SYS_setgroups, [0; 5])),
    ("capset", || call(libc::SYS_capset, [0; 5])),
    ("perf_event_open", || {
        call(libc::SYS_perf_event_open, [0, 0, -1, -1, 0])
    }),
    ("bpf-prog-load", || bpf(5)),
    ("bpf-prog-test-run", || bpf(10)),
    ("bpf-raw-tracepoint-open", || bpf(17)),
    ("io_uring_setup", || call(libc::SYS_io_uring_setup, [0; 5])),
    ("userfaultfd", || {
        call(libc::SYS_userfaultfd, [-1, 0, 0, 0, 0])
    }),
    ("keyctl", || call(libc::SYS_keyctl, [-1, 0, 0, 0, 0])),
    ("clock_settime", || {
        call(libc::SYS_clock_settime, [-1, 0, 0, 0, 0])
    }),
    ("open_by_handle_at", || {
        call(libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0])
    }),
    ("kill-another", || call(libc::SYS_kill, [1, 0, 0, 0, 0])),
    ("tgkill-another", || call(libc::SYS_tgkill, [1, 1, 0, 0, 0])),
    ("socket-packet", || {
        socket(libc::AF_PACKET, libc::SOCK_RAW, 0)
    }),
    ("socket-audit", || {
        socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT)
    }),
    ("ioctl-tiocsti", || {
        call(libc::SYS_ioctl, [-1, libc::TIOCSTI as c_long, 0, 0, 0])
    }),
    ("prctl-dumpable", || {
        call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0])
    }),
    ("mmap-write-execute", || {
        map(libc::PROT_WRITE | libc::PROT_EXEC)
    }),
    ("mprotect-execute", || {
        let page = map(libc::PROT_READ | libc::PROT_WRITE);
        let access = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
        call(libc::SYS_mprotect, [page, 4096, access, 0, 0])
    }),
    ("prlimit-set", || call(libc::SYS_prlimit64, [0, 0, 1, 0, 0])),
];

/// What must go on working.
const NEEDED: &[Attempt] = &[
    ("bpf-map-lookup", || match bpf(1) {
        // of no map
        -1 if errno() == libc::EBADF || errno() == libc::EINVAL => 0,
        other => other,
    }),
    ("socket-route", || {
        socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)
    }),
    ("socket-inet6", || {
        socket(libc::AF_INET6, libc::SOCK_STREAM, 0)
    }),
    ("mmap", || map(libc::PROT_READ | libc::PROT_WRITE)),
    ("thread", || {
        match thread::Builder::new()
            .spawn(|| ())
            .map(thread::JoinHandle::join)
        {
            Ok(Ok(())) => 0,
            _ => -1,
        }
    }),
];

fn main() {
    let (go, wait) = mpsc::channel();
    // It is there before the filter is.
    let earlier = thread::spawn(move || {
        wait.recv().expect("the other thread is there");
        for (name, attempt) in ATTEMPTS {
            println!("{name} {}", outcome(*attempt));
        }
        for (name, attempt) in NEEDED {
            println!("needed-{name} {}", outcome(*attempt));
        }
    });
    if env::args().nth(1).as_deref() != Some("free") {
        nix::sys::prctl::set_no_new_privs().expect("give up new privileges");
        packetwatch::privileges::confine().expect("confine this process");
    }
    go.send(()).expect("the other thread waits");
    earlier.join().expect("every attempt comes back");
}

fn outcome(attempt: fn() -> c_long) -> c_int {
    if attempt() == -1 { errno() } else { 0 }
}

fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn call(number: c_long, [a, b, c, d, e]: [c_long; 5]) -> c_long {
    // SAFETY: the arguments are numbers, null, and addresses of constants.
    unsafe { libc::syscall(number, a, b, c, d, e) }
}

fn nowhere() -> c_long {
    NOWHERE.as_ptr() as c_long
}

fn own() -> c_long {
    c_long::from(std::process::id())
}

fn unshare(flags: c_int) -> c_long {
    call(libc::SYS_unshare, [flags.into(), 0, 0, 0, 0])
}

fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_long {
    call(
        libc::SYS_socket,
        [family.into(), kind.into(), protocol.into(), 0, 0],
    )
}

/// A command without attributes.
fn bpf(command: c_long) -> c_long {
    call(libc::SYS_bpf, [command, 0, 0, 0, 0])
}

fn map(access: c_int) -> c_long {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, which nothing refers to.
    let page = unsafe { libc::mmap(ptr::null_mut(), 4096, access, flags, -1, 0) };
    page as c_ulong as c_long
}
