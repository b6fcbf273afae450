//! How many callers there must be at least: whether somebody else has removed some.
//!
//! The program adds callers and counts each after it is there; this process alone removes any, and counts
//! that too. So of those that one reading of the table found, and what came since, the next one finds all
//! that were not removed here. What came while the table was read may be found by that reading or not: it
//! is left out of what has to be there.

/// To be asked under the lock of who removes callers.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// callers that this process has removed
    removed: u64,
    last: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    found: u64,
    /// as it began
    removed: u64,
    /// the program's count of new callers, when those that were found were in it for sure
    admitted: u64,
}

/// What was so when a reading began.
#[derive(Debug)]
pub(super) struct Begun {
    removed: u64,
    admitted: u64,
}

impl Census {
    /// This process has removed `callers`, or more than it has.
    pub(super) fn removed(&mut self, callers: u64) {
        self.removed += callers;
    }

    /// A reading begins; the program has made `admitted` callers.
    pub(super) fn begin(&self, admitted: u64) -> Begun {
        let removed = self.removed;
        Begun { removed, admitted }
    }

    /// It is over and has `found` so many, all of them among the `admitted` that the program has made by
    /// now. Returns how many somebody else has removed since the one before, or fewer.
    pub(super) fn end(&mut self, begun: &Begun, found: u64, admitted: u64) -> u64 {
        let missing = self.last.as_ref().map_or(0, |last| {
            let come = begun.admitted.saturating_sub(last.admitted);
            let removed = self.removed - last.removed;
            (last.found + come).saturating_sub(removed + found)
        });
        self.last = Some(Reading {
            found,
            removed: begun.removed,
            admitted,
        });
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a reading that has found 10 of 10.
    fn census() -> Census {
        let mut census = Census::default();
        let begun = census.begin(10);
        assert_eq!(census.end(&begun, 10, 10), 0, "nothing is known yet");
        census
    }

    #[test]
    fn what_nobody_here_has_removed_is_missing_once() {
        let mut census = census();
        let begun = census.begin(13);
        assert_eq!(census.end(&begun, 9, 13), 4);
        let begun = census.begin(13);
        assert_eq!(census.end(&begun, 9, 13), 0);
    }

    #[test]
    fn what_is_removed_here_is_not_missing() {
        let mut census = census();
        census.removed(4);
        let begun = census.begin(10);
        // While the table is read: found or not.
        census.removed(2);
        assert_eq!(census.end(&begun, 4, 10), 0);
        let begun = census.begin(10);
        assert_eq!(census.end(&begun, 4, 10), 0);
    }

    #[test]
    fn what_comes_while_the_table_is_read_is_not_missing() {
        let mut census = census();
        let begun = census.begin(12);
        // Two of the three were found that came meanwhile.
        assert_eq!(census.end(&begun, 14, 15), 0);
        let begun = census.begin(15);
        assert_eq!(census.end(&begun, 15, 15), 0);
    }

    #[test]
    fn counts_that_somebody_else_has_put_back_are_no_loss() {
        let mut census = census();
        let begun = census.begin(0);
        assert_eq!(census.end(&begun, 10, 0), 0);
    }
}
