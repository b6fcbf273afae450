//! Every packet passes for a while, whatever stands.

use std::{ops::RangeInclusive, time::Duration};

use time::format_description::well_known::Rfc3339;

use super::{RulesControl, RulesError, policy::observe_until};
use crate::{clock::Clock, log::EVENT};

/// How long a bypass may be asked for.
pub const BYPASS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

impl RulesControl {
    /// CLOCK_MONOTONIC nanoseconds until which nothing is dropped, unless observe mode says so.
    pub fn bypass_until(&self) -> Option<u64> {
        let until = self.state().bypass_until;
        (self.clock.monotonic_ns() < until).then_some(until)
    }

    /// Passes every packet for so long, which lies in [`BYPASS`]; or with `None` no longer. In the
    /// kernel first, and without waiting for other changes, then on disk. Returns the end on
    /// CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// The kernel refuses: nothing has changed. The disk does ([`RulesError::Unwritten`]): it is done,
    /// and a restart of the daemon would undo it until it can be written.
    pub fn bypass(&self, length: Option<Duration>) -> Result<u64, RulesError> {
        let now = self.clock.monotonic_ns();
        let until = length.map_or(0, |length| now + length.as_nanos() as u64);
        let was = {
            let mut state = self.state();
            let mut next = state.clone();
            next.set_bypass(until, now);
            // What is in force, with another word: no walk over bans, no other state.
            if let Some(mut pair) = state.in_force {
                let trial = state.trial.as_ref().map_or(&state.standing, |t| &t.regime);
                let until = next.passes_until();
                pair[0].observe_until = observe_until(trial.mode, until);
                pair[1].observe_until = observe_until(state.standing.mode, until);
                self.dataplane.set_policies(&pair)?;
                next.in_force = Some(pair);
            }
            let was = std::mem::replace(&mut *state, next).bypass_until;
            (now < was).then_some(was)
        };
        if length.is_some() {
            tell_bypass(self.clock, was, until);
        } else if let Some(was) = was {
            tell_bypass_ended(self.clock, was, "asked for");
        }
        let written = self.write_control(&mut self.store());
        let done = match length {
            Some(_) => "every packet passes",
            None => "the bypass has ended",
        };
        written.map_err(|error| error.after(done))?;
        Ok(until)
    }

    /// Takes over that the bypass has ended by itself.
    pub(super) fn settle_bypass(&self, now: u64) {
        let ended = {
            let mut state = self.state();
            let until = state.bypass_until;
            let ended = until != 0 && until <= now;
            if ended {
                state.set_bypass(0, until);
            }
            ended.then_some(until)
        };
        if let Some(until) = ended {
            tell_bypass_ended(self.clock, until, "its time is over");
            // A failure is told, and tried again every second.
            let _ = self.write_control(&mut self.store());
        }
    }
}

/// What is told where there is none.
const NO_BYPASS: &str = "no bypass";

fn tell_bypass(clock: Clock, was: Option<u64>, until: u64) {
    let was = was.map(|was| format!("until {}", rfc3339(clock, was)));
    let until = rfc3339(clock, until);
    tracing::warn!(
        target: EVENT,
        {
            event.action = "bypass-began",
            packetwatch.expires_at = until.as_str(),
            packetwatch.before = was.as_deref().unwrap_or(NO_BYPASS),
            packetwatch.after = format!("until {until}"),
        },
        "every packet passes until {until}, whatever lists, bans and rules say"
    );
}

fn tell_bypass_ended(clock: Clock, was: u64, cause: &'static str) {
    tracing::warn!(
        target: EVENT,
        {
            event.action = "bypass-ended",
            event.reason = cause,
            packetwatch.before = format!("until {}", rfc3339(clock, was)),
            packetwatch.after = NO_BYPASS,
        },
        "lists, bans and rules count again: {cause}"
    );
}

fn rfc3339(clock: Clock, at: u64) -> String {
    let at = clock.utc_of(at).and_then(|at| at.format(&Rfc3339).ok());
    at.unwrap_or_default()
}
