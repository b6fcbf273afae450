//! Waiting for something that another process does, for so long and no longer.

use std::io::{self, ErrorKind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::environment;

/// Pause between two looks: short against every time-out of the tests, long against a system call.
const STEP: Duration = Duration::from_millis(10);

/// The limit of what has to happen, on this machine: `PATIENCE` times as long where that is set, for
/// one that is emulated.
pub fn stretched(limit: Duration) -> Duration {
    static TIMES: OnceLock<u32> = OnceLock::new();
    let times = TIMES.get_or_init(|| {
        let times = environment::number("PATIENCE").unwrap_or(1);
        u32::try_from(times).unwrap_or(u32::MAX)
    });
    limit.saturating_mul(*times)
}

/// Asks `look` until it answers `Some`, or until `limit`, [`stretched`], is over; it is asked at least
/// once.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + stretched(limit);
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(STEP);
    }
}

/// What `wait` returns once no signal has ended it. A wait on a socket with a time-out is not gone on with
/// by the kernel (signal(7)), whoever the signal was for; it begins anew here, with its whole time-out.
///
/// # Errors
/// Those of `wait` but for `Interrupted`.
pub fn uninterrupted<T>(mut wait: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match wait() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            ended => return ended,
        }
    }
}

/// Raises a flag at its end, also that of a panic: threads that go on until then would otherwise
/// keep a failing test from ending.
#[derive(Debug)]
pub struct Raised<'a>(pub &'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_a_signal_ends_begins_anew_and_one_that_fails_does_not() {
        let mut ends = vec![
            Err(ErrorKind::WouldBlock),
            Ok(7),
            Err(ErrorKind::Interrupted),
            Err(ErrorKind::Interrupted),
        ];
        let mut wait =
            || uninterrupted(|| ends.pop().expect("no more waits").map_err(io::Error::from));
        assert_eq!(wait().unwrap(), 7);
        assert_eq!(wait().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
