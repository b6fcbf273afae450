//! The schema against the Elastic Common Schema: a key is one of its fields, of its type, or under
//! `packetwatch.`, which ECS leaves to us.

use serde_json::{Value, json};

use super::{SCHEMA, line_of};
use crate::log::{
    EVENT,
    action::{ACTIONS, DENIED_CONNECTION},
};

/// The release that [`FIELDS`] is of and that lines name in `ecs.version`.
const ECS: &str = "8.17.0";

/// Each field of that release: name, type, level, and `array` where a value is normalised to one. Columns
/// 4 to 7 of <https://github.com/elastic/ecs/blob/v8.17.0/generated/csv/fields.csv>.
const FIELDS: &str = include_str!("ecs-8.17.0.csv");

/// A row of [`FIELDS`].
#[derive(Clone, Copy, Debug)]
struct Field {
    name: &'static str,
    /// what Elasticsearch stores it as
    stored: &'static str,
    level: &'static str,
    is_array: bool,
}

fn fields() -> impl Iterator<Item = Field> {
    FIELDS.lines().skip(1).map(|row| {
        let [name, stored, level, normalization] = row.split(',').collect::<Vec<_>>()[..] else {
            panic!("not four columns: {row}");
        };
        Field {
            name,
            stored,
            level,
            is_array: normalization == "array",
        }
    })
}

fn field(name: &str) -> Option<Field> {
    fields().find(|field| field.name == name)
}

/// Fields that ECS requires of every event.
const REQUIRED: [&str; 2] = ["@timestamp", "ecs.version"];

/// What ECS allows in `event.type` beside a category, of those that our actions are of: `allowed_values` of
/// `event.category` in <https://github.com/elastic/ecs/blob/v8.17.0/generated/ecs/ecs_flat.yml>.
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
fn misfit(schema: &Value, property: &Value, field: Field) -> Option<String> {
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
    let fits = match (field.stored, field.is_array) {
        ("date", false) => is_text && property["format"] == "date-time",
        ("ip", false) => {
            is_text && property["anyOf"] == json!([{"format": "ipv4"}, {"format": "ipv6"}])
        }
        ("keyword" | "match_only_text" | "wildcard", false) => is_text,
        ("keyword", true) => property["type"] == "array" && property["items"]["type"] == "string",
        ("long", false) => property["type"] == "integer",
        // What no line has held so far.
        _ => false,
    };
    (!fits).then(|| format!("{field:?} is no {property}"))
}

/// What is wrong with the keys of a schema.
fn faults(schema: &Value) -> Vec<String> {
    let keys = schema["properties"].as_object().unwrap();
    let fault = |(key, property): (&String, &Value)| {
        let why = match field(key) {
            Some(field) => misfit(schema, property, field)?,
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
    let keys = schema["properties"].as_object().unwrap().keys();
    assert!(keys.filter(|key| field(key).is_some()).count() > 20);
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
        ("source.adress", json!({"type": "string"})),
        ("source.address", json!({"type": "integer"})),
        ("source.geo.location", json!({"type": "string"})),
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
        assert_eq!(self::field(field).unwrap().level, "core", "{field}");
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
