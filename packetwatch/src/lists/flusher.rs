//! Group commit: bans, and what the sweep removed, reach the journal a moment after the kernel.

use std::{
    io,
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Shared, event, journal::Batch};

/// How long rows are gathered before they are written. With the fsync they are on disk within
/// 50 ms on any disk that syncs in half of that.
const GATHER: Duration = Duration::from_millis(25);

/// The pause after a failed write.
const RETRY: Duration = Duration::from_secs(1);

/// Tells the thread that there is something to write, or that it is to end.
#[derive(Debug, Default)]
pub(super) struct Wake {
    call: Mutex<Call>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct Call {
    unwritten: bool,
    end: bool,
}

impl Wake {
    /// There are rows that the journal lacks.
    pub(super) fn unwritten(&self) {
        self.tell(|call| call.unwritten = true);
    }

    fn tell(&self, what: impl FnOnce(&mut Call)) {
        what(&mut self.call.lock().expect("nothing panics here"));
        self.called.notify_one();
    }

    /// Waits for a call; false once it is to end.
    fn wait(&self) -> bool {
        let call = self.call.lock().expect("nothing panics here");
        let idle = |call: &mut Call| !call.unwritten && !call.end;
        let mut call = self
            .called
            .wait_while(call, idle)
            .expect("nothing panics here");
        call.unwritten = false;
        !call.end
    }

    /// Sleeps, unless it is to end.
    fn pause(&self, length: Duration) {
        let call = self.call.lock().expect("nothing panics here");
        let until = Instant::now() + length;
        let sleeping = |call: &mut Call| !call.end && Instant::now() < until;
        let waited = self.called.wait_timeout_while(call, length, sleeping);
        drop(waited.expect("nothing panics here"));
    }
}

/// The thread. Dropping it ends the thread after a last flush.
pub(super) struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || run(&theirs))?;
        shared.wake.unwritten();
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.wake.tell(|call| call.end = true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal thread panicked: the last bans may not be on disk");
        }
    }
}

fn run(shared: &Shared) {
    while shared.wake.wait() {
        shared.wake.pause(GATHER);
        if !shared.flush() {
            shared.wake.unwritten();
            shared.wake.pause(RETRY);
        }
    }
    shared.flush();
}

impl Shared {
    /// Writes what the journal lacks, in one transaction; false if that failed.
    ///
    /// It writes the rows as they are now, not as they were when they changed. An API write holds
    /// the journal from before its transaction until memory agrees with it, so none is undone.
    pub(super) fn flush(&self) -> bool {
        let mut journal = self.journal();
        let mut batch = Batch::default();
        self.state().take_unwritten(&mut batch);
        self.bans().take_unwritten(&mut batch, self.clock);
        if batch.is_empty() {
            return true;
        }
        let Err(error) = journal.commit(&batch) else {
            return true;
        };
        let entries = batch
            .entries
            .iter()
            .map(|(list, prefix, _)| (*list, *prefix));
        self.state().mark_unwritten(entries);
        let bans = batch.bans.iter().map(|(prefix, _)| *prefix);
        self.bans().mark_unwritten(bans);
        event::not_written(&error, RETRY);
        false
    }
}
