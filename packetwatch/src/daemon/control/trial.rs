//! How a change on trial ends: kept, or taken back.

use super::{
    RulesControl, RulesError,
    record::{mode_record, write_rules},
    state::{State, Trial, tell, told},
    store::ControlRecord,
};
use crate::pending::{self, Pending};

impl RulesControl {
    /// Keeps the change on trial.
    ///
    /// # Errors
    /// The disk refuses: it stays on trial.
    pub fn confirm(&self) -> Result<(), RulesError> {
        let store = self.store();
        let trial = self.state().live_trial(self.clock.monotonic_ns()).cloned();
        let Some(Trial {
            pending,
            to,
            regime,
        }) = trial
        else {
            return Ok(());
        };
        // The rules first: with the word that they are on trial still there, a crash in between
        // leaves a trial that ends in what is tried.
        write_rules(&store, &to)?;
        let record = ControlRecord {
            trial: None,
            mode: mode_record(&regime),
            ..self.record()
        };
        store.put_control(&record)?;
        let told = told(to.object(), &self.state().standing, &regime);
        self.enforced(|state| {
            state.trial = None;
            state.standing = regime;
        })?;
        pending::event::confirmed(&pending, &told);
        Ok(())
    }

    /// Takes the change on trial back now.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn roll_back(&self) -> Result<(), RulesError> {
        self.end_trial(|_| true)
    }

    /// Ends the trial if it is due, in the kernel and then on disk, where it is over by its time
    /// whether or not that can be written.
    pub(super) fn end_trial(&self, is_due: impl Fn(&Pending) -> bool) -> Result<(), RulesError> {
        let is_due = |state: &State| {
            let trial = state.trial.as_ref()?;
            is_due(&trial.pending).then(|| trial.clone())
        };
        if is_due(&self.state()).is_none() {
            return Ok(());
        }
        let store = self.store();
        let Some(trial) = is_due(&self.state()) else {
            return Ok(());
        };
        let asked = trial.pending.is_live(self.clock.monotonic_ns());
        if self.state().in_force.is_some() {
            self.enforced(|state| state.trial = None)?;
            if !asked {
                // The kernel had gone back already.
                let state = self.state();
                tell(&trial.regime, &state.standing);
            }
        } else {
            self.state().trial = None;
        }
        let told = told(trial.to.object(), &self.state().standing, &trial.regime);
        pending::event::rolled_back(&trial.pending, asked, &told);
        self.write_control(&store)
    }
}
