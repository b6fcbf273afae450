//! What stands and what is on trial, as it is kept on disk.

use super::{
    RulesControl, RulesError,
    regime::{Regime, SetBy, To},
    store::{ChangeRecord, ControlRecord, Store, TrialRecord},
};
use crate::{
    config::{Mode, Word as _},
    pending::{Object, Pending},
};

impl RulesControl {
    /// What `control.json` is to hold as things stand.
    pub(super) fn record(&self) -> ControlRecord {
        let state = self.state();
        let trial = state.trial.as_ref();
        let trial = trial.map(|trial| trial_record(&trial.pending, &trial.to, &state.standing));
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

    /// Writes what the files lack, as things stand, and then has the journal forget what they were to hold.
    /// The rules first: as long as `control.json` has their trial, those that were tried do not count.
    ///
    /// # Errors
    /// Of the disk; what is lacking still is written by the next call, a second later at most.
    pub(super) fn write_lacking(&self, store: &mut Store) -> Result<(), RulesError> {
        if store.lacks_rules {
            write_rules(store, &standing(&self.state().standing))?;
        }
        if store.lacks_control {
            store.put_control(&self.record())?;
        }
        // From here on the files count.
        let written = match self.lists.is_restore_unfinished() {
            true => self.lists.finished().map_err(RulesError::from),
            false => Ok(()),
        };
        store.tell(&written);
        written
    }

    /// Writes `control.json`, and before it what else is lacking.
    ///
    /// # Errors
    /// As [`RulesControl::write_lacking`].
    pub(super) fn write_control(&self, store: &mut Store) -> Result<(), RulesError> {
        store.lacks_control = true;
        self.write_lacking(store)
    }

    /// Has the disk say again what stands, after a change of this object that was refused on its way.
    pub(super) fn write_again(&self, store: &mut Store, object: Object) {
        store.lacks_control = true;
        store.lacks_rules |= object == Object::Rules;
        // Told, and tried again every second.
        let _ = self.write_lacking(store);
    }
}

pub(super) fn trial_record(pending: &Pending, to: &To, before: &Regime) -> TrialRecord {
    let is_of_rules = to.object() == Object::Rules;
    TrialRecord {
        pending: pending.record.clone(),
        to: record_of(to),
        back: is_of_rules.then(|| record_of(&standing(before))),
    }
}

/// The change of rules that makes them what stands.
fn standing(regime: &Regime) -> To {
    match regime.rules_by {
        SetBy::Api => To::Rules(regime.rules.clone()),
        SetBy::Configuration(_) => To::ResetRules,
    }
}

pub(super) fn write_rules(store: &mut Store, to: &To) -> Result<(), RulesError> {
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
