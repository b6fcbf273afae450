//! How many callers there are, without counting them.

use std::sync::{Arc, Mutex, PoisonError};

/// Counted when the sweep has read them all; what has come since, the program tells. Cheap to
/// clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Population(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    entries: u64,
    /// the program's count of new entries at that time
    admitted: u64,
}

impl Population {
    /// Entries at a time when the program had made `admitted`.
    pub(super) fn entries(&self, admitted: u64) -> u64 {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.entries + admitted.saturating_sub(counted.admitted)
    }

    /// There are `entries`; the program had made `admitted` when the counting began.
    pub(super) fn counted(&self, entries: u64, admitted: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Counted { entries, admitted };
    }
}
