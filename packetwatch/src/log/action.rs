//! What each `event.action` is in the words of ECS, so that nobody who logs has to say it.

/// `event.kind`, `event.category` and `event.type` of an action.
/// <https://www.elastic.co/guide/en/ecs/current/ecs-category-field-values-reference.html>
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Action {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) categories: &'static [&'static str],
    pub(super) types: &'static [&'static str],
    /// `event.outcome`, where the action is an attempt
    pub(super) outcome: Option<&'static str>,
}

const NETWORK: &[&str] = &["network"];
const INTRUSION: &[&str] = &["intrusion_detection", "network"];
const CONFIGURATION: &[&str] = &["configuration"];
const PROCESS: &[&str] = &["process"];
const AUTHENTICATION: &[&str] = &["authentication"];
/// Identity and access management.
const IAM: &[&str] = &["iam"];

/// `connection` of a call that was dropped: the same action, another type.
pub(super) const DENIED_CONNECTION: &[&str] = &["connection", "denied"];

pub(super) const ACTIONS: &[Action] = &[
    event("connection", NETWORK, &["connection", "allowed"]),
    event("connections-suppressed", NETWORK, &["info"]),
    Action {
        kind: "alert",
        ..event("ban", INTRUSION, &["denied"])
    },
    event("unban", INTRUSION, &["allowed"]),
    event("ban-expired", INTRUSION, &["allowed"]),
    event("allow-added", CONFIGURATION, &["creation"]),
    event("allow-removed", CONFIGURATION, &["deletion"]),
    event("deny-added", CONFIGURATION, &["creation"]),
    event("deny-removed", CONFIGURATION, &["deletion"]),
    event("list-replaced", CONFIGURATION, &["change"]),
    event("rules-changed", CONFIGURATION, &["change"]),
    event("protect-changed", CONFIGURATION, &["change"]),
    attempt("protect-failed", CONFIGURATION, &["info"], "failure"),
    event("mode-changed", CONFIGURATION, &["change"]),
    event("change-pending", CONFIGURATION, &["change"]),
    event("change-confirmed", CONFIGURATION, &["change"]),
    event("change-rolled-back", CONFIGURATION, &["change"]),
    Action {
        kind: "alert",
        ..event("bypass-began", CONFIGURATION, &["change"])
    },
    event("bypass-ended", CONFIGURATION, &["change"]),
    event("restored", CONFIGURATION, &["change"]),
    event("restore-finished", CONFIGURATION, &["change"]),
    event("recovered", CONFIGURATION, &["info"]),
    event("inherited", PROCESS, &["info"]),
    event("leftover-found", NETWORK, &["info"]),
    attempt("journal-set-aside", CONFIGURATION, &["info"], "failure"),
    attempt("state-set-aside", CONFIGURATION, &["info"], "failure"),
    attempt("reloaded", CONFIGURATION, &["change"], "success"),
    attempt("reload-failed", CONFIGURATION, &["info"], "failure"),
    event("privileges-dropped", PROCESS, &["info"]),
    attempt("auth-failed", AUTHENTICATION, &["start"], "failure"),
    event("token-created", IAM, &["creation"]),
    event("token-revoked", IAM, &["deletion"]),
    event("certificate-changed", CONFIGURATION, &["change"]),
    attempt("certificate-refused", CONFIGURATION, &["info"], "failure"),
    event("certificate-due", CONFIGURATION, &["info"]),
    Action {
        kind: "alert",
        ..event("certificate-ended", CONFIGURATION, &["info"])
    },
    attempt("listen-failed", PROCESS, &["info"], "failure"),
    event("listening", PROCESS, &["info"]),
    event("started", PROCESS, &["start"]),
    event("stopped", PROCESS, &["end"]),
    attempt("attached", NETWORK, &["start"], "success"),
    event("detached", NETWORK, &["end"]),
    attempt("attach-failed", NETWORK, &["info"], "failure"),
    event("pins-restored", CONFIGURATION, &["change"]),
    attempt("pins-lost", CONFIGURATION, &["info"], "failure"),
    event("chain-began", NETWORK, &["start"]),
    event("chain-ended", NETWORK, &["end"]),
    event("interface-changed", NETWORK, &["info"]),
    event("difference-found", CONFIGURATION, &["info"]),
    event("reconciled", CONFIGURATION, &["change"]),
    Action {
        kind: "alert",
        ..event("flood-began", NETWORK, &["start"])
    },
    event("flood-ended", NETWORK, &["end"]),
    Action {
        kind: "alert",
        ..event("crowd-began", NETWORK, &["start"])
    },
    event("crowd-ended", NETWORK, &["end"]),
];

const fn event(
    name: &'static str,
    categories: &'static [&'static str],
    types: &'static [&'static str],
) -> Action {
    Action {
        name,
        kind: "event",
        categories,
        types,
        outcome: None,
    }
}

const fn attempt(
    name: &'static str,
    categories: &'static [&'static str],
    types: &'static [&'static str],
    outcome: &'static str,
) -> Action {
    Action {
        name,
        kind: "event",
        categories,
        types,
        outcome: Some(outcome),
    }
}

impl Action {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        ACTIONS.iter().find(|action| action.name == name)
    }
}
