//! Bans of rules on trial, which last no longer than the trial unless the rules stay.

use std::time::Duration;

use ipnet::IpNet;
use time::OffsetDateTime;

use super::Bans;
use crate::{clock::Clock, dataplane, lists::maps::Maps};

/// What a ban of rules on trial is to be if they stay.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) until: u64,
    pub(super) expires_at: Option<OffsetDateTime>,
    pub(super) repeat: u32,
    pub(super) memory: Duration,
}

impl Bans {
    /// Makes the bans of a trial what they would be without it.
    ///
    /// # Errors
    /// The kernel refuses: those that are left end with the trial.
    pub(in crate::lists) fn keep_tried(
        &mut self,
        maps: &dyn Maps,
        now: u64,
    ) -> Result<(), dataplane::Error> {
        while let Some((prefix, whole)) = self.on_trial.pop_first() {
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

    /// Ends the bans of a trial now; the sweep tells of them.
    ///
    /// # Errors
    /// The kernel refuses: those that are left end with the trial.
    pub(in crate::lists) fn end_tried(
        &mut self,
        maps: &dyn Maps,
        clock: Clock,
    ) -> Result<(), dataplane::Error> {
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
