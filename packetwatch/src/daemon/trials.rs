//! The one change on trial, whoever holds it: the rules and the mode, or a list.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::control::{RulesControl, RulesError};
use crate::{
    lists::{Lists, WriteError},
    pending::{InTheWay, Object, Pending},
};

/// How often what has ended in the kernel is taken over here.
const EVERY: Duration = Duration::from_secs(1);

/// Why a change on trial was neither confirmed nor taken back.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("no change waits to be confirmed: it was taken back at its time, or was confirmed")]
    None,
    #[error("{asked:?} does not wait to be confirmed: {id} does, a change of {object}")]
    Other {
        asked: String,
        id: String,
        object: Object,
    },
    #[error(transparent)]
    Rules(#[from] RulesError),
    #[error(transparent)]
    Lists(#[from] WriteError),
}

/// Begins, confirms and ends changes on trial; there is one at a time.
#[derive(Clone)]
pub struct Trials {
    rules: Arc<RulesControl>,
    lists: Lists,
    /// the right to begin or end one
    turn: Arc<Mutex<()>>,
}

impl Trials {
    pub fn new(rules: Arc<RulesControl>, lists: Lists) -> Self {
        let turn = Arc::default();
        Self { rules, lists, turn }
    }

    /// The change that waits to be confirmed.
    pub fn pending(&self) -> Option<Pending> {
        self.rules.pending().or_else(|| self.lists.pending())
    }

    /// The right to make a change, for as long as it takes: with `confirm` none may be on trial.
    ///
    /// # Errors
    /// The change that is in the way.
    pub fn begin(&self, confirm: Option<Duration>) -> Result<Option<MutexGuard<'_, ()>>, InTheWay> {
        if confirm.is_none() {
            return Ok(None);
        }
        let turn = self.turn();
        match self.pending() {
            Some(pending) => Err(pending.in_the_way()),
            None => Ok(Some(turn)),
        }
    }

    /// Keeps the change on trial, which has this id. Blocks on the disk.
    ///
    /// # Errors
    /// [`TrialError`]; it stays on trial.
    pub fn confirm(&self, id: &str) -> Result<Pending, TrialError> {
        let _turn = self.turn();
        let pending = self.named(id)?;
        match pending.object() {
            Object::Rules => {
                self.rules.confirm()?;
                self.lists.keep_bans(id)?;
            }
            Object::Mode => self.rules.confirm()?,
            Object::Deny => self.lists.confirm()?,
            Object::Allow => {
                self.lists.confirm()?;
                self.lists.keep_bans(id)?;
            }
        }
        Ok(pending)
    }

    /// Takes the change on trial back, which has this id.
    ///
    /// # Errors
    /// [`TrialError`]; its own end takes it back, if it is not taken back already.
    pub fn roll_back(&self, id: &str) -> Result<Pending, TrialError> {
        let _turn = self.turn();
        let pending = self.named(id)?;
        match pending.object() {
            Object::Rules => {
                let rolled_back = self.rules.roll_back();
                // Whatever became of the disk, the rules are those before.
                if !matches!(rolled_back, Err(RulesError::Kernel(_))) {
                    self.lists.end_bans(id)?;
                }
                rolled_back?;
            }
            Object::Mode => self.rules.roll_back()?,
            Object::Deny => self.lists.roll_back()?,
            Object::Allow => {
                let written = self.lists.roll_back();
                // Whom the entry covers is passed again; the rules that banned stay.
                self.lists.keep_bans(id)?;
                written?;
            }
        }
        Ok(pending)
    }

    /// Takes over what has ended, until `shutdown`.
    ///
    /// # Errors
    /// It panicked.
    pub(super) async fn run(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let trials = self.clone();
            let settled = spawn_blocking(move || trials.settle());
            settled.await.map_err(std::io::Error::other)?;
        }
    }

    fn settle(&self) {
        self.rules.settle();
        self.lists.settle();
        // A confirmation that is under way has bans to keep.
        let _turn = self.turn();
        let pending = self.pending();
        let live = pending.as_ref().map(|pending| pending.record.id.as_str());
        self.lists.forget_tried(live);
    }

    fn named(&self, id: &str) -> Result<Pending, TrialError> {
        let pending = self.pending().ok_or(TrialError::None)?;
        if pending.record.id == id {
            return Ok(pending);
        }
        Err(TrialError::Other {
            asked: id.chars().take(32).collect(),
            object: pending.object(),
            id: pending.record.id,
        })
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
