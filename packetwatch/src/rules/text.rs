//! Rules as TOML and JSON write them.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::de::{DeValue, ValueDeserializer};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{Action, BanLength, Rule, RuleSet, Trigger, duration};
use crate::document::{self, Fault, Position, Value};

const FIELDS: [&str; 13] = [
    "name",
    "action",
    "burst",
    "distinct_ports",
    "connections",
    "packets",
    "bytes",
    "within",
    "ban",
    "escalate",
    "max_ban",
    "prefix_v4",
    "prefix_v6",
];

/// A rule as users write it: exactly one of the four triggers, lengths of time as text.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rule)]
pub struct RuleText {
    /// Unique name: 1 to 32 of a-z, 0-9 and -.
    #[schema(example = "port-scan", pattern = "^[a-z0-9-]{1,32}$")]
    pub name: String,
    /// Ban a source that calls this many different ports; exactly one trigger is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 64)]
    pub distinct_ports: Option<u64>,
    /// Ban a source that makes this many new TCP connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_147_483_647_u64)]
    pub connections: Option<u64>,
    /// Ban a source that sends more than this many packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 549_755_813_887_u64)]
    pub packets: Option<u64>,
    /// Ban a source that sends more than this many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 549_755_813_887_u64)]
    pub bytes: Option<u64>,
    /// "ban" bans a source that meets the trigger; "limit" lets so much of it pass a second, for
    /// connections, packets or bytes, and drops the rest.
    #[serde(default, skip_serializing_if = "Action::is_default")]
    #[schema(default = "ban")]
    pub action: Action,
    /// Of a limit: what may pass at once after a pause; by default a tenth of a second's worth, of
    /// bytes at least 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub burst: Option<u64>,
    /// The sliding window, 1s to 24h; not of a limit.
    #[serde(
        default,
        with = "duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = String, required = false, default = "60s", example = "60s")]
    pub within: Option<Duration>,
    /// The first ban, 1s to 10y or "forever"; not of a limit, as the next two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, default = "10m", example = "10m")]
    pub ban: Option<BanLength>,
    /// Each repeat multiplies the ban by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100, default = 2.0)]
    pub escalate: Option<f64>,
    /// The longest ban that repeats lead to; by default 24h, or ban if that is longer.
    #[schema(value_type = Option<String>, example = "24h")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ban: Option<BanLength>,
    /// Leading bits of an IPv4 source counted and banned as one.
    #[serde(default = "default_prefix_v4")]
    #[schema(minimum = 8, maximum = 32, default = 32)]
    pub prefix_v4: u8,
    /// Leading bits of an IPv6 source counted and banned as one.
    #[serde(default = "default_prefix_v6")]
    #[schema(minimum = 16, maximum = 128, default = 64)]
    pub prefix_v6: u8,
}

fn default_prefix_v4() -> u8 {
    Rule::PREFIX_V4
}

fn default_prefix_v6() -> u8 {
    Rule::PREFIX_V6
}

impl TryFrom<RuleText> for Rule {
    type Error = String;

    fn try_from(text: RuleText) -> Result<Self, String> {
        let triggers: Vec<Trigger> = [
            text.distinct_ports.map(Trigger::DistinctPorts),
            text.connections.map(Trigger::Connections),
            text.packets.map(Trigger::Packets),
            text.bytes.map(Trigger::Bytes),
        ]
        .into_iter()
        .flatten()
        .collect();
        let [trigger] = triggers[..] else {
            let given: Vec<&str> = triggers.iter().map(|trigger| trigger.field()).collect();
            let given = if given.is_empty() {
                "no trigger".to_owned()
            } else {
                given.join(" and ")
            };
            return Err(format!(
                "rule {:?} has {given}: give exactly one of distinct_ports, connections, packets, bytes",
                text.name
            ));
        };
        let units = Self {
            prefix_v4: text.prefix_v4,
            prefix_v6: text.prefix_v6,
            ..Self::new(text.name.clone(), trigger)
        };
        match text.action {
            Action::Ban => text.banning(units),
            Action::Limit => text.limiting(units),
        }
    }
}

impl RuleText {
    fn banning(self, rule: Rule) -> Result<Rule, String> {
        if self.burst.is_some() {
            return Err(format!(
                "rule {:?} bans and has a burst: leave it out, or write action = \"limit\"",
                self.name
            ));
        }
        let ban = self.ban.unwrap_or(Rule::BAN);
        Ok(Rule {
            within: self.within.unwrap_or(Rule::WITHIN),
            ban,
            escalate: self.escalate.unwrap_or(Rule::ESCALATE),
            max_ban: self.max_ban.unwrap_or(Rule::MAX_BAN.max(ban)),
            ..rule
        })
    }

    fn limiting(self, rule: Rule) -> Result<Rule, String> {
        let of_bans = [
            ("within", self.within.is_some()),
            ("ban", self.ban.is_some()),
            ("escalate", self.escalate.is_some()),
            ("max_ban", self.max_ban.is_some()),
        ];
        if let Some((field, _)) = of_bans.into_iter().find(|(_, is_given)| *is_given) {
            return Err(format!(
                "rule {:?} limits and has {field}: leave it out, since a limit is what passes a \
                 second and bans nobody",
                self.name
            ));
        }
        if matches!(rule.trigger, Trigger::DistinctPorts(_)) {
            return Err(format!(
                "rule {:?} limits distinct_ports: use connections, packets or bytes",
                self.name
            ));
        }
        let limit = Rule::limit(self.name, rule.trigger);
        Ok(Rule {
            burst: self.burst.unwrap_or(limit.burst),
            prefix_v4: rule.prefix_v4,
            prefix_v6: rule.prefix_v6,
            ..limit
        })
    }
}

impl From<Rule> for RuleText {
    fn from(rule: Rule) -> Self {
        let Rule {
            name,
            trigger,
            action,
            burst,
            within,
            ban,
            escalate,
            max_ban,
            prefix_v4,
            prefix_v6,
        } = rule;
        let bans = action == Action::Ban;
        let n = |field| (trigger.field() == field).then(|| trigger.count());
        Self {
            distinct_ports: n("distinct_ports"),
            connections: n("connections"),
            packets: n("packets"),
            bytes: n("bytes"),
            name,
            action,
            burst: (!bans).then_some(burst),
            within: bans.then_some(within),
            ban: bans.then_some(ban),
            escalate: bans.then_some(escalate),
            max_ban: bans.then_some(max_ban),
            prefix_v4,
            prefix_v6,
        }
    }
}

impl PartialSchema for Rule {
    fn schema() -> RefOr<Schema> {
        RuleText::schema()
    }
}

impl ToSchema for Rule {
    fn name() -> Cow<'static, str> {
        "Rule".into()
    }
}

/// What is wrong with a rules file, each with its place; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", .0.iter().map(|(at, message)| format!("{at}: {message}")).collect::<Vec<_>>().join("\n"))]
pub struct RulesTextError(pub Vec<(Position, String)>);

impl RuleSet {
    /// Reads a text of `[[rules]]`, or `rules = []` for none; nothing else may stand in it.
    ///
    /// # Errors
    /// Every mistake with line and column; the caller adds the file's name.
    pub fn from_toml(text: &str) -> Result<Self, RulesTextError> {
        let told = |faults: Vec<Fault>| {
            let placed = |fault: Fault| (Position::of(text, fault.span.start), fault.message);
            RulesTextError(faults.into_iter().map(placed).collect())
        };
        let table = document::parse(text).map_err(|fault| told(vec![fault]))?;
        let stray = table.iter().filter(|(key, _)| key.get_ref() != "rules");
        let stray: Vec<Fault> = stray
            .map(|(key, _)| {
                let name = key.get_ref();
                Fault::new(
                    key.span(),
                    format!("{name:?} is no key of a rules file: only [[rules]] is"),
                )
            })
            .collect();
        if !stray.is_empty() {
            return Err(told(stray));
        }
        let Some(rules) = table.get("rules") else {
            let message = "there is no [[rules]]: write `rules = []` if none is meant";
            return Err(told(vec![Fault::new(0..0, message)]));
        };
        read(rules).map_err(told)
    }

    /// The set as TOML, complete, which [`RuleSet::from_toml`] reads back.
    pub fn to_toml(&self) -> String {
        let document = std::collections::BTreeMap::from([("rules", self)]);
        toml::to_string(&document).expect("rules hold only what TOML can say")
    }
}

/// Reads the value of a `rules` key and checks the set.
pub(crate) fn read(value: &Value<'_>) -> Result<RuleSet, Vec<Fault>> {
    let Some(items) = value.get_ref().as_array() else {
        let message = "rules are a list: write each as [[rules]], or rules = [] for none";
        return Err(vec![Fault::new(value.span(), message)]);
    };
    let mut faults = Vec::new();
    let mut rules = Vec::new();
    for item in items.iter() {
        match read_rule(item) {
            Ok(rule) => rules.push(rule),
            Err(found) => faults.extend(found),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    RuleSet::validate(rules).map_err(|errors| {
        let placed = |error: super::RuleError| {
            let item = &items[error.index];
            let field = item
                .get_ref()
                .as_table()
                .and_then(|rule| rule.get(error.field));
            Fault::new(field.unwrap_or(item).span(), error.to_string())
        };
        errors.0.into_iter().map(placed).collect()
    })
}

fn read_rule(item: &Value<'_>) -> Result<Rule, Vec<Fault>> {
    let unknown: Vec<Fault> = match item.get_ref() {
        DeValue::Table(table) => table
            .iter()
            .filter(|(key, _)| !FIELDS.contains(&key.get_ref().as_ref()))
            .map(|(key, _)| {
                let name = key.get_ref();
                let known = match document::nearest(name, FIELDS) {
                    Some(near) => format!("the nearest known key is {near:?}"),
                    None => format!("the known ones are {}", FIELDS.join(", ")),
                };
                let message = format!("unknown key {name:?} in a rule: {known}");
                Fault::new(key.span(), message)
            })
            .collect(),
        _ => vec![Fault::new(
            item.span(),
            "a rule is a table: write it as [[rules]]",
        )],
    };
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let text = RuleText::deserialize(ValueDeserializer::from(item.clone()))
        .map_err(|error| vec![Fault::from(error)])?;
    Rule::try_from(text).map_err(|message| vec![Fault::new(item.span(), message)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RuleSet, String> {
        RuleSet::from_toml(text).map_err(|error| error.to_string())
    }

    const LIMIT: &str = "[[rules]]\nname = 'cap'\naction = 'limit'\n";

    #[test]
    fn a_limit_has_its_default_burst_and_is_written_as_it_was_read() {
        let set = read(&format!("{LIMIT}packets = 10000")).unwrap();
        let rule = set.iter().next().unwrap();
        assert_eq!(*rule, Rule::limit("cap", Trigger::Packets(10_000)));
        assert_eq!((rule.burst, rule.bans()), (1_000, false));
        let text = set.to_toml();
        assert!(!text.contains("ban") && !text.contains("within"), "{text}");
        assert_eq!(read(&text), Ok(set));
    }

    #[test]
    fn a_limit_of_bytes_lets_the_greatest_packet_pass() {
        let set = read(&format!("{LIMIT}bytes = 1000")).unwrap();
        assert_eq!(set.iter().next().unwrap().burst, Rule::GREATEST_PACKET);
        let error = read(&format!("{LIMIT}bytes = 1000\nburst = 65534")).unwrap_err();
        assert!(error.contains("65534 is outside 65535 to"), "{error}");
    }

    #[test]
    fn what_belongs_to_the_other_action_is_refused_by_name() {
        for field in [
            "within = '1s'",
            "ban = '10m'",
            "escalate = 2.0",
            "max_ban = '1h'",
        ] {
            let error = read(&format!("{LIMIT}packets = 10\n{field}")).unwrap_err();
            let name = field.split(' ').next().unwrap();
            assert!(error.contains(&format!("limits and has {name}")), "{error}");
        }
        let error = read("[[rules]]\nname = 'x'\npackets = 10\nburst = 3").unwrap_err();
        assert!(error.contains("bans and has a burst"), "{error}");
        let error = read(&format!("{LIMIT}distinct_ports = 10")).unwrap_err();
        assert!(
            error.contains("use connections, packets or bytes"),
            "{error}"
        );
        let error = read(&format!("{}packets = 10", LIMIT.replace("limit'", "drop'"))).unwrap_err();
        assert!(error.contains("drop"), "{error}");
    }

    #[test]
    fn a_burst_is_a_tick_to_an_hour() {
        for (burst, fits) in [
            (99, false),
            (100, true),
            (36_000_000, true),
            (36_000_001, false),
        ] {
            let read = read(&format!("{LIMIT}packets = 10000\nburst = {burst}"));
            assert_eq!(read.is_ok(), fits, "{burst}: {read:?}");
        }
    }
}
