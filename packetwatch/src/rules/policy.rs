//! Rules in the form that the XDP program reads.

use packetwatch_abi as abi;

use super::{Action, RuleSet, Trigger};
use crate::prefix::Family;

/// The parts of the kernel's policy that follow from the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    pub call_rules: u32,
    pub volume_rules: u32,
    pub limit_rules: u32,
    pub units: [[u32; abi::MAX_UNITS]; 2],
    pub unit_rules: [[u32; abi::MAX_UNITS]; 2],
    pub rules: [abi::Rule; abi::MAX_RULES],
}

impl Compiled {
    /// Of a policy that is or was in force.
    pub fn of(policy: &abi::Policy) -> Self {
        let abi::Policy {
            call_rules,
            volume_rules,
            limit_rules,
            units,
            unit_rules,
            rules,
            ..
        } = *policy;
        Self {
            call_rules,
            volume_rules,
            limit_rules,
            units,
            unit_rules,
            rules,
        }
    }
}

impl From<Compiled> for abi::Policy {
    /// The idle policy with these rules.
    fn from(compiled: Compiled) -> Self {
        let Compiled {
            call_rules,
            volume_rules,
            limit_rules,
            units,
            unit_rules,
            rules,
        } = compiled;
        Self {
            call_rules,
            volume_rules,
            limit_rules,
            units,
            unit_rules,
            rules,
            ..Self::idle()
        }
    }
}

/// `rules` are within their bounds, so there is a place for each.
pub fn compile(rules: &RuleSet) -> Compiled {
    let idle = abi::Policy::idle();
    let mut compiled = Compiled {
        call_rules: 0,
        volume_rules: 0,
        limit_rules: 0,
        units: idle.units,
        unit_rules: idle.unit_rules,
        rules: idle.rules,
    };
    for (row, family) in [Family::V4, Family::V6].into_iter().enumerate() {
        for (class, len) in rules.units(family).into_iter().enumerate() {
            compiled.units[row][class] = len.into();
        }
    }
    for (index, rule) in rules.iter().enumerate() {
        let bit = 1 << index;
        let (trigger, looks_at) = match rule.trigger {
            Trigger::DistinctPorts(_) => (abi::Trigger::DistinctPorts, &mut compiled.call_rules),
            Trigger::Connections(_) => (abi::Trigger::Connections, &mut compiled.call_rules),
            Trigger::Packets(_) => (abi::Trigger::Packets, &mut compiled.volume_rules),
            Trigger::Bytes(_) => (abi::Trigger::Bytes, &mut compiled.volume_rules),
        };
        *looks_at |= bit;
        compiled.rules[index] = match rule.action {
            Action::Ban => {
                let within = u64::try_from(rule.within.as_nanos()).unwrap_or(u64::MAX);
                abi::Rule {
                    trigger: trigger as u32,
                    _pad: 0,
                    limit: rule.trigger.count(),
                    within,
                    bucket: within / abi::BUCKETS as u64,
                }
            }
            Action::Limit => {
                compiled.limit_rules |= bit;
                let limit = abi::Limit::new(rule.trigger.count(), rule.burst);
                abi::Rule {
                    trigger: trigger as u32,
                    _pad: 0,
                    limit: limit.depth,
                    within: limit.cost,
                    bucket: 1,
                }
            }
        };
        for (row, len) in [rule.prefix_v4, rule.prefix_v6].into_iter().enumerate() {
            for class in 0..abi::MAX_UNITS {
                if compiled.units[row][class] == u32::from(len) {
                    compiled.unit_rules[row][class] |= bit;
                }
            }
        }
    }
    compiled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Rule;

    #[test]
    fn each_rule_counts_by_its_unit() {
        let mut wide = Rule::new("wide", Trigger::Packets(100));
        wide.prefix_v4 = 24;
        let rules = vec![Rule::new("scan", Trigger::DistinctPorts(10)), wide];
        let compiled = compile(&RuleSet::validate(rules).unwrap());
        assert_eq!((compiled.call_rules, compiled.volume_rules), (0b01, 0b10));
        for (class, len) in compiled.units[0].into_iter().enumerate() {
            let rules = if len == 24 { 0b10 } else { 0b01 };
            assert_eq!(compiled.unit_rules[0][class], rules, "length {len}");
        }
        assert_eq!(compiled.units[1], [64, 0]);
        assert_eq!(compiled.unit_rules[1], [0b11, 0]);
        assert_eq!(compiled.rules[0].bucket * 8, compiled.rules[0].within);
    }

    #[test]
    fn without_rules_callers_are_still_counted() {
        let compiled = compile(&RuleSet::validate(Vec::new()).unwrap());
        assert_eq!(compiled.units, [[32, 0], [64, 0]]);
        assert_eq!(compiled.unit_rules, [[0, 0], [0, 0]]);
    }
}
