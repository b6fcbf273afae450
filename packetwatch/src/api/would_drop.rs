//! Whom a change cuts off: said in its answer, before it is too late to take it back.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::request::Parts,
};
use ipnet::IpNet;
use packetwatch_abi::Caller;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::{
    App,
    callers::unreadable,
    explain::judge,
    peer::Peer,
    problem::Problem,
    windows::{Moment, counts, distinct_ports},
};
use crate::{
    lists::{Lists, Saved, UnitLengths},
    protect::{self, Sessions, Settings},
    rules::{Rule, RuleSet, Trigger},
    tokens::Tokens,
};

/// As many are named in an answer.
const SHOWN: usize = 100;

/// Somebody whom a change cuts off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WouldDrop {
    /// A peer's address, or the unit that a rule counts by.
    #[schema(value_type = String, example = "198.51.100.7/32")]
    pub prefix: IpNet,
    /// Who it is, if that is known: `who asks`, a session, an API client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The rule that is exceeded already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What lies in its window, at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<u64>,
    /// Its N.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// The address of who asks; none over the unix socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker(Option<IpAddr>);

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<ConnectInfo<Peer>>();
        let address = match peer {
            Some(ConnectInfo(Peer::Tcp(address))) => Some(address.ip().to_canonical()),
            _ => None,
        };
        Ok(Self(address.filter(|address| !address.is_loopback())))
    }
}

/// Who works on this host from elsewhere: sessions, and API clients that were let in by a
/// token.
#[derive(Clone)]
pub struct Peers {
    sessions: Sessions,
    tokens: Tokens,
    settings: watch::Receiver<Settings>,
}

impl Peers {
    pub fn new(sessions: Sessions, tokens: Tokens, settings: watch::Receiver<Settings>) -> Self {
        Self {
            sessions,
            tokens,
            settings,
        }
    }

    /// Protects those who came since the protected set was last looked at, so that a change is judged
    /// and answered as it will be after the next look. What cannot be is tried again then, and told.
    pub fn protect(&self, lists: &Lists) {
        if !self.settings.borrow().sessions {
            return;
        }
        let before = lists.protected();
        let known = protect::protectable(self.known(Asker(None)));
        let is_protected = |(prefix, _): &(IpNet, String)| {
            let found = before.binary_search_by_key(prefix, |(protected, _)| *protected);
            found.is_ok()
        };
        if !known.iter().all(is_protected) && lists.protect_also(&known).is_ok() {
            protect::tell(&before, &lists.protected());
        }
    }

    /// Each address once, with what it is.
    fn known(&self, asker: Asker) -> Vec<(IpAddr, String)> {
        let asker = asker.0.map(|address| (address, "who asks".to_owned()));
        let clients = self.tokens.seen().into_iter();
        let clients = clients.map(|address| (address, "API client with a token".to_owned()));
        let mut seen = HashSet::new();
        let all = asker
            .into_iter()
            .chain(self.sessions.current())
            .chain(clients);
        all.filter(|(address, _)| !address.is_loopback() && seen.insert(*address))
            .collect()
    }
}

/// Peers that were let through before a change.
pub(super) struct Watched(Vec<(IpAddr, String)>);

impl Watched {
    pub(super) fn of(app: &App, asker: Asker) -> Result<Self, Problem> {
        let mut passed = Vec::new();
        for (address, peer) in app.peers.known(asker) {
            if !judge(app, address)?.is_cut_off() {
                passed.push((address, peer));
            }
        }
        Ok(Self(passed))
    }

    /// All of them, where nobody was dropped before.
    pub(super) fn by_nobody(app: &App, asker: Asker) -> Self {
        Self(app.peers.known(asker))
    }

    /// Those whom these lists and bans would drop, if they took the place of what there is.
    pub(super) fn dropped_by(self, app: &App, saved: &Saved) -> Vec<WouldDrop> {
        let addresses = self.0.iter().map(|(address, _)| *address);
        let dropped = app.lists.would_drop(saved, addresses).into_iter();
        let mut peers: HashMap<IpAddr, String> = self.0.into_iter().collect();
        let told = dropped.map(|(address, rule)| WouldDrop {
            prefix: IpNet::from(address),
            peer: peers.remove(&address),
            rule,
            counted: None,
            limit: None,
        });
        told.take(SHOWN).collect()
    }

    /// Those whose next call would be dropped now.
    pub(super) fn dropped_since(self, app: &App) -> Result<Vec<WouldDrop>, Problem> {
        let mut dropped = Vec::new();
        for (address, peer) in self.0 {
            let explained = judge(app, address)?;
            if explained.is_cut_off() && dropped.len() < SHOWN {
                let because = explained.because.into_iter();
                dropped.push(WouldDrop {
                    prefix: IpNet::from(address),
                    peer: Some(peer),
                    rule: because.into_iter().find_map(|because| because.rule),
                    counted: None,
                    limit: None,
                });
            }
        }
        Ok(dropped)
    }
}

/// The callers that exceed one of these rules already, as far as what is kept of them tells: peers
/// first, then those furthest beyond. At most [`SHOWN`].
///
/// Other rules count from nothing, so none of these is dropped at once; whoever goes on as before
/// is.
pub(super) fn beyond(app: &App, rules: &RuleSet, asker: Asker) -> Result<Vec<WouldDrop>, Problem> {
    let in_force = app.rules.in_force();
    let moment = Moment {
        now: app.clock.monotonic_ns(),
        generation: in_force.generation,
        ended: 0,
        shared_len: 0,
    };
    let peers = app.peers.known(asker);
    let mut found = Vec::new();
    let lengths = UnitLengths::of([rules]);
    let read = app.dataplane.each_caller(|unit, caller| {
        let shared_len = app.lists.shared_len_of(&lengths, unit);
        let is_counted = |rule: &&Rule| rule.bans() && rule.unit(unit.addr(), shared_len) == unit;
        let moment = Moment {
            shared_len: app.lists.shared_len(unit),
            ..moment
        };
        let exceeded = rules.iter().filter(is_counted).find_map(|rule| {
            let counted = counted(unit, caller, rule, &in_force.rules, moment);
            (counted >= rule.trigger.count()).then_some((rule, counted))
        });
        if let Some((rule, counted)) = exceeded {
            let peer = peers.iter().find(|(address, _)| unit.contains(address));
            found.push(WouldDrop {
                prefix: unit,
                peer: peer.map(|(_, peer)| peer.clone()),
                rule: Some(rule.name.clone()),
                counted: Some(counted),
                limit: Some(rule.trigger.count()),
            });
        }
    });
    read.map_err(unreadable)?;
    // No rule applies to who is allowed.
    found.retain(|caller| {
        let allowed = app.lists.allowed_inside(caller.prefix);
        !allowed
            .iter()
            .any(|allowed| allowed.contains(&caller.prefix))
    });
    found.sort_by_key(|caller| {
        let times = caller.counted.unwrap_or(0) / caller.limit.unwrap_or(1).max(1);
        (caller.peer.is_none(), Reverse(times), caller.prefix)
    });
    found.truncate(SHOWN);
    Ok(found)
}

/// What this caller has done of what `rule` counts within its window, at least: by what the rules
/// in force count in windows that are no longer, and by all that it did if it is that new.
fn counted(unit: IpNet, caller: &Caller, rule: &Rule, in_force: &RuleSet, moment: Moment) -> u64 {
    let same = std::mem::discriminant(&rule.trigger);
    let known = counts(unit, caller, in_force, moment).into_iter();
    let known = known.filter(|count| {
        let is_same = std::mem::discriminant(&count.rule.trigger) == same;
        is_same && count.rule.within <= rule.within
    });
    let known = known.map(|count| count.counted).max().unwrap_or(0);
    let age = moment.now.saturating_sub(caller.first_seen);
    let is_new = u128::from(age) <= rule.within.as_nanos();
    let all = match rule.trigger {
        Trigger::DistinctPorts(_) => distinct_ports(caller, rule.within, moment),
        Trigger::Connections(_) if is_new => caller.calls,
        Trigger::Packets(_) if is_new => caller.packets,
        Trigger::Bytes(_) if is_new => caller.bytes,
        _ => 0,
    };
    known.max(all)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::windows::tests::caller;

    const SECOND: u64 = 1_000_000_000;

    fn within(trigger: Trigger, seconds: u64) -> Rule {
        Rule {
            within: Duration::from_secs(seconds),
            ..Rule::new("rule", trigger)
        }
    }

    #[test]
    fn a_caller_that_is_new_is_judged_by_all_that_it_did() {
        let none = RuleSet::validate(Vec::new()).unwrap();
        let unit = "198.51.100.7/32".parse().unwrap();
        let caller = Caller {
            first_seen: 990 * SECOND,
            calls: 7,
            ..caller()
        };
        let counted = |rule: &Rule| {
            let moment = Moment {
                now: 1000 * SECOND,
                generation: 1,
                ended: 0,
                shared_len: 0,
            };
            counted(unit, &caller, rule, &none, moment)
        };
        assert_eq!(counted(&within(Trigger::Connections(5), 10)), 7);
        assert_eq!(
            counted(&within(Trigger::Connections(5), 9)),
            0,
            "some of them may be older"
        );
    }
}
