//! Rules as users write them, their bounds, and what is said when they are not kept.

use std::time::Duration;

use packetwatch::{
    prefix::Family,
    rules::{BanLength, Rule, RuleSet, Trigger},
};
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

/// What a set of one rule is refused for.
fn refusal(change: impl FnOnce(&mut Rule)) -> Option<String> {
    let mut rule = Rule::new("r", Trigger::Connections(1));
    change(&mut rule);
    RuleSet::validate(vec![rule])
        .err()
        .map(|errors| errors.to_string())
}

#[test]
fn every_bound_holds_at_the_bound() {
    let year = Duration::from_secs(31_557_600);
    type Change = Box<dyn FnOnce(&mut Rule)>;
    let accepted: Vec<Change> = vec![
        Box::new(|r| r.name = "a".repeat(32)),
        Box::new(|r| r.trigger = Trigger::DistinctPorts(64)),
        Box::new(|r| r.trigger = Trigger::Connections((1 << 31) - 1)),
        Box::new(|r| r.trigger = Trigger::Packets((1 << 39) - 1)),
        Box::new(|r| r.trigger = Trigger::Bytes(1)),
        Box::new(|r| r.within = SECOND),
        Box::new(|r| r.within = SECOND * 86_400),
        Box::new(|r| r.ban = BanLength::For(SECOND)),
        Box::new(move |r| (r.ban, r.max_ban) = (BanLength::For(year * 10), BanLength::Forever)),
        Box::new(|r| r.max_ban = r.ban),
        Box::new(|r| r.escalate = 1.0),
        Box::new(|r| r.escalate = 100.0),
        Box::new(|r| (r.prefix_v4, r.prefix_v6) = (8, 16)),
        Box::new(|r| (r.prefix_v4, r.prefix_v6) = (32, 128)),
    ];
    for (index, change) in accepted.into_iter().enumerate() {
        assert_eq!(refusal(change), None, "case {index}");
    }
    let refused: Vec<(Change, &str)> = vec![
        (
            Box::new(|r| r.name = String::new()),
            "rule 1 \"\": name: write 1 to 32",
        ),
        (Box::new(|r| r.name = "a".repeat(33)), "name: write 1 to 32"),
        (
            Box::new(|r| r.name = "Scan".into()),
            "rule 1 \"Scan\": name: write",
        ),
        (
            Box::new(|r| r.trigger = Trigger::DistinctPorts(65)),
            "distinct_ports: 65 is more than 64",
        ),
        (
            Box::new(|r| r.trigger = Trigger::DistinctPorts(0)),
            "distinct_ports: 0 is outside 1 to 64",
        ),
        (
            Box::new(|r| r.trigger = Trigger::Connections(1 << 31)),
            "connections: 2147483648 is",
        ),
        (
            Box::new(|r| r.trigger = Trigger::Packets(1 << 39)),
            "packets: 549755813888 is outside",
        ),
        (
            Box::new(|r| r.trigger = Trigger::Bytes(0)),
            "bytes: 0 is outside 1 to 549755813887",
        ),
        (
            Box::new(|r| r.within = SECOND / 2),
            "within: 500ms is outside 1s to 24h",
        ),
        (
            Box::new(|r| r.within = SECOND * 86_401),
            "within: 86401s is outside",
        ),
        (
            Box::new(|r| r.ban = BanLength::For(SECOND / 2)),
            "ban: 500ms is outside 1s to 10y",
        ),
        (
            Box::new(move |r| {
                (r.ban, r.max_ban) = (BanLength::For(year * 10 + SECOND), BanLength::Forever)
            }),
            "ban: 315576001s is outside",
        ),
        (
            Box::new(|r| r.ban = BanLength::Forever),
            "max_ban: 24h is shorter than the ban of forever",
        ),
        (
            Box::new(|r| r.escalate = 0.99),
            "escalate: 0.99 is outside 1 to 100",
        ),
        (
            Box::new(|r| r.escalate = 100.5),
            "escalate: 100.5 is outside",
        ),
        (
            Box::new(|r| r.escalate = f64::NAN),
            "escalate: NaN is outside",
        ),
        (
            Box::new(|r| r.prefix_v4 = 7),
            "prefix_v4: 7 is outside 8 to 32",
        ),
        (Box::new(|r| r.prefix_v4 = 33), "prefix_v4: 33 is outside"),
        (
            Box::new(|r| r.prefix_v6 = 15),
            "prefix_v6: 15 is outside 16 to 128",
        ),
        (Box::new(|r| r.prefix_v6 = 129), "prefix_v6: 129 is outside"),
    ];
    for (change, expected) in refused {
        let said = refusal(change).expect(expected);
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

fn named(names: impl IntoIterator<Item = String>) -> Vec<Rule> {
    names
        .into_iter()
        .map(|name| Rule::new(name, Trigger::Packets(1)))
        .collect()
}

#[test]
fn a_set_has_eight_rules_of_different_names() {
    let names = |n: usize| (0..n).map(|i| format!("r{i}"));
    assert_eq!(RuleSet::validate(named(names(8))).unwrap().len(), 8);
    let errors = RuleSet::validate(named(names(9))).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "rule 9 \"r8\": rules: 9 rules are more than 8: remove some"
    );
    let errors = RuleSet::validate(named(["a".into(), "b".into(), "a".into()])).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "rule 3 \"a\": name: an earlier rule has this name: choose another"
    );
}

#[test]
fn a_family_has_two_different_units() {
    let mut rules = named(["a".into(), "b".into(), "c".into()]);
    (rules[0].prefix_v4, rules[1].prefix_v4, rules[2].prefix_v4) = (32, 24, 32);
    rules[1].within = SECOND * 3600;
    let set = RuleSet::validate(rules.clone()).unwrap();
    assert_eq!(set.units(Family::V4), [24, 32]);
    assert_eq!(set.units(Family::V6), [64]);
    assert_eq!(set.longest_within(), SECOND * 3600);
    rules[2].prefix_v4 = 16;
    assert_eq!(
        RuleSet::validate(rules).unwrap_err().to_string(),
        "rule 3 \"c\": prefix_v4: 16 is one IPv4 unit more than 2: use 24 and 32, as the rules before"
    );
}

#[test]
fn without_rules_the_default_units_are_counted() {
    let none = RuleSet::from_toml("rules = []").unwrap();
    assert!(none.is_empty());
    assert_eq!(
        (none.units(Family::V4), none.units(Family::V6)),
        (vec![32], vec![64])
    );
    assert_eq!(none.longest_within(), SECOND * 60);
    assert_eq!(RuleSet::from_toml(&none.to_toml()).unwrap(), none);
}

#[test]
fn every_violation_is_told_at_once() {
    let mut rules = named(["a".into(), "a".into()]);
    rules[0].within = Duration::ZERO;
    rules[1].prefix_v6 = 200;
    let errors = RuleSet::validate(rules).unwrap_err();
    let fields: Vec<_> = errors
        .0
        .iter()
        .map(|error| (error.index, error.field))
        .collect();
    assert_eq!(fields, [(0, "within"), (1, "prefix_v6"), (1, "name")]);
}

#[test]
fn the_default_rules_keep_their_own_bounds() {
    let default = RuleSet::default();
    let rules: Vec<Rule> = default.iter().cloned().collect();
    assert_eq!(RuleSet::validate(rules).unwrap(), default);
    let text = "\
[[rules]]
name = \"port-scan\"
distinct_ports = 10
within = \"1m\"
ban = \"10m\"
escalate = 2.0
max_ban = \"24h\"
prefix_v4 = 32
prefix_v6 = 64

[[rules]]
name = \"heavy-caller\"
connections = 3000
within = \"1m\"
ban = \"10m\"
escalate = 2.0
max_ban = \"24h\"
prefix_v4 = 32
prefix_v6 = 64
";
    assert_eq!(default.to_toml(), text);
    assert_eq!(RuleSet::from_toml(text).unwrap(), default);
}

#[test]
fn a_rule_needs_only_its_name_and_trigger() {
    let rule: Rule = serde_json::from_value(json!({"name": "r", "bytes": 5})).unwrap();
    assert_eq!(rule, Rule::new("r", Trigger::Bytes(5)));
    let rule: Rule =
        serde_json::from_value(json!({"name": "r", "bytes": 5, "ban": "forever"})).unwrap();
    assert_eq!(
        (rule.ban, rule.max_ban),
        (BanLength::Forever, BanLength::Forever)
    );
    assert_eq!(
        serde_json::to_value(&rule).unwrap(),
        json!({"name": "r", "bytes": 5, "within": "1m", "ban": "forever", "escalate": 2.0,
               "max_ban": "forever", "prefix_v4": 32, "prefix_v6": 64})
    );
}

#[test]
fn json_mistakes_are_named() {
    let table = [
        (
            json!({"name": "r"}),
            "rule \"r\" has no trigger: give exactly one of distinct_ports",
        ),
        (
            json!({"name": "r", "bytes": 1, "packets": 1}),
            "has packets and bytes: give exactly one",
        ),
        (
            json!({"name": "r", "bytes": 1, "widthin": "60s"}),
            "unknown field `widthin`",
        ),
        (
            json!({"name": "r", "bytes": -1}),
            "invalid value: integer `-1`, expected u64",
        ),
        (
            json!({"name": "r", "bytes": 1, "within": "60"}),
            "\"60\" is no length of time",
        ),
        (
            json!({"name": "r", "bytes": 1, "ban": "ever"}),
            "\"24h\", or \"forever\"",
        ),
        (json!({"bytes": 1}), "missing field `name`"),
    ];
    for (value, expected) in table {
        let said = serde_json::from_value::<Rule>(value)
            .unwrap_err()
            .to_string();
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
    }
}

#[test]
fn toml_mistakes_have_their_place() {
    let text = "\
[[rules]]
name = \"scan\"
distinct_port = 3

[[rules]]
name = \"calls\"
connections = 3
within = \"60\"

[[rules]]
name = \"none\"
";
    let said = RuleSet::from_toml(text).unwrap_err().to_string();
    assert_eq!(
        said,
        "\
3:1: unknown key \"distinct_port\" in a rule: the nearest known key is \"distinct_ports\"
8:10: \"60\" is no length of time (time unit needed, for example 60sec or 60ms): write it like \"60s\", \"10m\" or \"24h\"
10:1: rule \"none\" has no trigger: give exactly one of distinct_ports, connections, packets, bytes"
    );
    let text = "rules = [{ name = \"a\", distinct_ports = 65, escalate = 0 }]";
    assert_eq!(
        RuleSet::from_toml(text).unwrap_err().to_string(),
        "\
1:41: rule 1 \"a\": distinct_ports: 65 is more than 64, beyond which ports are not told apart: use connections
1:56: rule 1 \"a\": escalate: 0 is outside 1 to 100: 1 keeps every ban the same"
    );
    let said = RuleSet::from_toml("").unwrap_err().to_string();
    assert_eq!(
        said,
        "1:1: there is no [[rules]]: write `rules = []` if none is meant"
    );
    let said = RuleSet::from_toml("mode = \"observe\"\n")
        .unwrap_err()
        .to_string();
    assert_eq!(
        said,
        "1:1: \"mode\" is no key of a rules file: only [[rules]] is"
    );
}

#[test]
fn the_openapi_schema_is_that_of_the_written_form() {
    use utoipa::{PartialSchema, ToSchema};
    assert_eq!(Rule::name(), "Rule");
    let schema = serde_json::to_value(Rule::schema()).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    let written = serde_json::to_value(Rule::new("r", Trigger::Bytes(1))).unwrap();
    for key in written.as_object().unwrap().keys() {
        assert!(properties.contains_key(key), "{key}");
    }
    assert_eq!(schema["required"], json!(["name"]));
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(properties["within"]["type"], "string");
    assert_eq!(properties["distinct_ports"]["maximum"], 64);
}
