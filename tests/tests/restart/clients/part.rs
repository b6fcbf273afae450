//! What a client writes, and what is to be there after it.

use std::collections::BTreeMap;

use packetwatch_tests::random::Random;
use serde_json::{Value, json};

/// Each has a part of the state of its own, which nobody else writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// entries of the deny list, one by one and some at once, below 10.N.0.0/16
    Deny(u8),
    /// the whole allow list, below [`ALLOWED`], also on trial
    Allow,
    /// one rule, also on trial, or the configuration's
    Rules,
    Tokens,
    /// lifts what the rule has set
    Bans,
}

pub(crate) const CLIENTS: [Client; 6] = [
    Client::Deny(0),
    Client::Deny(1),
    Client::Allow,
    Client::Rules,
    Client::Tokens,
    Client::Bans,
];

/// Denied as a whole, so that what is allowed of it shows in the verdict.
pub(crate) const ALLOWED: u8 = 2;
/// Networks that one client denies or allows.
pub(crate) const NETWORKS: u64 = 100;
/// Entries of one write, which is there whole or not at all.
const ENTRIES: u64 = 20;
const TOKENS: usize = 8;
/// Longer than any run.
const TRIAL: &str = "confirm=1h";
/// What is in force of rules when the API has set none.
pub(crate) const CONFIGURED: &str = "configured";

/// What is there of a client's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// prefixes with the number of the write that put them; the rule; names of tokens
    pub(crate) things: BTreeMap<String, String>,
    pub(crate) on_trial: bool,
}

/// What a client knows of its part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) part: Part,
    /// where a trial goes back to
    before: Part,
    /// what an answer would have told that did not come
    pub(crate) in_flight: Option<Part>,
    /// A confirmation was cut short. Rules are kept before the word that they are on trial goes, so a
    /// trial may now end in what is tried.
    half_confirmed: bool,
}

/// A request, and the part as it is after it.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
    pub(crate) after: Part,
}

impl Told {
    pub(crate) fn of(part: Part) -> Self {
        Self {
            part,
            ..Self::default()
        }
    }

    /// The part has become this.
    pub(crate) fn becomes(&mut self, part: Part) {
        let confirms = |after: &Part| !after.on_trial && after.things == self.part.things;
        let cut_short = self.in_flight.take().filter(|after| *after != part);
        self.half_confirmed = part.on_trial
            && (self.half_confirmed || cut_short.is_some_and(|after| confirms(&after)));
        if part.on_trial && !self.part.on_trial {
            self.before = std::mem::take(&mut self.part);
        }
        self.part = part;
    }
}

impl Client {
    /// What of the pending changes is this client's.
    pub(crate) fn trial(self) -> Option<&'static str> {
        match self {
            Self::Allow => Some("allow"),
            Self::Rules => Some("rules"),
            _ => None,
        }
    }

    /// The `n`-th write of all; `None` when there is nothing left to write. `pending`: the id of the
    /// change on trial.
    pub(crate) fn next(
        self,
        n: u64,
        told: &Told,
        random: &mut Random,
        pending: impl FnOnce() -> Option<String>,
    ) -> Option<Write> {
        if told.part.on_trial {
            return Some(settled(told, random, &pending()?));
        }
        let tried = self.trial().is_some() && random.percent(30);
        let query = if tried {
            format!("?{TRIAL}")
        } else {
            String::new()
        };
        let mut after = Part {
            on_trial: tried,
            ..told.part.clone()
        };
        let (method, path, body) = match self {
            Self::Deny(_) if random.percent(25) && !after.things.is_empty() => {
                let prefix = one_of(&after.things, random);
                after.things.remove(&prefix);
                ("DELETE", format!("/v1/deny/{prefix}"), None)
            }
            Self::Deny(network) if random.percent(30) => {
                let list = entries(network, random, n);
                let body = listed(&list);
                after.things.extend(list);
                ("POST", "/v1/deny".to_owned(), Some(body))
            }
            Self::Deny(network) => {
                let prefix = prefix(network, random.below(NETWORKS));
                after.things.insert(prefix.clone(), n.to_string());
                let body = json!({"reason": n.to_string()});
                ("PUT", format!("/v1/deny/{prefix}"), Some(body))
            }
            Self::Allow => {
                after.things = entries(ALLOWED, random, n);
                let body = listed(&after.things);
                ("PUT", format!("/v1/allow{query}"), Some(body))
            }
            Self::Rules => {
                let name = if random.percent(15) {
                    CONFIGURED.to_owned()
                } else {
                    format!("r{n}")
                };
                let body = (name != CONFIGURED).then(|| json!({"rules": [rule(&name)]}));
                let method = if body.is_some() { "PUT" } else { "DELETE" };
                after.things = BTreeMap::from([("rule".to_owned(), name)]);
                (method, format!("/v1/rules{query}"), body)
            }
            Self::Tokens if after.things.len() >= TOKENS || random.percent(40) => {
                let (name, _) = after.things.pop_first()?;
                ("DELETE", format!("/v1/tokens/{name}"), None)
            }
            Self::Tokens => {
                let name = format!("t{n}");
                after.things.insert(name.clone(), String::new());
                let body = json!({"name": name, "scopes": ["read"]});
                ("POST", "/v1/tokens".to_owned(), Some(body))
            }
            Self::Bans => {
                let (prefix, _) = after.things.pop_first()?;
                ("DELETE", format!("/v1/bans/{prefix}"), None)
            }
        };
        Some(Write {
            method,
            path,
            body,
            after,
        })
    }
}

/// The end of a trial, either way.
fn settled(told: &Told, random: &mut Random, id: &str) -> Write {
    let confirms = told.half_confirmed || random.percent(50);
    let after = if confirms {
        Part {
            on_trial: false,
            ..told.part.clone()
        }
    } else {
        told.before.clone()
    };
    let (method, path) = if confirms {
        ("POST", format!("/v1/pending/{id}/confirm"))
    } else {
        ("DELETE", format!("/v1/pending/{id}"))
    };
    Write {
        method,
        path,
        body: None,
        after,
    }
}

/// Calls of a source that a rule of this name lets through.
pub(crate) fn calls(rule: &str) -> u64 {
    let number = rule.strip_prefix('r').and_then(|n| n.parse::<u64>().ok());
    number.map_or(4, |n| 1 + n % 3)
}

fn rule(name: &str) -> Value {
    json!({"name": name, "connections": calls(name), "within": "1h", "ban": "1h"})
}

pub(crate) fn prefix(network: u8, n: u64) -> String {
    format!("10.{network}.{n}.0/24")
}

fn entries(network: u8, random: &mut Random, n: u64) -> BTreeMap<String, String> {
    let first = random.below(NETWORKS - ENTRIES);
    let prefixes = (first..first + ENTRIES).map(|i| (prefix(network, i), n.to_string()));
    prefixes.collect()
}

fn listed(entries: &BTreeMap<String, String>) -> Value {
    let entries = entries.iter();
    let listed = entries.map(|(prefix, reason)| json!({"prefix": prefix, "reason": reason}));
    listed.collect()
}

fn one_of(things: &BTreeMap<String, String>, random: &mut Random) -> String {
    let names: Vec<_> = things.keys().collect();
    (*random.of(&names)).clone()
}
