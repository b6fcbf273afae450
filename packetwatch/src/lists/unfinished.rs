//! What a restore changes that is not the journal's: kept there, with the lists, until it is on disk where
//! it belongs, so that a restore that is cut short is finished by the next start.

use serde_json::Value;

use super::{Lists, error::JournalError, journal::Batch, record::RestoreRecord};

/// What the journal is to hold of it.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    restore: Option<RestoreRecord>,
    /// One was acknowledged, and the journal may still say that it is not finished.
    is_there: bool,
    is_unwritten: bool,
}

impl Unfinished {
    /// As the journal has it. The kernel has lists and bans now, which the journal is to know before the next
    /// start.
    pub(super) fn read(mut restore: Option<RestoreRecord>) -> Self {
        let is_behind = restore.as_mut().filter(|restore| !restore.is_in_force);
        let is_unwritten = is_behind.is_some();
        if let Some(restore) = is_behind {
            restore.is_in_force = true;
        }
        Self {
            is_there: restore.is_some(),
            restore,
            is_unwritten,
        }
    }

    /// Lists and bans are the backup's.
    pub(super) fn begin(&mut self, besides: Value) {
        *self = Self {
            restore: Some(RestoreRecord {
                besides,
                is_in_force: true,
            }),
            is_there: true,
            is_unwritten: true,
        };
    }

    /// It was refused, whatever the disk says.
    pub(super) fn refuse(&mut self) {
        self.restore = None;
        self.is_unwritten = true;
    }

    /// Whatever the disk says: nothing is to be finished.
    pub(super) fn end(&mut self) {
        *self = Self {
            restore: None,
            is_there: true,
            is_unwritten: true,
        };
    }

    /// What a transaction has made of it.
    pub(super) fn written(&mut self, is_written: bool) {
        match is_written {
            true => self.is_there = self.restore.is_some(),
            false => self.is_unwritten = true,
        }
    }

    pub(super) fn take_unwritten(&mut self, batch: &mut Batch) {
        if std::mem::take(&mut self.is_unwritten) {
            batch.restore = Some(self.restore.clone());
        }
    }
}

impl Lists {
    /// What a restore was to change besides the lists, if nobody has said that it is done.
    pub fn unfinished(&self) -> Option<Value> {
        let unfinished = self.0.shared.unfinished();
        unfinished.restore.as_ref().map(|r| r.besides.clone())
    }

    /// Whether the journal says, or may say, that a restore is not finished that was acknowledged.
    pub fn is_restore_unfinished(&self) -> bool {
        self.0.shared.unfinished().is_there
    }

    /// What a restore was to change besides the lists is on disk where it belongs, or will never be. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// The journal cannot be written: it is tried again in the background, and until then a start finishes
    /// the restore once more.
    pub fn finished(&self) -> Result<(), JournalError> {
        let shared = &self.0.shared;
        let mut journal = shared.journal();
        {
            let mut unfinished = shared.unfinished();
            if !unfinished.is_there {
                return Ok(());
            }
            unfinished.end();
        }
        let written = shared.commit(&mut journal, Batch::default());
        written.inspect_err(|_| shared.wake.unwritten())
    }
}
