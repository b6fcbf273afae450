//! The system calls that stay: what the daemon makes when it runs, and no other.
//!
//! A list of what is allowed, so that what a later kernel adds is refused too. Refused are, among some
//! three hundred: executing anything, tracing, loading modules and further BPF programs, mounting, new
//! namespaces and processes, changing the user, io_uring (whose work no filter sees), perf events,
//! rebooting. The caller gets EPERM, and the kernel writes a line about it (audit type 1326, in
//! `dmesg` where no auditd takes it); nothing is killed but a process that makes calls of another
//! architecture.

use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction,
    SeccompCmpArgLen::{Dword, Qword},
    SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use thiserror::Error;

/// Why the process goes on with every system call.
#[derive(Debug, Error)]
pub enum ConfineError {
    #[error("there is no system call filter for {0} in this build")]
    Architecture(&'static str),
    #[error("the system call filter does not compile: {0}")]
    Filter(#[from] seccompiler::BackendError),
    #[error("the kernel takes no system call filter ({0}): it needs CONFIG_SECCOMP_FILTER")]
    Kernel(#[source] io::Error),
    #[error("thread {0} has a system call filter of its own")]
    Thread(libc::c_long),
}

/// Calls that are allowed whatever their arguments.
const ALLOWED: &[libc::c_long] = &[
    // memory
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // files: the state directory, pins, locks, /proc
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sync_file_range,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // sockets; which families, `socket` below says
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    // waiting
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // time
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrusage,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // threads and signals
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_get_robust_list,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    // who and where we are
    libc::SYS_capget,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Its flags are behind a pointer. See `NOT_THERE`.
    libc::SYS_clone3,
];

/// Older forms of the same, which this architecture has and glibc still uses.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_lchown,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// Calls that are told not to exist, upon which glibc makes another that can be judged: no filter can
/// look at the flags of `clone3`, at those of `clone` it can.
const NOT_THERE: &[libc::c_long] = &[libc::SYS_clone3];

/// Commands of bpf(2), by `enum bpf_cmd`: on maps, pins and links. Loading programs is over.
const BPF_COMMANDS: &[u64] = &[
    0,  // BPF_MAP_CREATE: a list's next index
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    6,  // BPF_OBJ_PIN
    7,  // BPF_OBJ_GET
    15, // BPF_OBJ_GET_INFO_BY_FD
    24, // BPF_MAP_LOOKUP_BATCH
    25, // BPF_MAP_LOOKUP_AND_DELETE_BATCH
    26, // BPF_MAP_UPDATE_BATCH
    27, // BPF_MAP_DELETE_BATCH
    28, // BPF_LINK_CREATE: an interface that came back
    29, // BPF_LINK_UPDATE
    34, // BPF_LINK_DETACH
];

/// Requests of ioctl(2): of descriptors and terminals, and the names of interfaces.
const IOCTLS: &[u64] = &[
    libc::FIOCLEX,
    libc::FIONBIO,
    libc::FIONREAD,
    libc::TCGETS,
    libc::TIOCGWINSZ,
    libc::SIOCGIFINDEX,
    libc::SIOCGIFNAME,
];

/// Refuses every other system call from here on, in all threads, for good. The program is loaded by
/// then.
///
/// # Errors
/// The kernel has no seccomp filters, or there is none for this architecture: all calls stay.
pub fn confine() -> Result<(), ConfineError> {
    let architecture = std::env::consts::ARCH;
    let target = TargetArch::try_from(architecture);
    let target = target.map_err(|_| ConfineError::Architecture(architecture))?;
    // The strictest answer counts. In this order, since the second filter allows no third.
    install(&missing(target)?, 0)?;
    install(&allowing(target)?, libc::SECCOMP_FILTER_FLAG_LOG)
}

fn missing(target: TargetArch) -> Result<BpfProgram, ConfineError> {
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = NOT_THERE.iter().map(|call| (*call, Vec::new()));
    let filter = SeccompFilter::new(rules.collect(), SeccompAction::Allow, absent, target)?;
    Ok(filter.try_into()?)
}

fn allowing(target: TargetArch) -> Result<BpfProgram, ConfineError> {
    let calls = ALLOWED.iter().chain(OLDER);
    let mut rules: BTreeMap<_, Vec<SeccompRule>> = calls.map(|call| (*call, Vec::new())).collect();
    rules.extend(judged()?);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, target)?;
    Ok(filter.try_into()?)
}

/// Calls that are allowed with some arguments: any of the rules, each with all of its conditions.
fn judged() -> Result<Vec<(libc::c_long, Vec<SeccompRule>)>, ConfineError> {
    let word = |argument, value| SeccompCondition::new(argument, Dword, SeccompCmpOp::Eq, value);
    let long = |argument, value| SeccompCondition::new(argument, Qword, SeccompCmpOp::Eq, value);
    // None of the bits in the mask but those of the value.
    let bits = |argument, mask: libc::c_int, value: libc::c_int| {
        let (mask, value) = (mask as u32, value as u32);
        SeccompCondition::new(
            argument,
            Dword,
            SeccompCmpOp::MaskedEq(mask.into()),
            value.into(),
        )
    };
    let one = |condition: Result<SeccompCondition, _>| SeccompRule::new(vec![condition?]);
    let any = |argument, values: &[u64]| -> Result<Vec<_>, seccompiler::BackendError> {
        values
            .iter()
            .map(|value| one(word(argument, *value)))
            .collect()
    };
    let family = |family: libc::c_int| word(0, family as u64);
    let own = u64::from(std::process::id());
    const NAMESPACES: libc::c_int = libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWUTS;
    const WRITE_EXECUTE: libc::c_int = libc::PROT_WRITE | libc::PROT_EXEC;
    Ok(vec![
        (libc::SYS_bpf, any(0, BPF_COMMANDS)?),
        (libc::SYS_ioctl, any(1, IOCTLS)?),
        // threads, no processes
        (
            libc::SYS_clone,
            vec![one(bits(
                0,
                libc::CLONE_THREAD | NAMESPACES,
                libc::CLONE_THREAD,
            ))?],
        ),
        // Netlink of routes and links alone: neither audit nor netfilter.
        (
            libc::SYS_socket,
            vec![
                one(family(libc::AF_UNIX))?,
                one(family(libc::AF_INET))?,
                one(family(libc::AF_INET6))?,
                SeccompRule::new(vec![
                    family(libc::AF_NETLINK)?,
                    word(2, libc::NETLINK_ROUTE as u64)?,
                ])?,
            ],
        ),
        // Memory is written or executed, never both, nor one after the other.
        (
            libc::SYS_mmap,
            vec![
                one(bits(2, WRITE_EXECUTE, 0))?,
                one(bits(2, WRITE_EXECUTE, libc::PROT_WRITE))?,
                one(bits(2, WRITE_EXECUTE, libc::PROT_EXEC))?,
            ],
        ),
        (libc::SYS_mprotect, vec![one(bits(2, libc::PROT_EXEC, 0))?]),
        (
            libc::SYS_prctl,
            any(0, &[libc::PR_SET_NAME as u64, libc::PR_SET_VMA as u64])?,
        ),
        // Limits are read.
        (libc::SYS_prlimit64, vec![one(long(2, 0))?]),
        // Its own end, by abort(3).
        (libc::SYS_tgkill, vec![one(word(0, own))?]),
    ])
}

/// For all threads, those of the log and of the event loop too.
fn install(filter: &BpfProgram, log: libc::c_ulong) -> Result<(), ConfineError> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("the compiler bounds a filter to 4096"),
        filter: filter.as_ptr().cast_mut().cast(),
    };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | log;
    // SAFETY: the kernel copies the program, whose instructions have the layout of `sock_filter` and
    // live as long as the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        thread if thread > 0 => Err(ConfineError::Thread(thread)),
        _ => Err(ConfineError::Kernel(io::Error::last_os_error())),
    }
}
