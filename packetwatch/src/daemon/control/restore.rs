//! A backup's lists, rules and mode, all of which come to stand or none.
//!
//! They are in two places: the journal has the lists, two files have rules and mode. So the transaction
//! that replaces the lists says what the files are to hold, and says it until they do.

use serde::{Deserialize, Serialize};

use super::{
    RulesControl, RulesError,
    record::mode_of,
    state::{Regime, State, To},
    store::Rules,
};
use crate::{
    config::{Mode, Word as _},
    lists::{Lists, Restored, Saved, WriteError},
    log::EVENT,
    rules::{Rule, RuleSet},
};

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Nothing has changed.
    #[error(transparent)]
    Lists(#[from] WriteError),
    /// Neither has anything.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The kernel has the lists, and not the rules.
    #[error("the lists are the backup's, rules and mode are those before: {0}")]
    Halfway(#[source] RulesError),
}

/// Rules and mode as the journal keeps them; `None` for the configuration's.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StandingRecord {
    rules: Option<Rules>,
    mode: Option<String>,
}

/// The changes that make rules and mode what a backup has.
#[derive(Debug, PartialEq)]
pub(super) struct Restoring {
    rules: To,
    mode: To,
}

impl RulesControl {
    /// Makes the lists, bans, rules and mode of a backup those that stand; `None` for the configuration's.
    /// On disk when this returns, and in force. Blocks on the disk.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore(
        &self,
        saved: Saved,
        rules: Option<Vec<Rule>>,
        mode: Option<Mode>,
    ) -> Result<Restored, RestoreError> {
        let rules = rules.map(RuleSet::validate).transpose();
        let restoring = Restoring {
            rules: rules
                .map_err(RulesError::from)?
                .map_or(To::ResetRules, To::Rules),
            mode: mode.map_or(To::ResetMode, To::Mode),
        };
        let mut store = self.store();
        let now = self.clock.monotonic_ns();
        self.end_trial_if(&mut store, |pending| !pending.is_live(now))?;
        self.write_lacking(&mut store)?;
        let tried = self.state().trial.as_ref().map(|t| t.pending.clone());
        if let Some(pending) = tried {
            return Err(RulesError::from(pending.in_the_way()).into());
        }
        let record = serde_json::to_value(restoring.record());
        let record = record.expect("a record is of strings and lists");
        let restored = self.lists.restore(saved, record)?;
        if let Err(error) = self.enforced(|state| restoring.stand(state)) {
            // What stands is what the files say. Tried again until the journal takes it.
            let _ = self.lists.finished();
            return Err(RestoreError::Halfway(error));
        }
        store.lacks_rules = true;
        store.lacks_control = true;
        // The journal has them. A failure is told, and tried again every second.
        let _ = self.write_lacking(&mut store);
        Ok(restored)
    }
}

impl Restoring {
    /// What a restore that was cut short was to change. One that this build cannot read is told, and what the
    /// files say stands.
    pub(super) fn unfinished(lists: &Lists) -> Option<Self> {
        let besides = lists.unfinished()?;
        let read = serde_json::from_value::<StandingRecord>(besides).map_err(|e| e.to_string());
        let restoring = read.and_then(Self::try_from);
        let told = restoring.inspect_err(|cause| {
            tracing::error!(
                error.message = cause.as_str(),
                "a restore was cut short when its lists were in force; its rules and its mode cannot be read, \
                 and those before stand: restore the backup again"
            );
        });
        told.ok()
    }

    pub(super) fn stand(&self, state: &mut State) {
        let Regime { mode, mode_by, .. } = state.changed(&self.mode);
        state.standing = Regime {
            mode,
            mode_by,
            ..state.changed(&self.rules)
        };
    }

    /// The same, for a restore that another process has begun.
    pub(super) fn finish(&self, state: &mut State) {
        self.stand(state);
        let Regime { rules, mode, .. } = &state.standing;
        tracing::warn!(
            target: EVENT,
            {
                event.action = "restore-finished",
                packetwatch.rules = rules.len() as u64,
                packetwatch.mode = mode.word(),
            },
            "a restore was cut short when its lists were in force: its rules ({}) and its mode ({}) are now",
            rules.len(),
            mode.word()
        );
    }

    fn record(&self) -> StandingRecord {
        StandingRecord {
            rules: match &self.rules {
                To::Rules(rules) => Some(rules.into()),
                _ => None,
            },
            mode: match &self.mode {
                To::Mode(mode) => Some(mode.word().to_owned()),
                _ => None,
            },
        }
    }
}

impl TryFrom<StandingRecord> for Restoring {
    type Error = String;

    fn try_from(StandingRecord { rules, mode }: StandingRecord) -> Result<Self, String> {
        let rules = rules.map(|rules| rules.checked()).transpose()?;
        let mode = mode.as_deref().map(mode_of).transpose()?;
        Ok(Self {
            rules: rules.map_or(To::ResetRules, To::Rules),
            mode: mode.map_or(To::ResetMode, To::Mode),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_it_was_written() {
        let rules = [To::Rules(RuleSet::default()), To::ResetRules];
        let modes = [To::Mode(Mode::Observe), To::ResetMode];
        for (rules, mode) in rules.into_iter().zip(modes) {
            let restoring = Restoring { rules, mode };
            let json = serde_json::to_string(&restoring.record()).unwrap();
            let read: StandingRecord = serde_json::from_str(&json).unwrap();
            assert_eq!(Restoring::try_from(read), Ok(restoring));
        }
        let strange = StandingRecord {
            rules: None,
            mode: Some("asleep".to_owned()),
        };
        let refused = Restoring::try_from(strange).unwrap_err();
        assert!(refused.contains("asleep"), "{refused}");
    }
}
