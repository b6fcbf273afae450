//! What stands and what is on trial, as it is kept on disk.

use super::{
    RulesControl, RulesError,
    state::{Regime, SetBy, To},
    store::{ChangeRecord, ControlRecord, Store, TrialRecord},
};
use crate::config::{Mode, Word as _};

impl RulesControl {
    /// What `control.json` is to hold as things stand.
    pub(super) fn record(&self) -> ControlRecord {
        let state = self.state();
        let trial = state.trial.as_ref().map(|trial| TrialRecord {
            pending: trial.pending.record.clone(),
            to: record_of(&trial.to),
        });
        let bypass_until = match state.bypass_until {
            0 => None,
            until => self.clock.utc_of(until),
        };
        ControlRecord {
            mode: mode_record(&state.standing),
            bypass_until,
            trial,
            ..ControlRecord::default()
        }
    }
}

pub(super) fn write_rules(store: &Store, to: &To) -> Result<(), RulesError> {
    match to {
        To::Rules(rules) => store.put_rules(Some(rules)),
        To::ResetRules => store.put_rules(None),
        To::Mode(_) | To::ResetMode => Ok(()),
    }
}

pub(super) fn mode_record(regime: &Regime) -> Option<String> {
    (regime.mode_by == SetBy::Api).then(|| regime.mode.word().to_owned())
}

pub(super) fn record_of(to: &To) -> ChangeRecord {
    match to {
        To::Rules(rules) => ChangeRecord::Rules(rules.into()),
        To::ResetRules => ChangeRecord::ResetRules,
        To::Mode(mode) => ChangeRecord::Mode(mode.word().to_owned()),
        To::ResetMode => ChangeRecord::ResetMode,
    }
}

pub(super) fn change_of(record: ChangeRecord) -> Result<To, String> {
    Ok(match record {
        ChangeRecord::Rules(rules) => To::Rules(rules.checked()?),
        ChangeRecord::ResetRules => To::ResetRules,
        ChangeRecord::Mode(mode) => To::Mode(mode_of(&mode)?),
        ChangeRecord::ResetMode => To::ResetMode,
    })
}

pub(super) fn mode_of(word: &str) -> Result<Mode, String> {
    let known = Mode::WORDS.iter().find(|(known, _)| *known == word);
    known
        .map(|(_, mode)| *mode)
        .ok_or_else(|| format!("{word:?} is no mode: enforce and observe are"))
}
