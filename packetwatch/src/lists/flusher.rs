//! Group commit: bans, and what the sweep removed, reach the journal a moment after the kernel.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Instant,
};

use super::{
    Shared,
    error::JournalError,
    event,
    journal::{Batch, Journal},
    schedule::{RETRY, Schedule},
};

/// Tells the thread that there is something to write, or that it is to end.
#[derive(Debug, Default)]
pub(super) struct Wake {
    call: Mutex<Call>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct Call {
    schedule: Schedule,
    end: bool,
}

impl Wake {
    /// There are rows that the journal lacks.
    pub(super) fn unwritten(&self) {
        self.call().schedule.unwritten(Instant::now());
        self.called.notify_one();
    }

    fn failed(&self) {
        self.call().schedule.failed(Instant::now());
    }

    fn end(&self) {
        self.call().end = true;
        self.called.notify_one();
    }

    /// Waits until rows are to be written; false once the thread is to end.
    fn wait(&self) -> bool {
        let mut call = self.call();
        loop {
            if call.end {
                return false;
            }
            match call.schedule.wait(Instant::now()) {
                None => call = self.called.wait(call).expect("nothing panics here"),
                Some(left) if left.is_zero() => {
                    call.schedule.begin();
                    return true;
                }
                Some(left) => {
                    let waited = self.called.wait_timeout(call, left);
                    call = waited.expect("nothing panics here").0;
                }
            }
        }
    }

    fn call(&self) -> MutexGuard<'_, Call> {
        self.call.lock().expect("nothing panics here")
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
        self.shared.wake.end();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal thread panicked: the last bans may not be on disk");
        }
    }
}

fn run(shared: &Shared) {
    while shared.wake.wait() {
        if !shared.flush() {
            shared.wake.failed();
        }
    }
    shared.flush();
}

impl Shared {
    /// Writes what the journal lacks, in one transaction; false if that failed.
    pub(super) fn flush(&self) -> bool {
        let written = self.commit(&mut self.journal(), Batch::default());
        if let Err(error) = &written {
            event::not_written(error, RETRY);
        }
        written.is_ok()
    }

    /// Writes `rows`, and with them what else the journal lacks: so a ban never waits behind more
    /// than the one API write that is under way, and what a failed write left behind on the disk
    /// is mended by the next.
    ///
    /// What else there is, is written as it is now, not as it was when it changed. An API write
    /// holds the journal from before its transaction until memory agrees with it, so none is
    /// undone.
    ///
    /// # Errors
    /// What is on disk is then unknown: all of the rows are written again as they should be.
    pub(super) fn commit(&self, journal: &mut Journal, rows: Batch) -> Result<(), JournalError> {
        let mut batch = Batch::default();
        self.state().take_unwritten(&mut batch);
        self.bans_in_slices(|bans, most| bans.take_unwritten(&mut batch, most, self.clock));
        self.unfinished().take_unwritten(&mut batch);
        batch.append(rows);
        if batch.is_empty() {
            return Ok(());
        }
        let written = journal.commit(&batch);
        self.set_journal_fault(written.as_ref().err().map(ToString::to_string));
        if let Ok(outgrown) = &written
            && !outgrown.is_empty()
        {
            let mut state = self.state();
            outgrown
                .iter()
                .for_each(|list| state.mark_list_unwritten(*list));
            drop(state);
            self.wake.unwritten();
        }
        if batch.restore.is_some() {
            self.unfinished().written(written.is_ok());
        }
        if written.is_err() {
            if batch.trial.is_some() {
                self.state().trial_is_unwritten = true;
            }
            for (list, _) in &batch.lists {
                self.state().mark_list_unwritten(*list);
            }
            let entries = batch.entries.iter();
            let entries = entries.map(|(list, prefix, _)| (*list, *prefix));
            self.state().mark_unwritten(entries);
            let bans = batch.bans.iter().map(|(prefix, _)| *prefix);
            self.bans().mark_unwritten(bans);
        }
        written.map(drop)
    }
}
