//! Rules as a file writes them. Those of a request are among [`super::requests`].

use packetwatch_abi as abi;

use super::assert_plain;
use crate::rules::{Rule, RuleSet, Trigger, policy};

/// # Panics
/// Where a mistake is told without its place, or what was taken does not fit the program.
pub fn rules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match RuleSet::from_toml(text) {
        Ok(rules) => assert_within_bounds(&rules),
        Err(error) => {
            assert!(!error.0.is_empty());
            for (at, message) in &error.0 {
                assert!(at.column > 0 && text.split('\n').nth(at.line - 1).is_some());
                assert_plain(message);
            }
        }
    }
}

/// What a checked set promises: it reads back from either of its forms, and what is compiled from
/// it is what the program can hold.
pub(crate) fn assert_within_bounds(rules: &RuleSet) {
    let written = rules.to_toml();
    let again = RuleSet::from_toml(&written).map_err(|error| error.to_string());
    assert_eq!(again.as_ref(), Ok(rules), "{written}");
    let json = serde_json::to_vec(rules).expect("rules are JSON");
    let again: Vec<Rule> = serde_json::from_slice(&json).expect("rules read back");
    assert_eq!(RuleSet::validate(again).as_ref(), Ok(rules));
    assert_fits(rules);
}

fn assert_fits(rules: &RuleSet) {
    let compiled = policy::compile(rules);
    let all = u32::try_from((1_u64 << rules.len()) - 1).expect("at most eight bits");
    assert!(rules.len() <= abi::MAX_RULES);
    assert_eq!(compiled.call_rules ^ compiled.volume_rules, all);
    assert_eq!(compiled.limit_rules & !all, 0);
    for (row, longest) in [32, 128].into_iter().enumerate() {
        assert!(compiled.units[row].iter().all(|length| *length <= longest));
        // Each rule counts by one unit of each family.
        let by_unit = compiled.unit_rules[row];
        assert_eq!(by_unit.iter().fold(0, |bits, one| bits ^ one), all);
    }
    for (index, rule) in rules.iter().enumerate() {
        assert_rule_fits(rule, &compiled.rules[index]);
    }
}

fn assert_rule_fits(rule: &Rule, compiled: &abi::Rule) {
    const DAY: u64 = 86_400_000_000_000;
    if rule.bans() {
        let most = match rule.trigger {
            Trigger::DistinctPorts(_) => 64,
            Trigger::Connections(_) => (1 << 31) - 1,
            Trigger::Packets(_) | Trigger::Bytes(_) => (1 << 39) - 1,
        };
        assert!((1..=most).contains(&compiled.limit), "{compiled:?}");
        assert!((DAY / 86_400..=DAY).contains(&compiled.within));
        assert_eq!(compiled.bucket, compiled.within / abi::BUCKETS as u64);
        return;
    }
    // A limit that would let nothing pass is a deny by another name.
    let limit = abi::Limit {
        cost: compiled.within,
        depth: compiled.limit,
    };
    let greatest = match rule.trigger {
        Trigger::Bytes(_) => 65_535,
        _ => 1,
    };
    let passes = limit.after(0, DAY, limit.of(greatest)).is_some();
    assert!(passes, "nothing passes {rule:?}: {limit:?}");
}
