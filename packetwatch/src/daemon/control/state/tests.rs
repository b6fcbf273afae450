use std::time::Duration;

use super::*;
use crate::{
    clock::Clock,
    config::Mode,
    daemon::control::regime::tell,
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
    for (observe_until, spared) in [(0, 0), (ms(200), ms(210)), (ms(500), ms(400)), (FOREVER, 0)] {
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
