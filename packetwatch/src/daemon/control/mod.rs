//! The rules and the mode in force, changes of them on trial, and the bypass; the kernel's policy
//! follows from them.
//!
//! `regime` is rules and mode together, `state` which of them holds, `policy` what the kernel is told of it, `store` and `record` what is on disk,
//! `kept` what a start makes of that; `trial` and `bypass` are what ends by itself, and `restore` is what
//! changes with the lists.

mod bypass;
mod error;
mod kept;
mod policy;
mod record;
mod regime;
mod restore;
mod state;
mod store;
mod trial;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    clock::Clock,
    config::{Config, Mode},
    dataplane::Dataplane,
    lists::{Lists, Tried},
    pending::{self, Object, Pending},
    rules::{Rule, RuleSet},
};

pub use bypass::BYPASS;
pub use error::RulesError;
pub use regime::SetBy;
pub use restore::RestoreError;

use kept::{Kept, KeptTrial};
use policy::{check_lengths, policies};
use record::{mode_record, trial_record, write_rules};
use regime::{Configured, Regime, To, tell, told};
use restore::Restoring;
use state::{State, Trial, last_bypass};
use store::{ControlRecord, Fault, Store};

/// Changes of rules and mode, one at a time, and of the bypass, which waits for none of them.
pub struct RulesControl {
    dataplane: Dataplane,
    lists: Lists,
    clock: Clock,
    /// the right to change what stands; taken before the state
    store: Mutex<Store>,
    fault: Fault,
    state: Mutex<State>,
}

/// What an offence is judged by.
pub struct InForce {
    pub rules: RuleSet,
    pub generation: u32,
    /// When other rules are on trial than stand: beyond its end no ban of theirs lasts.
    pub trial: Option<Tried>,
    /// CLOCK_MONOTONIC nanoseconds: nobody is banned for what came before, during a bypass.
    pub bypassed_until: u64,
}

/// Rules and mode that stand or would.
pub struct Standing {
    pub rules: RuleSet,
    pub mode: Mode,
}

impl RulesControl {
    /// What the state directory says, else the configuration; in force in the kernel when this
    /// returns. A change whose trial ended while no daemon ran is taken back, a restore that was cut short
    /// is finished.
    ///
    /// # Errors
    /// `rules.toml` or `control.json` cannot be read or is a newer build's, or the kernel refuses the
    /// policy.
    pub fn new(
        dataplane: Dataplane,
        lists: Lists,
        config: &Config,
        clock: Clock,
    ) -> Result<Self, RulesError> {
        let mut store = Store::in_directory(&config.state_dir);
        let mut state = State::new(Configured::of(config));
        let left = dataplane.inherited_policies();
        let kept = Kept::read(&store, left.as_ref())?;
        store.lacks_rules = kept.is_rules_file_ahead;
        // What takes a trial back may be another than it says, by who has edited `rules.toml`.
        store.lacks_control = kept.control.trial.is_some() || kept.is_control_lost;
        if let Some(rules) = kept.rules {
            state.standing.rules = rules;
            state.standing.rules_by = SetBy::Api;
        }
        if let Some(mode) = kept.control.mode {
            state.standing.mode = mode;
            state.standing.mode_by = SetBy::Api;
        }
        let now = clock.monotonic_ns();
        let told = left.as_ref().filter(|_| kept.is_control_lost);
        let told = told.and_then(last_bypass).filter(|until| now < *until);
        let written = kept.control.bypass_until.map(|at| clock.deadline(at));
        if let Some(until) = written.or(told) {
            let longest = BYPASS.end().as_nanos() as u64;
            state.bypass_until = until.min(now.saturating_add(longest));
        }
        if let Some(KeptTrial { pending, to, .. }) = kept.control.trial {
            let regime = state.changed(&to);
            let pending = Pending::restored(pending, clock);
            state.trial = Some(Trial {
                pending,
                to,
                regime,
            });
        }
        let unfinished = Restoring::unfinished(&lists);
        if unfinished.is_some_and(|restore| restore.finish(&mut state, kept.is_control_lost)) {
            store.lacks_rules = true;
            store.lacks_control = true;
        }
        if let Some(left) = left {
            let drawn = RandomState::new().hash_one(()) as u32;
            state.go_on(&left, drawn);
            state.spare_since(&left, clock.monotonic_ns());
        }
        let control = Self {
            dataplane,
            lists,
            clock,
            fault: store.fault(),
            store: Mutex::new(store),
            state: Mutex::new(state),
        };
        control.settle();
        // Of a disk that refuses, `/readyz` tells.
        let _ = control.write_lacking(&mut control.store());
        control.refresh()?;
        Ok(control)
    }

    pub fn current(&self) -> (RuleSet, SetBy) {
        let regime = self.regime();
        (regime.rules, regime.rules_by)
    }

    /// Rules and mode that stand whatever becomes of a change on trial, and who has set them.
    pub fn standing(&self) -> ((RuleSet, SetBy), (Mode, SetBy)) {
        let Regime {
            rules,
            rules_by,
            mode,
            mode_by,
            ..
        } = self.state().standing.clone();
        ((rules, rules_by), (mode, mode_by))
    }

    /// What an offence that is reported now is judged by.
    pub fn in_force(&self) -> InForce {
        let now = self.clock.monotonic_ns();
        let state = self.state();
        let Regime {
            rules, generation, ..
        } = state.regime(now).clone();
        let trial = state.other_rules_on_trial(now);
        InForce {
            rules,
            generation,
            trial: trial.map(|trial| Tried::from(&trial.pending)),
            bypassed_until: state.bypassed_until(),
        }
    }

    pub fn mode(&self) -> Mode {
        self.regime().mode
    }

    /// The mode, and who has set it.
    pub fn mode_by(&self) -> (Mode, SetBy) {
        let regime = self.regime();
        (regime.mode, regime.mode_by)
    }

    /// Calls a second that get a line in the log.
    pub fn call_budget(&self) -> u32 {
        self.state().configured.call_budget
    }

    /// The change of rules or mode that waits to be confirmed.
    pub fn pending(&self) -> Option<Pending> {
        let state = self.state();
        let trial = state.live_trial(self.clock.monotonic_ns());
        trial.map(|trial| trial.pending.clone())
    }

    /// Validates, writes to disk, puts in force; with `confirm` on trial for so long. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// With all that is wrong; the rules before stay in force.
    pub fn put(
        &self,
        rules: Vec<Rule>,
        confirm: Option<Duration>,
    ) -> Result<Option<Pending>, RulesError> {
        self.change(To::Rules(RuleSet::validate(rules)?), confirm)
    }

    /// What would stand with these rules and this mode of the API; `None` for the configuration's.
    ///
    /// # Errors
    /// With all that is wrong with the rules.
    pub fn would_stand(
        &self,
        rules: Option<Vec<Rule>>,
        mode: Option<Mode>,
    ) -> Result<Standing, RulesError> {
        let rules = rules.map(RuleSet::validate).transpose()?;
        let state = self.state();
        let Configured {
            rules: configured,
            mode: otherwise,
            ..
        } = &state.configured;
        Ok(Standing {
            rules: rules.unwrap_or_else(|| configured.clone()),
            mode: mode.unwrap_or(*otherwise),
        })
    }

    /// Whether bans of these prefixes may stand beside those that do, under these rules.
    ///
    /// # Errors
    /// [`RulesError::TooManyLengths`].
    pub fn check_bans(
        &self,
        rules: &RuleSet,
        bans: impl IntoIterator<Item = IpNet>,
    ) -> Result<(), RulesError> {
        check_lengths(rules, self.dataplane.ban_lengths(), bans)
    }

    /// Back to the configuration's rules, as [`RulesControl::put`].
    ///
    /// # Errors
    /// The disk or the kernel refuses, or a change on trial is in the way.
    pub fn reset(&self, confirm: Option<Duration>) -> Result<Option<Pending>, RulesError> {
        self.change(To::ResetRules, confirm)
    }

    /// Sets the mode, or with `None` returns to the configuration's, as [`RulesControl::put`].
    ///
    /// # Errors
    /// As [`RulesControl::reset`].
    pub fn put_mode(
        &self,
        mode: Option<Mode>,
        confirm: Option<Duration>,
    ) -> Result<Option<Pending>, RulesError> {
        self.change(mode.map_or(To::ResetMode, To::Mode), confirm)
    }

    /// Why the last write of `rules.toml` or `control.json` failed, while either is not as it should be:
    /// the file and the cause. Tried again by each [`RulesControl::settle`].
    pub fn disk_fault(&self) -> Option<String> {
        self.fault.told()
    }

    /// Takes over what has ended by itself: a trial, a bypass. The kernel has ended them at their
    /// time. To be called once a second; blocks on the disk when there is something to take over, or
    /// to write that could not be written before.
    pub fn settle(&self) {
        let now = self.clock.monotonic_ns();
        let ended = self.end_trial(|pending| !pending.is_live(now));
        if let Err(RulesError::Kernel(error)) = ended {
            tracing::warn!("a change on trial is over and was not cleared away: {error}");
        }
        self.settle_bypass(now);
        if self.disk_fault().is_some() {
            let _ = self.write_lacking(&mut self.store());
        }
    }

    /// Takes over what a reloaded configuration says of rules, mode and budget. What the API has
    /// set stays.
    ///
    /// # Errors
    /// The kernel refuses the policy.
    pub fn reload(&self, config: &Config) -> Result<(), RulesError> {
        let _writer = self.store();
        self.enforced(|state| state.follow(Configured::of(config)))
    }

    /// Writes the policy anew: interfaces have come or gone, or bans of other lengths.
    ///
    /// # Errors
    /// The kernel refuses the policy.
    pub fn refresh(&self) -> Result<(), RulesError> {
        self.enforced(|_| {})
    }

    /// Puts the policy in force again if somebody else has changed it; tells whether.
    ///
    /// # Errors
    /// The kernel refuses to tell it or to take it.
    pub fn reconcile(&self) -> Result<bool, RulesError> {
        let differs = {
            let state = self.state();
            self.dataplane.policies()? != state.in_force
        };
        if differs {
            self.refresh()?;
        }
        Ok(differs)
    }

    fn change(&self, to: To, confirm: Option<Duration>) -> Result<Option<Pending>, RulesError> {
        let mut store = self.store();
        // One that is over and still on disk would take these rules for what was tried.
        let now = self.clock.monotonic_ns();
        self.end_trial_if(&mut store, |pending| !pending.is_live(now))?;
        self.write_lacking(&mut store)?;
        let tried = self.state().trial.as_ref().map(|t| t.pending.clone());
        if let Some(pending) = tried
            && (confirm.is_some() || pending.object() == to.object())
        {
            return Err(pending.in_the_way().into());
        }
        let regime = self.state().changed(&to);
        check_lengths(&regime.rules, self.dataplane.ban_lengths(), [])?;
        let object = to.object();
        let pending = confirm.map(|within| Pending::new(object, within, self.clock));
        let made = pending.clone();
        let told = told(object, &self.state().standing, &regime);
        let written = match &pending {
            None if object == Object::Rules => write_rules(&mut store, &to),
            None => store.put_control(&ControlRecord {
                mode: mode_record(&regime),
                ..self.record()
            }),
            Some(pending) => {
                let trial = trial_record(pending, &to, &self.state().standing);
                store.put_control(&ControlRecord {
                    trial: Some(trial),
                    ..self.record()
                })
            }
        };
        let put = written.and_then(|()| {
            self.enforced(|state| match pending {
                None => state.take(&to, regime),
                Some(pending) => {
                    state.trial = Some(Trial {
                        pending,
                        to,
                        regime,
                    });
                }
            })
        });
        if let Err(error) = put {
            self.write_again(&mut store, object);
            return Err(error);
        }
        if let Some(made) = &made {
            pending::event::made(made, &told);
        }
        Ok(made)
    }

    /// Makes a change and puts what follows in force in the kernel: one store, or nothing has
    /// changed.
    fn enforced(&self, change: impl FnOnce(&mut State)) -> Result<(), RulesError> {
        let mut state = self.state();
        let mut next = state.clone();
        change(&mut next);
        let pair = policies(&next, &self.dataplane);
        self.dataplane.set_policies(&pair)?;
        next.in_force = Some(pair);
        let now = self.clock.monotonic_ns();
        let before = std::mem::replace(&mut *state, next);
        if before.in_force.is_some() {
            tell(before.regime(now), state.regime(now));
        }
        drop(state);
        self.tell_units();
        Ok(())
    }

    /// Tells the lists by which units the rules count, those that follow a trial too. Not under the
    /// state, which the rule loop asks: the lists may have a million prefixes to look through.
    fn tell_units(&self) {
        loop {
            let lengths = self.state().unit_lengths();
            // Of two changes at once the later one is told last.
            if self.lists.counts_by(&lengths) {
                return;
            }
            if let Err(error) = self.lists.count_by(&lengths) {
                tracing::warn!(
                    "neighbours of allowed addresses are counted by the units of the rules before, until the \
                     kernel takes the lists again: {error}"
                );
                return;
            }
        }
    }

    fn regime(&self) -> Regime {
        self.state().regime(self.clock.monotonic_ns()).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
