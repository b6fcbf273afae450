//! How the process gives memory back.
//!
//! A replaced list is hundreds of megabytes of small pieces, which glibc by default keeps: each thread
//! that writes lists gets an arena of its own, up to eight a core, and what is free below a piece in
//! use stays resident. After twenty replacements that was 850 MiB for an empty list.

/// One for the thread that starts the daemon, one for all others: a start reads lists and bans beside
/// each other.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// Bytes at the end of a heap that are given back. To set it, to what is the default, keeps glibc from
/// raising it with each large piece that is freed.
#[cfg(target_env = "gnu")]
const TRIM_THRESHOLD: libc::c_int = 128 * 1024;

/// To be called before there are threads. Without it the daemon is as good, and larger.
pub(crate) fn bound_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers alone
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
    }
}

/// Gives back what was freed; of some hundred megabytes it takes some ten milliseconds.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a number; it may be called by any thread at any time
    unsafe {
        libc::malloc_trim(0);
    }
}
