//! A backup's lists, rules and mode, all of which come to stand or none.
//!
//! They are in two places: the journal has the lists, two files have rules and mode. So the transaction
//! that replaces the lists says what the files are to hold, and says it until they do.

use serde::{Deserialize, Serialize};

use super::{
    RulesControl, RulesError,
    record::mode_of,
    regime::{Regime, SetBy, To},
    state::State,
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
    /// Nothing has changed, either.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The kernel has the lists, and not the rules.
    #[error("the lists are the backup's, rules and mode are those before: {0}")]
    Halfway(#[source] RulesError),
}

/// Changes that make rules and mode what they are to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Regulation {
    rules: To,
    mode: To,
}

/// The same in the journal; `None` for the configuration's.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegulationRecord {
    rules: Option<Rules>,
    mode: Option<String>,
}

/// What the journal keeps of a restore besides the lists.
#[derive(Debug, PartialEq)]
pub(super) struct Restoring {
    /// what stood
    before: Regulation,
    to: Regulation,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoringRecord {
    before: RegulationRecord,
    to: RegulationRecord,
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
        let to = Regulation::new(rules.map_err(RulesError::from)?, mode);
        let mut store = self.store();
        let now = self.clock.monotonic_ns();
        self.end_trial_if(&mut store, |pending| !pending.is_live(now))?;
        self.write_lacking(&mut store)?;
        let tried = self.state().trial.as_ref().map(|t| t.pending.clone());
        if let Some(pending) = tried {
            return Err(RulesError::from(pending.in_the_way()).into());
        }
        let before = Regulation::of(&self.state().standing);
        let record = RestoringRecord {
            before: before.record(),
            to: to.record(),
        };
        let record = serde_json::to_value(record).expect("a record is of strings and lists");
        let restored = self.lists.restore(saved, record)?;
        if let Err(error) = self.enforced(|state| to.stand(state)) {
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
        let read = serde_json::from_value::<RestoringRecord>(besides).map_err(|e| e.to_string());
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

    /// Whether the files say what they said before, or what they are to say, or one of them this and the
    /// other that. Else somebody has changed them since, of a restore that the disk refused, and yet has.
    fn is_due(&self, standing: &Regulation) -> bool {
        let Self { before, to } = self;
        let rules = [&before.rules, &to.rules].contains(&&standing.rules);
        rules && [&before.mode, &to.mode].contains(&&standing.mode)
    }

    /// Has it stand in this state, which is what the files say; tells whether it was due. With
    /// `is_untold` nobody knows what they said of the mode.
    pub(super) fn finish(&self, state: &mut State, is_untold: bool) -> bool {
        // None is made while anything is on trial, so one that is was begun after it.
        let is_due = state.trial.is_none() && self.is_due(&Regulation::of(&state.standing));
        if !is_untold && !is_due {
            tracing::warn!(
                "a restore was cut short that was never acknowledged: rules and mode have been changed since, \
                 and stand"
            );
            return false;
        }
        self.to.stand(state);
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
        true
    }
}

impl Regulation {
    fn new(rules: Option<RuleSet>, mode: Option<Mode>) -> Self {
        Self {
            rules: rules.map_or(To::ResetRules, To::Rules),
            mode: mode.map_or(To::ResetMode, To::Mode),
        }
    }

    fn of(standing: &Regime) -> Self {
        let Regime { rules, mode, .. } = standing;
        let of_api = |by: &SetBy| *by == SetBy::Api;
        Self::new(
            of_api(&standing.rules_by).then(|| rules.clone()),
            of_api(&standing.mode_by).then_some(*mode),
        )
    }

    fn stand(&self, state: &mut State) {
        let Regime { mode, mode_by, .. } = state.changed(&self.mode);
        state.standing = Regime {
            mode,
            mode_by,
            ..state.changed(&self.rules)
        };
    }

    fn record(&self) -> RegulationRecord {
        RegulationRecord {
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

impl TryFrom<RestoringRecord> for Restoring {
    type Error = String;

    fn try_from(RestoringRecord { before, to }: RestoringRecord) -> Result<Self, String> {
        Ok(Self {
            before: before.try_into()?,
            to: to.try_into()?,
        })
    }
}

impl TryFrom<RegulationRecord> for Regulation {
    type Error = String;

    fn try_from(RegulationRecord { rules, mode }: RegulationRecord) -> Result<Self, String> {
        let rules = rules.map(|rules| rules.checked()).transpose()?;
        let mode = mode.as_deref().map(mode_of).transpose()?;
        Ok(Self::new(rules, mode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regulations() -> [Regulation; 4] {
        let rules = [Some(RuleSet::default()), None];
        let modes = [Some(Mode::Observe), None];
        let [[a, b], [c, d]] = rules.map(|rules| modes.map(|mode| (rules.clone(), mode)));
        [a, b, c, d].map(|(rules, mode)| Regulation::new(rules, mode))
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        for (before, to) in regulations()
            .into_iter()
            .zip(regulations().into_iter().rev())
        {
            let record = RestoringRecord {
                before: before.record(),
                to: to.record(),
            };
            let json = serde_json::to_string(&record).unwrap();
            let read: RestoringRecord = serde_json::from_str(&json).unwrap();
            assert_eq!(Restoring::try_from(read), Ok(Restoring { before, to }));
        }
        let strange = RegulationRecord {
            rules: None,
            mode: Some("asleep".to_owned()),
        };
        let refused = Regulation::try_from(strange).unwrap_err();
        assert!(refused.contains("asleep"), "{refused}");
    }

    #[test]
    fn what_was_changed_since_is_not_changed_by_a_restore_that_was_refused() {
        let [api, rules, mode, configured] = regulations();
        let restoring = |before: &Regulation, to: &Regulation| Restoring {
            before: before.clone(),
            to: to.clone(),
        };
        let all = restoring(&configured, &api);
        for standing in [&api, &rules, &mode, &configured] {
            assert!(
                all.is_due(standing),
                "{standing:?}: a file or both are written"
            );
        }
        let of_rules = restoring(&configured, &rules);
        assert!(of_rules.is_due(&rules) && of_rules.is_due(&configured));
        assert!(!of_rules.is_due(&mode) && !of_rules.is_due(&api));
        let of_mode = restoring(&configured, &mode);
        assert!(!of_mode.is_due(&rules) && !of_mode.is_due(&api));
    }
}
