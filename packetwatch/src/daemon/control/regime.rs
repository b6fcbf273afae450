//! Rules and mode, who has said what they are, and how a change of them is told.

use std::fmt;

use crate::{
    config::{Config, Mode, Word as _},
    log::EVENT,
    pending::{Object, Told},
    rules::{RuleSet, RuleText},
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
    pub(super) fn is_configuration(&self) -> bool {
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
