//! What is in force of rules and mode, what is on trial, and how long nothing is dropped.

use std::fmt;

use packetwatch_abi::{FOREVER, Policy};

use crate::{
    config::{Config, Mode, Word as _},
    lists::UnitLengths,
    log::EVENT,
    pending::{Object, Pending, Told},
    rules::{
        RuleSet, RuleText,
        policy::{Compiled, compile},
    },
};

/// Who has said what the rules or the mode are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetBy {
    /// the configuration: a default, a file, a variable, a flag
    Configuration(String),
    /// the API, kept in the state directory
    Api,
}

impl SetBy {
    fn is_configuration(&self) -> bool {
        matches!(self, Self::Configuration(_))
    }
}

impl fmt::Display for SetBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(origin) => f.write_str(origin),
            Self::Api => f.write_str("api"),
        }
    }
}

/// Rules and mode that are in force together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Regime {
    pub(super) rules: RuleSet,
    pub(super) rules_by: SetBy,
    /// Windows kept under another one are void.
    pub(super) generation: u32,
    pub(super) mode: Mode,
    pub(super) mode_by: SetBy,
}

/// What the configuration says.
#[derive(Clone, Debug)]
pub(super) struct Configured {
    pub(super) rules: RuleSet,
    pub(super) rules_by: SetBy,
    pub(super) mode: Mode,
    pub(super) mode_by: SetBy,
    pub(super) call_budget: u32,
}

impl Configured {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            rules: config.rules.clone(),
            rules_by: SetBy::Configuration(config.rules_from()),
            mode: config.mode,
            mode_by: SetBy::Configuration(config.mode_from()),
            call_budget: config.log.connections_per_second,
        }
    }
}

/// A change of rules or mode.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum To {
    Rules(RuleSet),
    ResetRules,
    Mode(Mode),
    ResetMode,
}

impl To {
    pub(super) fn object(&self) -> Object {
        match self {
            Self::Rules(_) | Self::ResetRules => Object::Rules,
            Self::Mode(_) | Self::ResetMode => Object::Mode,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) pending: Pending,
    pub(super) to: To,
    pub(super) regime: Regime,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) configured: Configured,
    /// what stands, or stands again when the trial is over
    pub(super) standing: Regime,
    pub(super) trial: Option<Trial>,
    /// CLOCK_MONOTONIC nanoseconds; 0 without a bypass
    pub(super) bypass_until: u64,
    /// when the bypass before this one ended
    spared_until: u64,
    /// the last generation that was given
    generations: u32,
    /// what the kernel was told last
    pub(super) in_force: Option<[Policy; 2]>,
}

impl State {
    /// Of the rules that stand, and of those on trial.
    pub(super) fn unit_lengths(&self) -> UnitLengths {
        let tried = self.trial.iter().map(|trial| &trial.regime.rules);
        UnitLengths::of([&self.standing.rules].into_iter().chain(tried))
    }

    pub(super) fn new(configured: Configured) -> Self {
        let standing = Regime {
            rules: configured.rules.clone(),
            rules_by: configured.rules_by.clone(),
            generation: 1,
            mode: configured.mode,
            mode_by: configured.mode_by.clone(),
        };
        Self {
            configured,
            standing,
            trial: None,
            bypass_until: 0,
            spared_until: 0,
            generations: 1,
            in_force: None,
        }
    }

    /// Goes on with the windows that an earlier process has left, where its rules were the same:
    /// those were counted under the generations of these policies, which it had in force. Other rules
    /// have generations from `next` on. It is drawn: callers may bear any that an earlier process has
    /// given, of rules that were on trial, say, and what was counted under those must not count for ours.
    pub(super) fn go_on(&mut self, left: &[Policy; 2], next: u32) {
        self.generations = next;
        let trial = self.trial.as_mut().map(|trial| &mut trial.regime);
        let mut known = left
            .map(|policy| (Compiled::of(&policy), policy.generation))
            .to_vec();
        for regime in [&mut self.standing].into_iter().chain(trial) {
            let rules = compile(&regime.rules);
            let same = known.iter().find(|(left, _)| *left == rules);
            regime.generation = match same {
                Some((_, generation)) => *generation,
                None => {
                    self.generations = self.generations.wrapping_add(1);
                    known.push((rules, self.generations));
                    self.generations
                }
            };
        }
    }

    /// Begins a bypass, or with 0 ends the one that there is, at this time.
    pub(super) fn set_bypass(&mut self, until: u64, now: u64) {
        if self.bypass_until != 0 {
            self.spared_until = now.min(self.bypass_until);
        }
        self.bypass_until = until;
    }

    /// Until when nothing is or was dropped by the last bypass.
    pub(super) fn bypassed_until(&self) -> u64 {
        self.bypass_until.max(self.spared_until)
    }

    /// The same for the program, whose clock goes in ticks and so is behind: what has ended is over
    /// for it at once.
    pub(super) fn passes_until(&self) -> u64 {
        let ended = self.spared_until.saturating_sub(COARSEST_TICK);
        self.bypass_until.max(ended)
    }

    /// Takes over when the last bypass of an earlier process ended.
    pub(super) fn spare_since(&mut self, left: &[Policy; 2], now: u64) {
        let ended = last_bypass(left);
        self.spared_until = ended.map_or(0, |until| (until + COARSEST_TICK).min(now));
    }

    /// What the kernel judges by at this time.
    pub(super) fn regime(&self, now: u64) -> &Regime {
        match self.live_trial(now) {
            Some(trial) => &trial.regime,
            None => &self.standing,
        }
    }

    pub(super) fn live_trial(&self, now: u64) -> Option<&Trial> {
        let trial = self.trial.as_ref();
        trial.filter(|trial| trial.pending.is_live(now))
    }

    /// The rules on trial, where they are others than stand without it: what follows from those that do
    /// does not end with the trial.
    pub(super) fn other_rules_on_trial(&self, now: u64) -> Option<&Trial> {
        let trial = self.live_trial(now);
        trial.filter(|trial| trial.regime.rules != self.standing.rules)
    }

    /// What this change makes of what stands.
    pub(super) fn changed(&mut self, to: &To) -> Regime {
        let mut regime = self.standing.clone();
        let Configured {
            rules,
            rules_by,
            mode,
            mode_by,
            ..
        } = &self.configured;
        match to {
            To::Rules(rules) => (regime.rules, regime.rules_by) = (rules.clone(), SetBy::Api),
            To::ResetRules => {
                (regime.rules, regime.rules_by) = (rules.clone(), rules_by.clone());
            }
            To::Mode(mode) => (regime.mode, regime.mode_by) = (*mode, SetBy::Api),
            To::ResetMode => (regime.mode, regime.mode_by) = (*mode, mode_by.clone()),
        }
        regime.generation = self.generation_of(&regime.rules);
        regime
    }

    /// The generation that these rules have or are to have: with what the program makes of them as it was,
    /// its windows and limits count on, and who sends them again forgives nobody.
    fn generation_of(&mut self, rules: &RuleSet) -> u32 {
        let compiled = compile(rules);
        let trial = self.trial.as_ref().map(|trial| &trial.regime);
        let same = [&self.standing]
            .into_iter()
            .chain(trial)
            .find(|regime| compile(&regime.rules) == compiled);
        if let Some(regime) = same {
            return regime.generation;
        }
        self.generations = self.generations.wrapping_add(1);
        self.generations
    }

    /// Puts a change in force for good, beside a trial of the other object.
    pub(super) fn take(&mut self, to: &To, regime: Regime) {
        let trial = self.trial.as_mut().map(|trial| &mut trial.regime);
        if let Some(tried) = trial {
            match to.object() {
                Object::Mode => {
                    tried.mode = regime.mode;
                    tried.mode_by = regime.mode_by.clone();
                }
                _ => {
                    tried.rules = regime.rules.clone();
                    tried.rules_by = regime.rules_by.clone();
                    tried.generation = regime.generation;
                }
            }
        }
        self.standing = regime;
    }

    /// Takes over another configuration: what is the configuration's follows it, also what is to
    /// stand again after a trial; what the API has said stays.
    pub(super) fn follow(&mut self, configured: Configured) {
        let generation = self.generation_of(&configured.rules);
        let trial = self.trial.as_mut().map(|trial| &mut trial.regime);
        for regime in [&mut self.standing].into_iter().chain(trial) {
            if regime.rules_by.is_configuration() {
                regime.generation = generation;
                regime.rules = configured.rules.clone();
                regime.rules_by = configured.rules_by.clone();
            }
            if regime.mode_by.is_configuration() {
                regime.mode = configured.mode;
                regime.mode_by = configured.mode_by.clone();
            }
        }
        self.configured = configured;
    }
}

/// Says what of a regime differs from the one before.
pub(super) fn tell(before: &Regime, after: &Regime) {
    if before.mode != after.mode {
        let mode = after.mode.word();
        tracing::warn!(
            target: EVENT,
            {
                event.action = "mode-changed",
                packetwatch.mode = mode,
                packetwatch.before = before.mode.word(),
                packetwatch.after = mode,
            },
            "mode changed to {mode}"
        );
    }
    if before.rules != after.rules {
        let message = format!("{} rules in force", after.rules.len());
        tell_rules(
            after,
            written(&before.rules),
            written(&after.rules),
            &message,
        );
    } else if before.rules_by != after.rules_by {
        let (before, now) = (before.rules_by.to_string(), after.rules_by.to_string());
        let message = format!("the rules in force are as before, set by {now}");
        tell_rules(after, before, now, &message);
    }
}

fn tell_rules(regime: &Regime, before: String, after: String, message: &str) {
    tracing::info!(
        target: EVENT,
        {
            event.action = "rules-changed",
            packetwatch.rules = regime.rules.len() as u64,
            packetwatch.rules_from = %regime.rules_by,
            packetwatch.before = before,
            packetwatch.after = after,
        },
        "{message}"
    );
}

/// When the last bypass ends or ended, by these policies. Observe mode does not tell.
pub(super) fn last_bypass(left: &[Policy; 2]) -> Option<u64> {
    let ends = left.iter().map(|policy| policy.observe_until);
    ends.filter(|until| ![0, FOREVER].contains(until)).max()
}

/// For the log: what of a regime a change of this object is about.
pub(super) fn told(object: Object, before: &Regime, after: &Regime) -> Told {
    let of = |regime: &Regime| match object {
        Object::Rules => written(&regime.rules),
        _ => regime.mode.word().to_owned(),
    };
    Told {
        before: of(before),
        after: of(after),
    }
}

/// For the log: 8 rules take half of what a value may.
fn written(rules: &RuleSet) -> String {
    let texts: Vec<RuleText> = rules.iter().cloned().map(RuleText::from).collect();
    serde_json::to_string(&texts).unwrap_or_default()
}

/// Nanoseconds that the program's clock may be behind: a timer tick.
const COARSEST_TICK: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        clock::Clock,
        log::tests::events_of,
        rules::{Rule, Trigger},
    };

    // Calls of the configuration's rule, of one on trial, and of the configuration's when it was edited.
    const FILE: u64 = 5;
    const TRIED: u64 = 6;
    const EDITED: u64 = 7;

    fn rules(calls: u64) -> RuleSet {
        named("calls", calls)
    }

    fn named(name: &str, calls: u64) -> RuleSet {
        RuleSet::validate(vec![Rule::new(name, Trigger::Connections(calls))]).unwrap()
    }

    fn configured(rules: RuleSet, mode: Mode) -> Configured {
        Configured {
            rules,
            rules_by: SetBy::Configuration("built-in".to_owned()),
            mode,
            mode_by: SetBy::Configuration("built-in".to_owned()),
            call_budget: 0,
        }
    }

    fn on_trial(state: &mut State, to: To) -> u64 {
        let pending = Pending::new(to.object(), Duration::from_secs(60), Clock::new());
        let (deadline, regime) = (pending.deadline, state.changed(&to));
        state.trial = Some(Trial {
            pending,
            to,
            regime,
        });
        deadline
    }

    #[test]
    fn a_trial_counts_to_its_end_and_then_what_stood() {
        let mut state = State::new(configured(rules(FILE), Mode::Enforce));
        let end = on_trial(&mut state, To::Rules(rules(TRIED)));
        assert_eq!(state.regime(end - 1).rules, rules(TRIED));
        assert_eq!(state.regime(end).rules, rules(FILE));
        let generations = [end - 1, end].map(|now| state.regime(now).generation);
        assert_eq!(generations, [2, 1], "each set has its own windows");
    }

    #[test]
    fn a_bypass_that_is_over_is_known_until_the_next_and_to_the_next_process() {
        let standing = || State::new(configured(rules(FILE), Mode::Enforce));
        let mut state = standing();
        let ms = |ms: u64| ms * 1_000_000;
        state.set_bypass(ms(100), ms(10));
        assert_eq!(state.bypassed_until(), ms(100));
        // Ended by request, and by itself.
        state.set_bypass(0, ms(50));
        assert_eq!((state.bypass_until, state.bypassed_until()), (0, ms(50)));
        assert_eq!(state.passes_until(), ms(40));
        state.set_bypass(ms(200), ms(60));
        state.set_bypass(0, ms(300));
        assert_eq!((state.bypass_until, state.bypassed_until()), (0, ms(200)));
        let left = |observe_until| {
            let policy = left(&rules(FILE), 1);
            [Policy {
                observe_until,
                ..policy
            }; 2]
        };
        for (observe_until, spared) in
            [(0, 0), (ms(200), ms(210)), (ms(500), ms(400)), (FOREVER, 0)]
        {
            let mut next = standing();
            next.spare_since(&left(observe_until), ms(400));
            assert_eq!(next.bypassed_until(), spared, "{observe_until}");
            assert_eq!(next.bypass_until, 0, "it is over");
        }
    }

    #[test]
    fn a_trial_of_the_mode_keeps_the_windows() {
        let mut state = State::new(configured(rules(FILE), Mode::Enforce));
        let end = on_trial(&mut state, To::Mode(Mode::Observe));
        let regime = state.regime(end - 1);
        assert_eq!((regime.mode, regime.generation), (Mode::Observe, 1));
        assert_eq!(state.regime(end).mode, Mode::Enforce);
    }

    #[test]
    fn another_configuration_is_what_a_trial_returns_to() {
        let mut state = State::new(configured(rules(FILE), Mode::Enforce));
        let end = on_trial(&mut state, To::Rules(rules(TRIED)));
        state.follow(configured(rules(EDITED), Mode::Observe));
        let tried = state.regime(end - 1);
        assert_eq!((&tried.rules, tried.mode), (&rules(TRIED), Mode::Observe));
        assert_eq!(state.regime(end).rules, rules(EDITED));
        assert_eq!(state.regime(end).generation, 3);
    }

    #[test]
    fn the_same_rules_keep_their_windows_whoever_sends_them() {
        let mut state = State::new(configured(rules(FILE), Mode::Enforce));
        for to in [To::Rules(rules(FILE)), To::ResetRules] {
            assert_eq!(state.changed(&to).generation, 1, "{to:?}");
        }
        // What a ban is called, and how long it is, the program does not know.
        let renamed = named("renamed", FILE);
        assert_eq!(state.changed(&To::Rules(renamed.clone())).generation, 1);
        state.standing = state.changed(&To::Rules(rules(TRIED)));
        assert_eq!(state.standing.generation, 2);
        assert_eq!(state.changed(&To::Rules(rules(TRIED))).generation, 2);
        assert_eq!(state.changed(&To::ResetRules).generation, 3);
        // A trial of them, its end, and its confirmation.
        let end = on_trial(&mut state, To::Rules(rules(TRIED)));
        let generations = [end - 1, end].map(|now| state.regime(now).generation);
        assert_eq!(generations, [2, 2]);
        assert!(
            state.other_rules_on_trial(end - 1).is_none(),
            "what they ban does not end with the trial"
        );
        let end = on_trial(&mut state, To::Rules(renamed));
        assert!(state.other_rules_on_trial(end - 1).is_some());
        assert!(state.other_rules_on_trial(end).is_none());
        // The configuration comes to say what the trial does.
        state.follow(configured(named("renamed", FILE), Mode::Enforce));
        let tried = state.regime(end - 1).generation;
        assert_eq!(state.changed(&To::ResetRules).generation, tried);
    }

    #[test]
    fn rules_that_have_not_changed_are_not_told_to_have() {
        let mut state = State::new(configured(rules(FILE), Mode::Enforce));
        let before = state.standing.clone();
        let told = |before: &Regime, after: &Regime| {
            let lines = events_of(|| tell(before, after));
            let key = |line: &serde_json::Value, key: &str| line[key].as_str().map(str::to_owned);
            lines
                .iter()
                .map(|line| {
                    assert_eq!(line["event.action"], "rules-changed");
                    ["rules_from", "before", "after"]
                        .map(|of| key(line, &format!("packetwatch.{of}")).unwrap())
                })
                .collect::<Vec<_>>()
        };
        let same = state.changed(&To::ResetRules);
        assert!(told(&before, &same).is_empty());
        let of_api = state.changed(&To::Rules(rules(FILE)));
        assert_eq!(
            told(&before, &of_api),
            [["api", "built-in", "api"].map(str::to_owned)]
        );
        assert!(told(&of_api, &of_api).is_empty());
        // As far as the program goes it is the same.
        let renamed = state.changed(&To::Rules(named("renamed", FILE)));
        let [line] = &told(&of_api, &renamed)[..] else {
            panic!("one line");
        };
        assert!(
            line[1].contains("calls") && line[2].contains("renamed"),
            "{line:?}"
        );
    }

    /// As the kernel would have it.
    fn left(rules: &RuleSet, generation: u32) -> Policy {
        Policy {
            generation,
            ..compile(rules).into()
        }
    }

    #[test]
    fn windows_go_on_under_the_same_rules_alone() {
        let mut state = State::new(configured(rules(5), Mode::Enforce));
        state.go_on(&[left(&rules(5), 7); 2], 50);
        assert_eq!(state.regime(0).generation, 7);
        // Others were on trial: they are told from those that stand, and from what comes next.
        let end = on_trial(&mut state, To::Rules(rules(6)));
        state.go_on(&[left(&rules(6), 9), left(&rules(5), 7)], 50);
        let generations = [end - 1, end].map(|now| state.regime(now).generation);
        assert_eq!(generations, [9, 7]);
        assert_eq!(state.changed(&To::Rules(rules(8))).generation, 51);
        // Rules that were changed while no daemon ran have windows of their own, and one trial of
        // the mode has those of what stands.
        let mut state = State::new(configured(rules(5), Mode::Enforce));
        let end = on_trial(&mut state, To::Mode(Mode::Observe));
        state.go_on(&[left(&rules(6), 9), left(&rules(4), 7)], 50);
        let generations = [end - 1, end].map(|now| state.regime(now).generation);
        assert_eq!(generations, [51, 51]);
    }

    #[test]
    fn what_the_api_has_said_stays() {
        let mut state = State::new(configured(rules(FILE), Mode::Enforce));
        state.standing = state.changed(&To::Mode(Mode::Observe));
        state.follow(configured(rules(FILE), Mode::Enforce));
        let regime = state.regime(0);
        assert_eq!((regime.mode, &regime.mode_by), (Mode::Observe, &SetBy::Api));
        assert_eq!(regime.generation, 1, "the same rules keep their windows");
        let reset = state.changed(&To::ResetMode);
        assert_eq!(reset.mode, Mode::Enforce);
    }
}
