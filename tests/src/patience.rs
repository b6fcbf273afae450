//! Waiting for something that another process does, for so long and no longer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks: short against every time-out of the tests, long against a system call.
const STEP: Duration = Duration::from_millis(10);

/// Asks `look` until it answers `Some`, or until `limit` is over; it is asked at least once.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
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

/// Raises a flag at its end, also that of a panic: threads that go on until then would otherwise
/// keep a failing test from ending.
#[derive(Debug)]
pub struct Raised<'a>(pub &'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
