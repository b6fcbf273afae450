//! The rules and the mode in force, changes of them on trial, and the bypass; the kernel's policy
//! follows from them.
//!
//! `state` is what holds, `policy` what the kernel is told of it, `store` what is on disk.

mod error;
mod policy;
mod state;
mod store;

use std::{
    hash::{BuildHasher as _, RandomState},
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::format_description::well_known::Rfc3339;

use crate::{
    clock::Clock,
    config::{Config, Mode, Word as _},
    dataplane::Dataplane,
    log::EVENT,
    pending::{self, Object, Pending},
    rules::{Rule, RuleSet},
};

pub use error::RulesError;
pub use state::SetBy;

use policy::{lengths, observe_until, policies};
use state::{Configured, Regime, State, To, Trial, tell};
use store::{ChangeRecord, ControlRecord, Store, TrialRecord};

/// How long a bypass may be asked for.
pub const BYPASS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Changes of rules and mode, one at a time, and of the bypass, which waits for none of them.
pub struct RulesControl {
    dataplane: Dataplane,
    clock: Clock,
    /// the right to change what stands; taken before the state
    store: Mutex<Store>,
    state: Mutex<State>,
}

/// What an offence is judged by.
pub struct InForce {
    pub rules: RuleSet,
    pub generation: u32,
    /// When the rules are on trial: CLOCK_MONOTONIC nanoseconds of its end, beyond which no ban of
    /// theirs lasts.
    pub trial_until: Option<u64>,
    /// CLOCK_MONOTONIC nanoseconds: nobody is banned for what came before, during a bypass.
    pub bypassed_until: u64,
}

impl RulesControl {
    /// What the state directory says, else the configuration; in force in the kernel when this
    /// returns. A change whose trial ended while no daemon ran is taken back.
    ///
    /// # Errors
    /// `rules.toml` or `control.json` cannot be read, or the kernel refuses the policy.
    pub fn new(dataplane: Dataplane, config: &Config, clock: Clock) -> Result<Self, RulesError> {
        let store = Store::in_directory(&config.state_dir);
        let mut state = State::new(Configured::of(config));
        if let Some(rules) = store.rules()? {
            state.standing.rules = rules;
            state.standing.rules_by = SetBy::Api;
        }
        let record = store.control()?;
        if let Some(mode) = &record.mode {
            state.standing.mode = mode_of(mode).map_err(|cause| store.unusable(cause))?;
            state.standing.mode_by = SetBy::Api;
        }
        if let Some(until) = record.bypass_until {
            let longest = BYPASS.end().as_nanos() as u64;
            let latest = clock.monotonic_ns().saturating_add(longest);
            state.bypass_until = clock.deadline(until).min(latest);
        }
        if let Some(TrialRecord { pending, to }) = record.trial {
            let to = change_of(to).map_err(|cause| store.unusable(cause))?;
            let regime = state.changed(&to);
            let pending = Pending::restored(pending, clock);
            state.trial = Some(Trial {
                pending,
                to,
                regime,
            });
        }
        if let Some(left) = dataplane.inherited_policies() {
            let drawn = RandomState::new().hash_one(()) as u32;
            state.go_on(&left, drawn);
            state.spare_since(&left, clock.monotonic_ns());
        }
        let control = Self {
            dataplane,
            clock,
            store: Mutex::new(store),
            state: Mutex::new(state),
        };
        control.settle();
        control.refresh()?;
        Ok(control)
    }

    pub fn current(&self) -> (RuleSet, SetBy) {
        let regime = self.regime();
        (regime.rules, regime.rules_by)
    }

    /// What an offence that is reported now is judged by.
    pub fn in_force(&self) -> InForce {
        let now = self.clock.monotonic_ns();
        let state = self.state();
        let Regime {
            rules, generation, ..
        } = state.regime(now).clone();
        let trial = state.live_trial(now);
        let trial = trial.filter(|trial| trial.to.object() == Object::Rules);
        InForce {
            rules,
            generation,
            trial_until: trial.map(|trial| trial.pending.deadline),
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

    /// CLOCK_MONOTONIC nanoseconds until which nothing is dropped, unless observe mode says so.
    pub fn bypass_until(&self) -> Option<u64> {
        let until = self.state().bypass_until;
        (self.clock.monotonic_ns() < until).then_some(until)
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

    /// Passes every packet for so long, which lies in [`BYPASS`]; or with `None` no longer. In the
    /// kernel first, and without waiting for other changes, then on disk. Returns the end on
    /// CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// The kernel refuses: nothing has changed. The disk does: the bypass holds, and a restart of
    /// the daemon would end it.
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
                let until = next.bypassed_until();
                pair[0].observe_until = observe_until(trial.mode, until);
                pair[1].observe_until = observe_until(state.standing.mode, until);
                self.dataplane.set_policies(&pair)?;
                next.in_force = Some(pair);
            }
            now < std::mem::replace(&mut *state, next).bypass_until
        };
        if length.is_some() {
            tell_bypass(self.clock, until);
        } else if was {
            tell_bypass_ended("asked for");
        }
        let store = self.store();
        self.write_control(&store)?;
        Ok(until)
    }

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
        self.enforced(|state| {
            state.trial = None;
            state.standing = regime;
        })?;
        pending::event::confirmed(&pending);
        Ok(())
    }

    /// Takes the change on trial back now.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn roll_back(&self) -> Result<(), RulesError> {
        self.end_trial(|_| true)
    }

    /// Takes over what has ended by itself: a trial, a bypass. The kernel has ended them at their
    /// time. To be called once a second; blocks on the disk when there is something to take over.
    pub fn settle(&self) {
        let now = self.clock.monotonic_ns();
        if let Err(error) = self.end_trial(|pending| !pending.is_live(now)) {
            tracing::warn!("a change on trial is over and was not cleared away: {error}");
        }
        let ended = {
            let mut state = self.state();
            let until = state.bypass_until;
            let ended = until != 0 && until <= now;
            if ended {
                state.set_bypass(0, until);
            }
            ended
        };
        if ended {
            tell_bypass_ended("its time is over");
            if let Err(error) = self.write_control(&self.store()) {
                tracing::warn!("a bypass is over and was not cleared away: {error}");
            }
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
        let store = self.store();
        if let Some(pending) = self.pending()
            && (confirm.is_some() || pending.object() == to.object())
        {
            return Err(pending.in_the_way().into());
        }
        let regime = self.state().changed(&to);
        lengths(&regime.rules, &self.dataplane)?;
        let Some(within) = confirm else {
            match to.object() {
                Object::Rules => write_rules(&store, &to)?,
                _ => store.put_control(&ControlRecord {
                    mode: mode_record(&regime),
                    ..self.record()
                })?,
            }
            self.enforced(|state| state.take(&to, regime))?;
            return Ok(None);
        };
        let pending = Pending::new(to.object(), within, self.clock);
        let trial = TrialRecord {
            pending: pending.record.clone(),
            to: record_of(&to),
        };
        store.put_control(&ControlRecord {
            trial: Some(trial),
            ..self.record()
        })?;
        let made = pending.clone();
        let put = self.enforced(|state| {
            state.trial = Some(Trial {
                pending,
                to,
                regime,
            });
        });
        if put.is_err() {
            self.write_control(&store)?;
        }
        put?;
        pending::event::made(&made);
        Ok(Some(made))
    }

    /// Ends the trial if it is due, in the kernel and then on disk, where it is over by its time
    /// whether or not that can be written.
    fn end_trial(&self, is_due: impl Fn(&Pending) -> bool) -> Result<(), RulesError> {
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
        pending::event::rolled_back(&trial.pending, asked);
        self.write_control(&store)
    }

    /// Makes a change and puts what follows in force in the kernel: one store, or nothing has
    /// changed.
    fn enforced(&self, change: impl FnOnce(&mut State)) -> Result<(), RulesError> {
        let mut state = self.state();
        let mut next = state.clone();
        change(&mut next);
        let pair = policies(&next, &self.dataplane)?;
        self.dataplane.set_policies(&pair)?;
        next.in_force = Some(pair);
        let now = self.clock.monotonic_ns();
        let before = std::mem::replace(&mut *state, next);
        if before.in_force.is_some() {
            tell(before.regime(now), state.regime(now));
        }
        Ok(())
    }

    /// What `control.json` is to hold as things stand.
    fn record(&self) -> ControlRecord {
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

    fn write_control(&self, store: &Store) -> Result<(), RulesError> {
        store.put_control(&self.record())
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

fn write_rules(store: &Store, to: &To) -> Result<(), RulesError> {
    match to {
        To::Rules(rules) => store.put_rules(Some(rules)),
        To::ResetRules => store.put_rules(None),
        To::Mode(_) | To::ResetMode => Ok(()),
    }
}

fn mode_record(regime: &Regime) -> Option<String> {
    (regime.mode_by == SetBy::Api).then(|| regime.mode.word().to_owned())
}

fn record_of(to: &To) -> ChangeRecord {
    match to {
        To::Rules(rules) => ChangeRecord::Rules(rules.into()),
        To::ResetRules => ChangeRecord::ResetRules,
        To::Mode(mode) => ChangeRecord::Mode(mode.word().to_owned()),
        To::ResetMode => ChangeRecord::ResetMode,
    }
}

fn change_of(record: ChangeRecord) -> Result<To, String> {
    Ok(match record {
        ChangeRecord::Rules(rules) => To::Rules(rules.checked()?),
        ChangeRecord::ResetRules => To::ResetRules,
        ChangeRecord::Mode(mode) => To::Mode(mode_of(&mode)?),
        ChangeRecord::ResetMode => To::ResetMode,
    })
}

fn mode_of(word: &str) -> Result<Mode, String> {
    let known = Mode::WORDS.iter().find(|(known, _)| *known == word);
    known
        .map(|(_, mode)| *mode)
        .ok_or_else(|| format!("{word:?} is no mode: enforce and observe are"))
}

fn tell_bypass(clock: Clock, until: u64) {
    let until = clock.utc_of(until).and_then(|at| at.format(&Rfc3339).ok());
    let until = until.unwrap_or_default();
    tracing::warn!(
        target: EVENT,
        { event.action = "bypass-began", packetwatch.expires_at = until.as_str() },
        "every packet passes until {until}, whatever lists, bans and rules say"
    );
}

fn tell_bypass_ended(cause: &'static str) {
    tracing::warn!(
        target: EVENT,
        { event.action = "bypass-ended", event.reason = cause },
        "lists, bans and rules count again: {cause}"
    );
}
