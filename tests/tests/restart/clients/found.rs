//! What is there after a start: for people, and in the verdict of the kernel.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value;

use super::part::{ALLOWED, CONFIGURED, Client, NETWORKS, Part, prefix};
use crate::scene::Scene;
use crate::wire::Wire;

/// The `n`-th caller whose ban a client may lift.
pub(super) fn banned(n: u64) -> Ipv4Addr {
    caller(0x13, n)
}

/// The `n`-th caller that rules are tried with.
pub(super) fn stranger(n: u64) -> Ipv4Addr {
    // 198.18.0.0/22 is the network's own.
    caller(0x12, n + 1024)
}

fn caller(network: u32, n: u64) -> Ipv4Addr {
    let host = u32::try_from(n % 60_000 + 1).expect("it is below 60 001");
    Ipv4Addr::from_bits((198 << 24) + (network << 16) + host)
}

/// The change on trial: what it changed, and its id.
pub(super) fn pending(found: &Value) -> Option<(String, String)> {
    let change = found["pending"].get(0)?;
    let text = |key: &str| change[key].as_str().map(str::to_owned);
    text("object").zip(text("id"))
}

/// A client's part, as the API tells it.
pub(super) fn part(scene: &Scene, client: Client) -> Part {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let below = |path: &str, start: &str| {
        let entries = scene.all(path).into_iter();
        let entries = entries.map(|entry| (text(&entry["prefix"]), text(&entry["reason"])));
        let of_it = entries.filter(|(prefix, _)| prefix.starts_with(start));
        of_it.collect()
    };
    let things = match client {
        Client::Deny(network) => below("/v1/deny", &format!("10.{network}.")),
        Client::Allow => below("/v1/allow", &format!("10.{ALLOWED}.")),
        Client::Rules => {
            let rules = scene.expect(200, "GET", "/v1/rules", None);
            let name = match &rules["rules_from"] {
                from if from == "api" => text(&rules["rules"][0]["name"]),
                _ => CONFIGURED.to_owned(),
            };
            BTreeMap::from([("rule".to_owned(), name)])
        }
        Client::Tokens => {
            let tokens = scene.expect(200, "GET", "/v1/tokens", None);
            let tokens = tokens["tokens"].as_array().expect("tokens").iter();
            let names = tokens.map(|token| (text(&token["name"]), String::new()));
            names.filter(|(name, _)| name != "first").collect()
        }
        Client::Bans => {
            let bans = scene.all("/v1/bans").into_iter();
            let bans = bans.map(|ban| (text(&ban["prefix"]), String::new()));
            bans.filter(|(prefix, _)| prefix.starts_with("198.19."))
                .collect()
        }
    };
    let on_trial = client.trial().is_some_and(|object| {
        let changes = scene.expect(200, "GET", "/v1/pending", None);
        pending(&changes).is_some_and(|(of, _)| of == object)
    });
    Part { things, on_trial }
}

/// That the kernel drops of all that clients write about what their parts say, and nothing else.
#[track_caller]
pub(super) fn assert_verdicts(wire: &Wire, parts: &[(Client, Part)], callers: u64) {
    let mut expected = BTreeMap::new();
    for (client, Part { things, .. }) in parts {
        let is_there = |prefix: &str| things.contains_key(prefix);
        match *client {
            Client::Deny(network) => {
                expected.extend(below(network).map(|(prefix, of)| (of, !is_there(&prefix))));
            }
            Client::Allow => {
                expected.extend(below(ALLOWED).map(|(prefix, of)| (of, is_there(&prefix))));
            }
            Client::Bans => {
                let banned = (0..callers).map(banned);
                expected.extend(banned.map(|of| (of, !is_there(&format!("{of}/32")))));
            }
            Client::Rules | Client::Tokens => {}
        }
    }
    let sources: Vec<_> = expected.keys().copied().collect();
    let passed = wire.passed(&sources, false);
    let wrong = expected
        .iter()
        .filter(|(of, passes)| passed.contains_key(of) != **passes);
    let wrong: Vec<_> = wrong.collect();
    assert!(
        wrong.is_empty(),
        "(source, whether it is to pass): {wrong:?}"
    );
}

/// The networks that a client writes about, each with one of its addresses.
fn below(network: u8) -> impl Iterator<Item = (String, Ipv4Addr)> {
    (0..NETWORKS).map(move |n| {
        let third = u8::try_from(n).expect("there are no more than 256");
        (prefix(network, n), Ipv4Addr::new(10, network, third, 1))
    })
}
