//! Whether callers that a rule holds something of are forgotten for want of room: told when it begins
//! and when it is over, since a source that is silent meanwhile may go unseen.

use crate::{log::EVENT, metrics::Counters};

/// A crowd is over when nobody was given up for so long, nanoseconds. Rounds of the sweep lie further
/// apart the slower the table fills up.
const CALM: u64 = 60_000_000_000;

#[derive(Default)]
pub(super) struct Crowd {
    /// none if there is no crowd
    last: Option<u64>,
    /// since it began
    forgotten: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Began,
    Ended { forgotten: u64 },
}

impl Crowd {
    /// A round of the sweep at `now` has forgotten so many.
    pub(super) fn swept(&mut self, forgotten: u64, now: u64, counters: &Counters) {
        let change = self.look(forgotten, now);
        counters.set_crowded(self.last.is_some());
        match change {
            None => {}
            Some(Change::Began) => tracing::warn!(
                target: EVENT,
                { event.action = "crowd-began" },
                "more sources call than there is room for: those that have used up least of any rule \
                 are forgotten when they are silent for two seconds, so that slow ones may go unseen; \
                 raise capacity.callers"
            ),
            Some(Change::Ended { forgotten }) => tracing::warn!(
                target: EVENT,
                {
                    event.action = "crowd-ended",
                    packetwatch.forgotten = forgotten,
                },
                "there is room for all sources again: of the crowd {forgotten} were forgotten that a \
                 rule held something of"
            ),
        }
    }

    fn look(&mut self, forgotten: u64, now: u64) -> Option<Change> {
        self.forgotten += forgotten;
        match self.last {
            _ if forgotten > 0 => self.last.replace(now).is_none().then_some(Change::Began),
            Some(last) if now.saturating_sub(last) >= CALM => {
                let Self { forgotten, .. } = std::mem::take(self);
                Some(Change::Ended { forgotten })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_over_a_minute_after_the_last_that_was_forgotten() {
        let mut crowd = Crowd::default();
        assert_eq!(crowd.look(0, CALM), None);
        assert_eq!(crowd.look(3, 2 * CALM), Some(Change::Began));
        assert_eq!(crowd.look(0, 3 * CALM - 1), None);
        assert_eq!(crowd.look(4, 3 * CALM), None);
        assert_eq!(crowd.look(0, 4 * CALM - 1), None);
        let ended = Change::Ended { forgotten: 7 };
        assert_eq!(crowd.look(0, 4 * CALM), Some(ended));
        assert_eq!(crowd.look(0, 5 * CALM), None);
        assert_eq!(crowd.look(1, 5 * CALM), Some(Change::Began));
        let ended = Change::Ended { forgotten: 1 };
        assert_eq!(crowd.look(0, 6 * CALM), Some(ended));
    }
}
