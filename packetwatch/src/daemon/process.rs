//! What the process asks of the kernel for itself.

use nix::sys::{
    prctl::set_dumpable,
    resource::{Resource, getrlimit, setrlimit},
};

/// File descriptors: the API's connections, 768 at most, and some hundred for maps, links and files.
const FILES: u64 = 4096;

/// Keeps what is in memory there, such as the key of the certificate: no core is written, whatever
/// the limits and `core_pattern` say, and no process of the same user may read this one's memory or
/// environment. Root still may, with CAP_SYS_PTRACE.
///
/// Raises the limit of open files to what the API's bounds take. A lower hard limit stands, and
/// `accept` then waits for descriptors.
pub(super) fn settle() {
    if let Err(error) = set_dumpable(false) {
        tracing::warn!(
            error.message = %error,
            "a core of this process would be written, and hold secrets"
        );
    }
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = FILES.min(hard).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
        Ok(wanted)
    });
    match raised {
        Ok(FILES..) => {}
        Ok(few) => tracing::warn!(
            "{few} files may be open, and many connections to the API take {FILES}: raise the limit \
             (`ulimit -Hn`, or LimitNOFILE= of the unit)"
        ),
        Err(error) => tracing::warn!(
            error.message = %error,
            "cannot raise the limit of open files"
        ),
    }
}
