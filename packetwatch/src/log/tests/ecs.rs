//! The schema against the Elastic Common Schema: a key is one of its fields, of its type, or under
//! `packetwatch.`, which ECS leaves to us.

use serde_json::{Value, json};

use super::{SCHEMA, line_of};
use crate::log::{
    EVENT,
    action::{ACTIONS, DENIED_CONNECTION},
};

/// The release that [`FIELDS`] is taken from and that lines name in `ecs.version`.
/// <https://github.com/elastic/ecs/blob/v8.17.0/generated/csv/fields.csv>
const ECS: &str = "8.17.0";

/// What Elasticsearch stores a field as.
#[derive(Clone, Copy, Debug)]
enum Stored {
    Date,
    Ip,
    Keyword,
    /// `keyword`, normalised as an array
    Keywords,
    Long,
    /// `match_only_text`
    Text,
    Wildcard,
}

#[derive(Debug, PartialEq)]
enum Level {
    Core,
    Extended,
}

use Level::{Core, Extended};
use Stored::{Date, Ip, Keyword, Keywords, Long, Text, Wildcard};

/// The ECS fields that a line may hold. `labels` is an object there, of any keys.
const FIELDS: [(&str, Stored, Level); 30] = [
    ("@timestamp", Date, Core),
    ("client.ip", Ip, Core),
    ("destination.ip", Ip, Core),
    ("destination.port", Long, Core),
    ("ecs.version", Keyword, Core),
    ("error.message", Text, Core),
    ("event.action", Keyword, Core),
    ("event.category", Keywords, Core),
    ("event.kind", Keyword, Core),
    ("event.outcome", Keyword, Core),
    ("event.reason", Keyword, Extended),
    ("event.type", Keywords, Core),
    ("file.path", Keyword, Extended),
    ("http.request.method", Keyword, Extended),
    ("http.response.status_code", Long, Extended),
    ("log.level", Keyword, Core),
    ("log.logger", Keyword, Core),
    ("message", Text, Core),
    ("network.transport", Keyword, Core),
    ("network.type", Keyword, Core),
    ("observer.ingress.interface.name", Keyword, Extended),
    ("process.pid", Long, Core),
    ("rule.name", Keyword, Extended),
    ("service.version", Keyword, Core),
    ("source.ip", Ip, Core),
    ("source.port", Long, Core),
    ("tls.server.not_after", Date, Extended),
    ("url.path", Wildcard, Extended),
    ("user.id", Keyword, Core),
    ("user.name", Keyword, Core),
];

/// Fields that ECS requires of every event.
const REQUIRED: [&str; 2] = ["@timestamp", "ecs.version"];

/// What ECS allows in `event.type` beside a category.
/// <https://www.elastic.co/guide/en/ecs/8.17/ecs-allowed-values-event-category.html>
const TYPES: [(&str, &[&str]); 6] = [
    ("authentication", &["end", "info", "start"]),
    (
        "configuration",
        &["access", "change", "creation", "deletion", "info"],
    ),
    (
        "iam",
        &[
            "admin", "change", "creation", "deletion", "group", "info", "user",
        ],
    ),
    ("intrusion_detection", &["allowed", "denied", "info"]),
    (
        "network",
        &[
            "access",
            "allowed",
            "connection",
            "denied",
            "end",
            "info",
            "protocol",
            "start",
        ],
    ),
    ("process", &["access", "change", "end", "info", "start"]),
];

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// Why a property of the schema does not fit what ECS stores it as.
fn misfit(schema: &Value, property: &Value, stored: Stored) -> Option<String> {
    let name = |reference: &Value| {
        reference
            .as_str()?
            .strip_prefix("#/$defs/")
            .map(str::to_owned)
    };
    let property = match name(&property["$ref"]) {
        Some(name) => &schema["$defs"][name],
        None => property,
    };
    let choices = [
        property["enum"].as_array().cloned().unwrap_or_default(),
        property.get("const").cloned().into_iter().collect(),
    ]
    .concat();
    let is_text = property["type"] == "string"
        || (!choices.is_empty() && choices.iter().all(Value::is_string));
    let fits = match stored {
        Date => is_text && property["format"] == "date-time",
        Ip => is_text && property["anyOf"] == json!([{"format": "ipv4"}, {"format": "ipv6"}]),
        Keyword | Text | Wildcard => is_text,
        Keywords => property["type"] == "array" && property["items"]["type"] == "string",
        Long => property["type"] == "integer",
    };
    (!fits).then(|| format!("{stored:?} is no {property}"))
}

/// What is wrong with the keys of a schema.
fn faults(schema: &Value) -> Vec<String> {
    let keys = schema["properties"].as_object().unwrap();
    let fault = |(key, property): (&String, &Value)| {
        let why = match FIELDS.iter().find(|(field, ..)| field == key) {
            Some((_, stored, _)) => misfit(schema, property, *stored)?,
            None if key.starts_with("packetwatch.") => return None,
            None => format!("not in ECS {ECS}: ours are packetwatch.*"),
        };
        Some(format!("{key}: {why}"))
    };
    keys.iter().filter_map(fault).collect()
}

#[test]
fn every_key_is_ecs_or_our_own() {
    let schema = schema();
    assert_eq!(faults(&schema), Vec::<String>::new());
    for (field, ..) in FIELDS {
        assert!(
            schema["properties"].get(field).is_some(),
            "{field} is unused"
        );
    }
    // ECS reserves `labels` for keys of one's own, of plain values, and nothing else is open.
    let open = schema["patternProperties"].as_object().unwrap();
    let open: Vec<_> = open.iter().collect();
    let plain = json!({"type": ["string", "number", "boolean"]});
    assert_eq!(open, [(&r"^labels\.[A-Za-z0-9_]+$".to_owned(), &plain)]);
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn a_key_of_another_name_or_type_is_found() {
    let wrong = [
        ("source.address", json!({"type": "string"})),
        ("packet_watch.prefix", json!({"type": "string"})),
        ("source.ip", json!({"type": "string"})),
        ("source.ip", json!({"$ref": "#/$defs/prefix"})),
        ("source.port", json!({"type": "string"})),
        ("event.type", json!({"type": "string"})),
        ("@timestamp", json!({"type": "integer"})),
        ("event.kind", json!({"enum": ["event", 1]})),
    ];
    for (key, property) in wrong {
        let mut schema = schema();
        schema["properties"][key] = property;
        let faults = faults(&schema);
        assert_eq!(faults.len(), 1, "{key}: {faults:?}");
        assert!(faults[0].starts_with(key), "{faults:?}");
    }
}

#[test]
fn every_line_names_the_version_of_ecs() {
    let schema = schema();
    assert_eq!(schema["properties"]["ecs.version"]["const"], ECS);
    let required = schema["required"].as_array().unwrap();
    let line = line_of(|| tracing::info!(target: EVENT, { event.action = "stopped" }, "stopped"));
    assert_eq!(line["ecs.version"], ECS);
    for field in REQUIRED {
        assert!(required.contains(&json!(field)), "{field}");
        let level = FIELDS.iter().find(|(name, ..)| *name == field);
        assert!(level.is_some_and(|(_, _, level)| *level == Core), "{field}");
        assert!(line.get(field).is_some(), "{line}");
    }
}

#[test]
fn actions_are_classed_in_words_of_ecs() {
    for action in ACTIONS {
        let name = action.name;
        assert!(["alert", "event"].contains(&action.kind), "{name}");
        let outcome = action.outcome.unwrap_or("unknown");
        assert!(
            ["failure", "success", "unknown"].contains(&outcome),
            "{name}"
        );
        let allowed: Vec<&str> = action
            .categories
            .iter()
            .flat_map(|category| {
                let types = TYPES.iter().find(|(known, _)| known == category);
                types.unwrap_or_else(|| panic!("{name}: {category}")).1
            })
            .copied()
            .collect();
        assert!(!action.types.is_empty(), "{name}");
        for word in action.types {
            assert!(allowed.contains(word), "{name}: {word}");
        }
    }
    let (_, network) = TYPES.iter().find(|(known, _)| *known == "network").unwrap();
    assert!(DENIED_CONNECTION.iter().all(|word| network.contains(word)));
}
