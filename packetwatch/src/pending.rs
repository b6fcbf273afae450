//! Changes on trial: in force at once, and taken back by themselves unless they are confirmed.
//!
//! There is one at a time, whatever it changes. Until it is confirmed or taken back, what it is
//! about takes no other change from people: there is then one former state to return to, and nobody
//! has to guess which. Everything else, bans and protected addresses included, goes on.

use std::{fmt, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::{OffsetDateTime, serde::rfc3339};

use crate::{
    clock::{Clock, Mark},
    lists::List,
    rules::duration,
};

/// How long a change may wait to be confirmed: whoever is locked out waits as long.
pub const CONFIRM: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Reads how long a change waits to be confirmed.
///
/// # Errors
/// A message that quotes the text and says the bounds.
pub fn time_to_confirm(text: &str) -> Result<Duration, String> {
    let within = duration::parse(text)?;
    if !CONFIRM.contains(&within) {
        return Err(format!(
            "{text:?} is not between 1s and 1h: choose a time to confirm the change in, such as 60s"
        ));
    }
    Ok(within)
}

/// What a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Object {
    Rules,
    Mode,
    Allow,
    Deny,
}

impl Object {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Mode => "mode",
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rules => "the rules",
            Self::Mode => "the mode",
            Self::Allow => "the allow list",
            Self::Deny => "the deny list",
        })
    }
}

impl From<List> for Object {
    fn from(list: List) -> Self {
        match list {
            List::Allow => Self::Allow,
            List::Deny => Self::Deny,
        }
    }
}

/// A change on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub record: PendingRecord,
    /// CLOCK_MONOTONIC nanoseconds: from then on the kernel judges as before the change.
    pub deadline: u64,
}

/// What is kept of it on disk, beside the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRecord {
    /// The millisecond that it was made in, in hexadecimal.
    pub id: String,
    pub object: Object,
    #[serde(with = "rfc3339")]
    pub made_at: OffsetDateTime,
    #[serde(with = "rfc3339")]
    pub until: OffsetDateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
}

impl Pending {
    /// A change that is made now. `within` lies in [`CONFIRM`].
    pub fn new(object: Object, within: Duration, clock: Clock) -> Self {
        let now = clock.pair();
        let millis = now.utc.unix_timestamp_nanos() / 1_000_000;
        let deadline = now.monotonic_ns + within.as_nanos() as u64;
        Self {
            record: PendingRecord {
                id: format!("{millis:x}"),
                object,
                made_at: now.utc,
                until: now.utc + within,
                mark: clock.mark(deadline),
            },
            deadline,
        }
    }

    /// One from the disk. However the wall clock was set meanwhile, it waits no longer than it was
    /// made to; and whatever the disk says, no longer than any may.
    pub fn restored(record: PendingRecord, clock: Clock) -> Self {
        let longest = CONFIRM.end().as_nanos() as u64;
        let latest = clock.monotonic_ns().saturating_add(longest);
        let deadline = clock.restored(record.made_at, record.until, record.mark);
        let deadline = deadline.min(latest);
        let mark = clock.mark(deadline);
        Self {
            deadline,
            record: PendingRecord { mark, ..record },
        }
    }

    pub fn is_live(&self, now: u64) -> bool {
        now < self.deadline
    }

    pub fn object(&self) -> Object {
        self.record.object
    }

    /// Why something else has to wait for it.
    pub fn in_the_way(&self) -> InTheWay {
        let PendingRecord {
            id, object, until, ..
        } = self.record.clone();
        InTheWay { id, object, until }
    }
}

/// Why a change was refused: another one waits to be confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "a change of {object} ({id}) waits to be confirmed until {until}: `packetwatch confirm {id}` \
     keeps it, `packetwatch rollback {id}` takes it back; then repeat this one"
)]
pub struct InTheWay {
    pub id: String,
    pub object: Object,
    pub until: OffsetDateTime,
}

/// What a change takes the place of and what is there after it, in words for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub before: String,
    pub after: String,
}

/// Log lines of changes on trial. A change is told as the one that was made also when it is confirmed.
pub(crate) mod event {
    use time::format_description::well_known::Rfc3339;
    use tracing::info;

    use super::{Pending, Told};
    use crate::log::EVENT;

    pub(crate) fn made(pending: &Pending, told: &Told) {
        let record = &pending.record;
        let until = record.until.format(&Rfc3339).unwrap_or_default();
        tracing::warn!(
            target: EVENT,
            {
                event.action = "change-pending",
                packetwatch.pending = record.id.as_str(),
                packetwatch.object = record.object.as_str(),
                packetwatch.expires_at = until.as_str(),
                packetwatch.before = told.before.as_str(),
                packetwatch.after = told.after.as_str(),
            },
            "{} changed; taken back at {until} unless `packetwatch confirm {}` comes first",
            record.object, record.id
        );
    }

    pub(crate) fn confirmed(pending: &Pending, told: &Told) {
        info!(
            target: EVENT,
            {
                event.action = "change-confirmed",
                packetwatch.pending = pending.record.id.as_str(),
                packetwatch.object = pending.object().as_str(),
                packetwatch.before = told.before.as_str(),
                packetwatch.after = told.after.as_str(),
            },
            "the change of {} stays", pending.object()
        );
    }

    /// `told` of the change that is taken back.
    pub(crate) fn rolled_back(pending: &Pending, asked: bool, told: &Told) {
        let cause = if asked {
            "asked for"
        } else {
            "nobody confirmed the change"
        };
        tracing::warn!(
            target: EVENT,
            {
                event.action = "change-rolled-back",
                event.reason = cause,
                packetwatch.pending = pending.record.id.as_str(),
                packetwatch.object = pending.object().as_str(),
                packetwatch.before = told.after.as_str(),
                packetwatch.after = told.before.as_str(),
            },
            "{} as before: {cause}", pending.object()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_time_to_confirm_is_between_a_second_and_an_hour() {
        assert_eq!(time_to_confirm("1s"), Ok(*CONFIRM.start()));
        assert_eq!(time_to_confirm("1h"), Ok(*CONFIRM.end()));
        for text in ["999ms", "1h 1s", "0s", "", "60"] {
            assert!(time_to_confirm(text).is_err(), "{text}");
        }
    }

    #[test]
    fn it_ends_at_its_time_and_not_before() {
        let pending = Pending::new(Object::Deny, MINUTE, Clock::new());
        assert!(pending.is_live(pending.deadline - 1));
        assert!(!pending.is_live(pending.deadline));
    }

    #[test]
    fn a_wall_clock_that_was_set_back_prolongs_nothing() {
        let clock = Clock::movable();
        let mut record = Pending::new(Object::Rules, MINUTE, clock).record;
        clock.advance(MINUTE / 2);
        let left = |record: &PendingRecord| {
            let pending = Pending::restored(record.clone(), clock);
            pending.deadline.saturating_sub(clock.monotonic_ns()) / 1_000_000_000
        };
        assert!((29..=30).contains(&left(&record)), "{}", left(&record));
        // After a reboot, as if it had been made in a year.
        record.mark = None;
        record.made_at += time::Duration::days(365);
        record.until += time::Duration::days(365);
        assert!((59..=60).contains(&left(&record)), "{}", left(&record));
        clock.advance(2 * MINUTE);
        record.made_at -= time::Duration::days(365);
        record.until -= time::Duration::days(365);
        assert_eq!(left(&record), 0);
    }

    #[test]
    fn nothing_that_the_disk_says_makes_a_trial_stand_for_good() {
        let clock = Clock::new();
        let mut record = Pending::new(Object::Rules, MINUTE, clock).record;
        let mut mark = serde_json::to_value(record.mark.unwrap()).unwrap();
        mark["ns"] = u64::MAX.into();
        record.mark = serde_json::from_value(mark).unwrap();
        let left = Pending::restored(record, clock).deadline - clock.monotonic_ns();
        assert!(Duration::from_nanos(left) <= *CONFIRM.end(), "{left}");
    }
}
