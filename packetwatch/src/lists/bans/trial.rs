//! Bans that a change on trial has led to: they last no longer than it does unless it stays.

use std::time::Duration;

use ipnet::IpNet;
use time::OffsetDateTime;

use super::Bans;
use crate::{
    clock::Clock,
    dataplane,
    lists::{
        maps::Maps,
        record::{BanRecord, TriedRecord},
    },
};

/// What a ban on trial is to be if the change stays.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) until: u64,
    pub(super) expires_at: Option<OffsetDateTime>,
    pub(super) repeat: u32,
    pub(super) memory: Duration,
}

impl Whole {
    /// From the journal, with the id of the change.
    pub(super) fn restored(ban: &BanRecord, clock: Clock) -> Option<(String, Self)> {
        let tried = ban.tried.as_ref()?;
        let (until, repeat) = ban.whole(tried, clock);
        let whole = Self {
            until,
            expires_at: tried.expires_at,
            repeat,
            memory: tried.memory,
        };
        Some((tried.trial.clone(), whole))
    }

    /// For the journal, of the change with this id.
    pub(super) fn record(&self, trial: &str, clock: Clock) -> TriedRecord {
        TriedRecord {
            trial: trial.to_owned(),
            expires_at: self.expires_at,
            mark: clock.mark(self.until),
            memory: self.memory,
        }
    }
}

impl Bans {
    /// Forgets what bans would be without a change on trial, but for the one with this id: the others are
    /// over, and their bans have ended with them.
    pub(in crate::lists) fn forget_tried(&mut self, but: Option<&str>) {
        let over = |_: &IpNet, (trial, _): &mut (String, Whole)| Some(trial.as_str()) != but;
        let over = self.on_trial.extract_if(.., over);
        self.unwritten.extend(over.map(|(prefix, _)| prefix));
    }

    /// Makes the bans of this trial what they would be without it.
    ///
    /// # Errors
    /// The kernel refuses: those that are left end with the trial.
    pub(in crate::lists) fn keep_tried(
        &mut self,
        trial: &str,
        maps: &dyn Maps,
        now: u64,
    ) -> Result<(), dataplane::Error> {
        self.forget_tried(Some(trial));
        while let Some((prefix, (_, whole))) = self.on_trial.pop_first() {
            self.remember(prefix, &whole);
            self.unwritten.insert(prefix);
            if self.live(prefix, now).is_none() {
                continue;
            }
            maps.ban(prefix, whole.until)?;
            if let Some(mut held) = self.drop_held(prefix) {
                held.until = whole.until;
                held.entry.expires_at = whole.expires_at;
                self.hold(held);
            }
        }
        Ok(())
    }

    /// Ends the bans of this trial now; the sweep tells of them.
    ///
    /// # Errors
    /// The kernel refuses: those that are left end with the trial.
    pub(in crate::lists) fn end_tried(
        &mut self,
        trial: &str,
        maps: &dyn Maps,
        clock: Clock,
    ) -> Result<(), dataplane::Error> {
        self.forget_tried(Some(trial));
        while let Some((prefix, _)) = self.on_trial.pop_first() {
            let now = clock.monotonic_ns();
            if self.live(prefix, now).is_none() {
                continue;
            }
            maps.ban(prefix, now)?;
            if let Some(mut held) = self.drop_held(prefix) {
                held.until = now;
                held.entry.expires_at = Some(clock.utc());
                self.hold(held);
            }
            self.unwritten.insert(prefix);
        }
        Ok(())
    }

    pub(super) fn remember(&mut self, prefix: IpNet, whole: &Whole) {
        let Whole {
            until,
            repeat,
            memory,
            ..
        } = *whole;
        let forgotten = self.offences.remember(prefix, repeat, until, memory);
        self.unwritten.extend(forgotten);
    }
}
