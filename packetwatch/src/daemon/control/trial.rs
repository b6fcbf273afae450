//! How a change on trial ends: kept, or taken back.

use super::{
    RulesControl, RulesError,
    record::{mode_record, write_rules},
    regime::{tell, told},
    state::{State, Trial},
    store::{ControlRecord, Store},
};
use crate::pending::{self, Pending};

impl RulesControl {
    /// Keeps the change on trial.
    ///
    /// # Errors
    /// The disk or the kernel refuses: it stays on trial, whatever is on the disk.
    pub fn confirm(&self) -> Result<(), RulesError> {
        let mut store = self.store();
        let trial = self.state().live_trial(self.clock.monotonic_ns()).cloned();
        let Some(Trial {
            pending,
            to,
            regime,
        }) = trial
        else {
            return Ok(());
        };
        // The word that they are on trial has to be there.
        self.write_lacking(&mut store)?;
        let record = ControlRecord {
            trial: None,
            mode: mode_record(&regime),
            ..self.record()
        };
        let told = told(to.object(), &self.state().standing, &regime);
        // The rules first: with that word still there they do not count, and a crash in between
        // changes nothing.
        let kept = write_rules(&mut store, &to)
            .and_then(|()| store.put_control(&record))
            .and_then(|()| {
                self.enforced(|state| {
                    state.trial = None;
                    state.standing = regime;
                })
            });
        match &kept {
            Ok(()) => pending::event::confirmed(&pending, &told),
            Err(_) => self.write_again(&mut store, to.object()),
        }
        kept
    }

    /// Takes the change on trial back now.
    ///
    /// # Errors
    /// The kernel refuses: nothing has changed. The disk does ([`RulesError::Unwritten`]): it is taken
    /// back, and on disk as soon as that can be written.
    pub fn roll_back(&self) -> Result<(), RulesError> {
        let ended = self.end_trial(|_| true);
        ended.map_err(|error| error.after("the change is taken back"))
    }

    /// Ends the trial if it is due, in the kernel and then on disk, where it is over by its time
    /// whether or not that can be written.
    pub(super) fn end_trial(&self, is_due: impl Fn(&Pending) -> bool) -> Result<(), RulesError> {
        if due(&self.state(), &is_due).is_none() {
            return Ok(());
        }
        self.end_trial_if(&mut self.store(), is_due)
    }

    /// The same, for who has the right to change what stands.
    pub(super) fn end_trial_if(
        &self,
        store: &mut Store,
        is_due: impl Fn(&Pending) -> bool,
    ) -> Result<(), RulesError> {
        let Some(trial) = due(&self.state(), is_due) else {
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
        self.write_control(store)
    }
}

fn due(state: &State, is_due: impl Fn(&Pending) -> bool) -> Option<Trial> {
    let trial = state.trial.as_ref()?;
    is_due(&trial.pending).then(|| trial.clone())
}
