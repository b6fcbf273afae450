//! A set of rules within its bounds.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    ops::RangeInclusive,
    time::Duration,
};

use packetwatch_abi::Limit;
use serde::Serialize;
use thiserror::Error;

use super::{Action, BanLength, Rule, Trigger, duration};
use crate::prefix::Family;

/// The kernel program walks the rules of a source in a loop of this many turns.
pub const MAX_RULES: usize = 8;
/// Each different unit of a family is one more look-up and one more counted entry a packet.
pub const MAX_UNITS: usize = 2;

const NAME_LENGTH: RangeInclusive<usize> = 1..=32;
/// The number of different ports is exact up to 64; beyond it there is nothing to compare with.
const DISTINCT_PORTS: RangeInclusive<u64> = 1..=64;
/// What the program's counters and window buckets hold.
const CONNECTIONS: RangeInclusive<u64> = 1..=(1 << 31) - 1;
const PACKETS_OR_BYTES: RangeInclusive<u64> = 1..=(1 << 39) - 1;
const WITHIN: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// Ten years of 365.25 days, as `10y` reads.
const BAN: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(315_576_000);
const ESCALATE: RangeInclusive<f64> = 1.0..=100.0;
const PREFIX_V4: RangeInclusive<u8> = 8..=32;
const PREFIX_V6: RangeInclusive<u8> = 16..=128;

/// One thing wrong with one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// Place of the rule in its set, from 0.
    pub index: usize,
    /// The rule's name as given, perhaps empty.
    pub name: String,
    /// The key that is wrong; `rules` when it is the set.
    pub field: &'static str,
    /// What is wrong and the remedy.
    pub message: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            name,
            field,
            message,
        } = self;
        write!(f, "rule {} {name:?}: {field}: {message}", index + 1)
    }
}

/// Everything wrong with a set of rules; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct RuleErrors(pub Vec<RuleError>);

/// At most [`MAX_RULES`] rules, each within its bounds, with unique names.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct RuleSet(Vec<Rule>);

impl Default for RuleSet {
    /// What stands when nothing is configured.
    ///
    /// `port-scan`: ten ports in a minute. A person opens ssh, http and https and perhaps a mail
    /// program's three; a scanner that stays below ten a minute needs five days for all ports.
    ///
    /// `heavy-caller`: 3000 calls in a minute, fifty a second without a pause. A browser opens at
    /// most six connections to a host and keeps them. Five hundred people behind one address, who
    /// each open those six anew every minute, only just reach it, and HTTP/2 needs one where that
    /// counts six. Crawlers keep their connections and ask a few times a second. Password guessers,
    /// HTTP floods and SYN floods from one source make hundreds to thousands a second.
    fn default() -> Self {
        Self(vec![
            Rule::new("port-scan", Trigger::DistinctPorts(10)),
            Rule::new("heavy-caller", Trigger::Connections(3000)),
        ])
    }
}

impl RuleSet {
    /// Checks rules together.
    ///
    /// # Errors
    /// Every violation, in the order of the rules. Of a set of more than [`MAX_RULES`] the first
    /// that many are judged, so that an answer stays short.
    pub fn validate(rules: Vec<Rule>) -> Result<Self, RuleErrors> {
        let mut errors = Vec::new();
        let mut names = HashSet::new();
        let mut units = [(Family::V4, BTreeSet::new()), (Family::V6, BTreeSet::new())];
        for (index, rule) in rules.iter().enumerate().take(MAX_RULES) {
            let mut fail = |field, message| {
                let name = rule.name.clone();
                errors.push(RuleError {
                    index,
                    name,
                    field,
                    message,
                });
            };
            check_fields(rule, &mut fail);
            if !names.insert(rule.name.as_str()) {
                fail(
                    "name",
                    "an earlier rule has this name: choose another".to_owned(),
                );
            }
            for (family, used) in &mut units {
                let (field, length, bounds) = unit_of(rule, *family);
                if bounds.contains(&length) && !used.contains(&length) && used.len() == MAX_UNITS {
                    fail(field, too_many_units(*family, length, used));
                } else if bounds.contains(&length) {
                    used.insert(length);
                }
            }
        }
        if let Some(rule) = rules.get(MAX_RULES) {
            errors.push(RuleError {
                index: MAX_RULES,
                name: rule.name.clone(),
                field: "rules",
                message: format!(
                    "{} rules are more than {MAX_RULES}: remove some",
                    rules.len()
                ),
            });
        }
        if errors.is_empty() {
            Ok(Self(rules))
        } else {
            Err(RuleErrors(errors))
        }
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The different unit lengths of a family, shortest first, at most [`MAX_UNITS`].
    ///
    /// Without rules sources are still counted and shown, by the default unit.
    pub fn units(&self, family: Family) -> Vec<u8> {
        let lengths: BTreeSet<u8> = self.iter().map(|rule| unit_of(rule, family).1).collect();
        match (lengths.is_empty(), family) {
            (true, Family::V4) => vec![Rule::PREFIX_V4],
            (true, Family::V6) => vec![Rule::PREFIX_V6],
            (false, _) => lengths.into_iter().collect(),
        }
    }

    /// How long a quiet source still matters; the default window without rules.
    pub fn longest_within(&self) -> Duration {
        self.iter()
            .map(|rule| rule.within)
            .max()
            .unwrap_or(Rule::WITHIN)
    }
}

impl<'a> IntoIterator for &'a RuleSet {
    type Item = &'a Rule;
    type IntoIter = std::slice::Iter<'a, Rule>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Whether a rule may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    NAME_LENGTH.contains(&name.len()) && name.bytes().all(allowed)
}

fn check_fields(rule: &Rule, fail: &mut impl FnMut(&'static str, String)) {
    let Rule {
        name,
        trigger,
        action,
        burst,
        within,
        ban,
        escalate,
        max_ban,
        prefix_v4: _,
        prefix_v6: _,
    } = rule;
    if !is_name(name) {
        fail("name", "write 1 to 32 of a-z, 0-9 and -".to_owned());
    }
    if let Err(message) = check_trigger(*trigger) {
        fail(trigger.field(), message);
    }
    if *action == Action::Limit
        && let Err(message) = check_burst(*trigger, *burst)
    {
        fail("burst", message);
    }
    if !WITHIN.contains(within) {
        let given = duration::format(*within);
        fail(
            "within",
            format!("{given} is outside 1s to 24h: choose a window between"),
        );
    }
    for (field, length) in [("ban", ban), ("max_ban", max_ban)] {
        if matches!(length, BanLength::For(time) if !BAN.contains(time)) {
            fail(
                field,
                format!("{length} is outside 1s to 10y: choose between, or \"forever\""),
            );
        }
    }
    if max_ban < ban {
        fail(
            "max_ban",
            format!("{max_ban} is shorter than the ban of {ban}: raise it or shorten ban"),
        );
    }
    // NaN is in no range.
    if !ESCALATE.contains(escalate) {
        fail(
            "escalate",
            format!("{escalate} is outside 1 to 100: 1 keeps every ban the same"),
        );
    }
    for family in [Family::V4, Family::V6] {
        let (field, length, bounds) = unit_of(rule, family);
        if !bounds.contains(&length) {
            let (least, most) = bounds.into_inner();
            fail(
                field,
                format!("{length} is outside {least} to {most}: choose a length between"),
            );
        }
    }
}

fn check_trigger(trigger: Trigger) -> Result<(), String> {
    let n = trigger.count();
    let bounds = match trigger {
        Trigger::DistinctPorts(65..) => {
            return Err(format!(
                "{n} is more than 64, beyond which ports are not told apart: use connections"
            ));
        }
        Trigger::DistinctPorts(_) => DISTINCT_PORTS,
        Trigger::Connections(_) => CONNECTIONS,
        Trigger::Packets(_) | Trigger::Bytes(_) => PACKETS_OR_BYTES,
    };
    let (least, most) = (bounds.start(), bounds.end());
    match bounds.contains(&n) {
        true => Ok(()),
        false => Err(format!(
            "{n} is outside {least} to {most}: choose a number between"
        )),
    }
}

/// The kernel's clock moves in ticks of up to 10 ms, so that less than a tick's worth would cut what
/// conforms; and what is saved up in a pause has an end.
fn check_burst(trigger: Trigger, burst: u64) -> Result<(), String> {
    let n = trigger.count();
    let least = match trigger {
        Trigger::Bytes(_) => n.div_ceil(100).max(Rule::GREATEST_PACKET),
        _ => n.div_ceil(100),
    };
    let most = n.saturating_mul(Limit::MAX_BURST).max(least);
    match (least..=most).contains(&burst) {
        true => Ok(()),
        false => Err(format!(
            "{burst} is outside {least} to {most}: choose between a hundredth of a second's worth, \
             of bytes at least the greatest packet, and an hour's"
        )),
    }
}

fn unit_of(rule: &Rule, family: Family) -> (&'static str, u8, RangeInclusive<u8>) {
    match family {
        Family::V4 => ("prefix_v4", rule.prefix_v4, PREFIX_V4),
        Family::V6 => ("prefix_v6", rule.prefix_v6, PREFIX_V6),
    }
}

fn too_many_units(family: Family, length: u8, used: &BTreeSet<u8>) -> String {
    let used: Vec<String> = used.iter().map(ToString::to_string).collect();
    let used = used.join(" and ");
    format!("{length} is one {family} unit more than {MAX_UNITS}: use {used}, as the rules before")
}
