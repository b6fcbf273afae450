use std::io;

use serde_json::Value;
use tracing::{debug, info, info_span, warn};
use tracing_subscriber::layer::SubscriberExt as _;

use super::{Kept, PROMPT, SCHEMA, assert_valid, line_of, lines_of, violations};
use crate::log::{
    EVENT, LogFormat, LogHandle,
    action::{ACTIONS, Action},
    line::{LINE_MAX, VALUE_MAX},
    suppressed,
};

#[test]
fn fields_keep_their_types_and_none_is_left_out() {
    let line = line_of(|| {
        info!(
            target: EVENT,
            {
                event.action = "ban",
                packetwatch.prefix = %"198.51.100.7/32",
                source.ip = %"198.51.100.7",
                rule.name = "port-scan",
                packetwatch.reason = Some("10 ports in 60 s"),
                packetwatch.repeat = Some(2u32),
                packetwatch.expires_at = None::<&str>,
            },
            "banned"
        );
    });
    assert_eq!(line["event.kind"], "alert");
    assert_eq!(line["packetwatch.repeat"], 2);
    assert_eq!(line["packetwatch.reason"], "10 ports in 60 s");
    assert!(line.get("packetwatch.expires_at").is_none());
}

#[test]
fn a_diagnostic_has_a_logger_and_its_fields_are_labels() {
    let line = line_of(|| {
        warn!(target: "hyper::proto", { http.version = 2, ok = true, ratio = 0.5, far = 1e300,
            no_number = f64::NAN, who = ?"a\nb" }, "odd");
    });
    assert_eq!(line["log.level"], "warn");
    assert_eq!(line["log.logger"], "hyper::proto");
    assert_eq!(line["labels.http_version"], 2);
    assert_eq!(line["labels.ok"], true);
    assert_eq!(line["labels.ratio"], 0.5);
    assert_eq!(line["labels.far"], 1e300);
    assert_eq!(line["labels.no_number"], "NaN");
    assert_eq!(line["labels.who"], "\"a\\nb\"");
}

#[test]
fn an_error_is_written_with_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("read the journal")]
    struct Outer(#[source] io::Error);
    let error = Outer(io::Error::other("disk gone"));
    let line = line_of(|| {
        let error: &(dyn std::error::Error + 'static) = &error;
        warn!({ error.message = error }, "start failed");
    });
    assert_eq!(line["error.message"], "read the journal: disk gone");
    assert_eq!(line["log.logger"], module_path!());
}

#[test]
fn records_of_the_log_crate_keep_their_own_target() {
    use tracing_subscriber::util::SubscriberInitExt as _;
    let kept = Kept::default();
    let log = LogHandle::new(kept.clone(), LogFormat::Json).unwrap();
    {
        let _guard = tracing_subscriber::registry()
            .with(log.layer(LogFormat::Json))
            .set_default();
        ::log::warn!(target: "packetwatch_ebpf", "ban of {}", "198.51.100.7");
    }
    assert!(log.flush(PROMPT));
    let line: Value = serde_json::from_slice(&kept.0.lock().unwrap()).unwrap();
    assert_valid(&line);
    assert_eq!(line["log.level"], "warn");
    assert_eq!(line["log.logger"], "packetwatch_ebpf");
    assert_eq!(line["message"], "ban of 198.51.100.7");
    assert_eq!(line.as_object().unwrap().len(), 5);
}

#[test]
fn every_action_is_in_the_schema_and_no_other() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let listed: Vec<&str> = schema["properties"]["event.action"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let known: Vec<&str> = ACTIONS.iter().map(|action| action.name).collect();
    assert_eq!(listed, known);
    assert_eq!(Action::named("no-such-thing"), None);
}

#[test]
fn the_schema_refuses_what_is_not_a_line() {
    let good = line_of(|| info!("hello"));
    let spoilt = |spoil: &dyn Fn(&mut Value)| {
        let mut line = good.clone();
        spoil(&mut line);
        violations(&line).len()
    };
    assert_eq!(spoilt(&|_| {}), 0);
    assert_ne!(spoilt(&|line| line["unheard_of"] = 1.into()), 0);
    assert_ne!(
        spoilt(&|line| line["source.ip"] = "198.51.100.0/24".into()),
        0
    );
    assert_ne!(spoilt(&|line| line["@timestamp"] = "yesterday".into()), 0);
    assert_ne!(spoilt(&|line| line["source.port"] = 65_536.into()), 0);
    assert_ne!(
        spoilt(&|line| line["packetwatch.prefix"] = "198.51.100.7".into()),
        0
    );
    assert_ne!(spoilt(&|line| line["event.action"] = "ban".into()), 0);
    assert_ne!(
        spoilt(&|line| {
            line.as_object_mut().unwrap().remove("log.logger");
        }),
        0
    );
}

#[test]
fn a_value_is_cut_at_its_bound_and_no_earlier() {
    let whole = "x".repeat(VALUE_MAX);
    let line = line_of(|| info!("{whole}"));
    assert_eq!(line["message"], whole.as_str());
    assert!(line.get("packetwatch.truncated").is_none());

    let line = line_of(|| info!("{whole}x"));
    assert_eq!(line["message"], whole.as_str());
    assert_eq!(line["packetwatch.truncated"], true);

    // Two bytes a letter, and an escape of six bytes: neither is cut in the middle.
    for awkward in ["ä", "\u{1}"] {
        let line = line_of(|| info!("x{}", awkward.repeat(VALUE_MAX)));
        let message = line["message"].as_str().unwrap();
        assert_eq!(
            message.trim_start_matches('x'),
            awkward.repeat(message.chars().count() - 1)
        );
        assert_eq!(line["packetwatch.truncated"], true);
    }
}

#[test]
fn a_line_is_never_longer_than_its_bound() {
    // Every length of the third field, the one that meets the end of the line.
    let big = "\"".repeat(VALUE_MAX);
    let lines = lines_of(LogFormat::Json, || {
        for start in 0..VALUE_MAX {
            info!({ a = big, b = big, c = &big[start..], d = 7, e = big }, "{big}");
        }
    });
    assert_eq!(lines.len(), VALUE_MAX);
    let longest = lines.iter().map(String::len).max().unwrap();
    assert!(longest > LINE_MAX - 16, "{longest} bytes: room is wasted");
    assert!(lines.iter().all(|line| line.len() < LINE_MAX));
    // An odd step meets both halves of an escape at the end; each of them would take seconds.
    for line in lines.iter().step_by(13) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["packetwatch.truncated"], true);
    }
    assert_valid(&serde_json::from_str(&lines[VALUE_MAX / 2]).unwrap());
}

#[test]
fn text_is_one_line_with_the_same_fields() {
    let lines = lines_of(LogFormat::Text, || {
        info!(
            target: EVENT,
            {
                event.action = "deny-added",
                packetwatch.prefix = %"198.51.100.0/24",
                packetwatch.reason = "two words\x1b[31m\nand a line",
            },
            "deny 198.51.100.0/24\nforged line"
        );
        debug!("plain");
    });
    let [event, plain] = lines.as_slice() else {
        panic!("not two lines: {lines:#?}");
    };
    let (time, rest) = event.split_once(' ').unwrap();
    assert_eq!(time.len(), "2024-02-29T23:59:59.000001Z".len());
    assert_eq!(
        rest,
        "INFO  deny 198.51.100.0/24\\nforged line event.action=deny-added \
         packetwatch.prefix=198.51.100.0/24 \
         packetwatch.reason=\"two words\\u001b[31m\\nand a line\""
    );
    assert!(plain.ends_with(&format!("DEBUG plain log.logger={}", module_path!())));
}

#[test]
fn a_value_that_logs_while_it_is_written_does_no_harm() {
    struct Chatty;
    impl std::fmt::Display for Chatty {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            info!("inner");
            f.write_str("outer")
        }
    }
    let lines = lines_of(LogFormat::Json, || info!("{Chatty}"));
    let last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!(last["message"], "outer");
    assert_valid(&last);
}

#[test]
fn subscribers_get_event_lines_alone_and_always_as_json() {
    for format in [LogFormat::Json, LogFormat::Text] {
        let log = LogHandle::new(Kept::default(), format).unwrap();
        let (_, mut events) = log.subscribe();
        let subscriber = tracing_subscriber::registry().with(log.layer(format));
        tracing::subscriber::with_default(subscriber, || {
            info!("not an event");
            suppressed(1);
        });
        let line: Value = serde_json::from_str(&events.try_recv().unwrap()).unwrap();
        assert_valid(&line);
        assert_eq!(line["event.action"], "connections-suppressed");
        assert!(events.try_recv().is_err());
    }
}

#[test]
fn an_event_bears_the_fields_of_the_order_it_happens_within() {
    let within = |speak: fn()| {
        line_of(|| {
            let order = info_span!(
                target: EVENT,
                "order",
                user.name = "ci",
                client.ip = %"198.51.100.7",
                packetwatch.client_pid = Some(7),
                user.id = None::<&str>,
            );
            order.in_scope(|| info_span!("a step of it", labelled = true).in_scope(speak));
        })
    };
    let line = within(|| {
        info!(
            target: EVENT,
            { event.action = "unban", packetwatch.prefix = %"192.0.2.1/32" },
            "unbanned"
        );
    });
    assert_eq!(line["user.name"], "ci");
    assert_eq!(line["client.ip"], "198.51.100.7");
    assert_eq!(line["packetwatch.client_pid"], 7);
    assert!(line.get("user.id").is_none() && line.get("labels.labelled").is_none());
    // What is no event is not done on anybody's order.
    let line = within(|| info!("hello"));
    assert!(line.get("user.name").is_none());
}
