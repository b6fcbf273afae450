//! `/v1/callers`: who calls, how much, and how that stands.

use std::{cmp::Reverse, net::IpAddr};

use axum::{Json, extract::State};
use ipnet::IpNet;
use packetwatch_abi::Caller;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    App, blocking,
    bursts::{Burst, bursts},
    extract::{NoParams, Params, PathAddress},
    page::limit_in_bounds,
    problem::Problem,
    refusals::{BadParameter, Failed, Gated, Slow},
    windows::{Count, Moment, counts, distinct_ports, ports_shown},
};
use crate::{
    clock::Pair, config::Word as _, daemon::InForce, dataplane, prefix::Family, rules::RuleSet,
};

/// How a caller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CallerState {
    Counted,
    /// A rule's N lie in the window: the next call is dropped.
    OverThreshold,
    /// It has used up what a rule that limits lets pass: the next is dropped that comes before some of
    /// it is paid for.
    Limited,
    Banned,
    Allowed,
}

/// An address, or a unit that a rule counts by, and what was seen of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CallerEntry {
    #[schema(value_type = String, example = "198.51.100.7/32")]
    pub prefix: IpNet,
    /// Calls (TCP SYN without ACK) since it was first seen.
    pub connections: u64,
    /// Ports that it called within the longest window of a rule over ports; at most 64 are known.
    pub distinct_ports: u64,
    pub packets: u64,
    pub bytes: u64,
    /// Packets dropped by a threshold, a limit or its ban; in observe mode, those that would have been.
    pub dropped: u64,
    /// The rule that has banned it, whose N it has reached, or that limits it.
    #[serde(default)]
    pub rule: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: OffsetDateTime,
    pub state: CallerState,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Callers {
    pub callers: Vec<CallerEntry>,
    /// `enforce`, or `observe`: what counts as dropped was let pass.
    #[serde(default)]
    pub mode: String,
}

/// What callers are sorted by, most first.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    #[default]
    Connections,
    Packets,
    Bytes,
    Ports,
}

impl Sort {
    /// The word in a query.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Ports => "ports",
        }
    }
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CallersParams {
    #[serde(default)]
    #[param(inline)]
    sort: Sort,
    /// Callers at most.
    #[param(minimum = 1, maximum = 10_000, default = 100)]
    limit: Option<usize>,
}

/// Who calls, most first.
#[utoipa::path(get, path = "/v1/callers", tag = "callers", security(("token" = ["read"])), params(CallersParams), responses(
    (status = 200, description = "the callers", body = Callers),
    BadParameter, Gated, Failed, Slow,
))]
pub(super) async fn list_callers(
    State(app): State<App>,
    Params(CallersParams { sort, limit }): Params<CallersParams>,
) -> Result<Json<Callers>, Problem> {
    let limit = limit_in_bounds(limit)?;
    blocking(move || {
        let view = View::of(&app);
        let found = app.dataplane.callers().map_err(unreadable)?;
        let callers = most(found, limit, |caller| view.key(sort, caller));
        let entries = callers
            .iter()
            .map(|(unit, caller)| view.entry(*unit, caller));
        let callers = entries.collect::<Result<_, _>>().map_err(unreadable)?;
        Ok(Json(view.answer(callers)))
    })
    .await
}

/// One address, and the units that it is counted by; none if it was not seen.
#[utoipa::path(get, path = "/v1/callers/{*address}", tag = "callers", security(("token" = ["read"])),
    params(("address" = String, Path, description = "one address")),
    responses(
    (status = 200, description = "the callers", body = Callers),
    BadParameter, Gated, Failed, Slow,
))]
pub(super) async fn get_caller(
    State(app): State<App>,
    PathAddress(address): PathAddress,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<Callers>, Problem> {
    blocking(move || {
        let view = View::of(&app);
        let mut callers = Vec::new();
        for unit in units(address, &view.rules) {
            if let Some(caller) = app.dataplane.caller(unit).map_err(unreadable)? {
                callers.push(view.entry(unit, &caller).map_err(unreadable)?);
            }
        }
        Ok(Json(view.answer(callers)))
    })
    .await
}

pub(super) fn unreadable(error: dataplane::Error) -> Problem {
    Problem::internal("read the kernel's maps", &error)
}

/// The first `limit` by descending key; equal ones by prefix.
fn most<K: Ord>(
    mut callers: Vec<(IpNet, Caller)>,
    limit: usize,
    key: impl Fn(&Caller) -> K,
) -> Vec<(IpNet, Caller)> {
    callers.sort_by_cached_key(|(unit, caller)| (Reverse(key(caller)), *unit));
    callers.truncate(limit);
    callers
}

/// The prefixes that an address may be counted and banned by, most specific first.
pub(super) fn units(address: IpAddr, rules: &RuleSet) -> Vec<IpNet> {
    let single = IpNet::from(address);
    let family = if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    let mut lengths = rules.units(family);
    lengths.push(single.max_prefix_len());
    lengths.sort_unstable_by_key(|length| Reverse(*length));
    lengths.dedup();
    let unit = |length| IpNet::new(address, length).ok().map(|unit| unit.trunc());
    lengths.into_iter().filter_map(unit).collect()
}

/// All that the maps are judged against, read once a request.
pub(super) struct View<'a> {
    app: &'a App,
    pub rules: RuleSet,
    pub now: Pair,
    generation: u32,
}

impl<'a> View<'a> {
    pub(super) fn of(app: &'a App) -> Self {
        let InForce {
            rules, generation, ..
        } = app.rules.in_force();
        Self {
            app,
            rules,
            now: app.clock.pair(),
            generation,
        }
    }

    fn answer(&self, callers: Vec<CallerEntry>) -> Callers {
        Callers {
            callers,
            mode: self.app.rules.mode().word().to_owned(),
        }
    }

    /// What the rules count of a caller.
    pub(super) fn counts(
        &self,
        unit: IpNet,
        caller: &Caller,
    ) -> Result<Vec<Count<'_>>, dataplane::Error> {
        let ended = self.app.dataplane.ban_of(unit)?.map_or(0, |ban| ban.until);
        // A ban that stands does not void what led to it.
        let ended = if ended <= self.now.monotonic_ns {
            ended
        } else {
            0
        };
        Ok(counts(
            unit,
            caller,
            &self.rules,
            self.moment_of(unit, ended),
        ))
    }

    /// What the rules that limit leave a caller.
    pub(super) fn bursts(&self, unit: IpNet, caller: &Caller) -> Vec<Burst<'_>> {
        bursts(unit, caller, &self.rules, self.moment_of(unit, 0))
    }

    /// The bans in force that hold this unit: its own and those of wider ones, most specific first.
    ///
    /// A ban outlives the rule that set it, and with it the length that the program looks up, so
    /// the lists are asked besides today's units; the kernel has the last word on each.
    pub(super) fn bans(
        &self,
        unit: IpNet,
    ) -> Result<Vec<(IpNet, dataplane::Ban)>, dataplane::Error> {
        let mut prefixes = units(unit.addr(), &self.rules);
        let known = self.app.lists.covering(unit.addr()).bans;
        prefixes.extend(known.into_iter().map(|ban| ban.prefix));
        prefixes.retain(|prefix| prefix.prefix_len() <= unit.prefix_len());
        prefixes.sort_unstable_by_key(|prefix| Reverse(prefix.prefix_len()));
        prefixes.dedup();
        let mut bans = Vec::new();
        for wider in prefixes {
            if let Some(ban) = self.app.dataplane.ban_of(wider)?
                && self.now.monotonic_ns < ban.until
            {
                bans.push((wider, ban));
            }
        }
        Ok(bans)
    }

    /// `ended`: of the last ban of the unit.
    fn moment_of(&self, unit: IpNet, ended: u64) -> Moment {
        Moment {
            ended,
            shared_len: self.app.lists.shared_len(unit),
            ..self.moment()
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.now.monotonic_ns,
            generation: self.generation,
            ended: 0,
            shared_len: 0,
        }
    }

    fn key(&self, sort: Sort, caller: &Caller) -> u64 {
        match sort {
            Sort::Connections => caller.calls,
            Sort::Packets => caller.packets,
            Sort::Bytes => caller.bytes,
            Sort::Ports => distinct_ports(caller, ports_shown(&self.rules), self.moment()),
        }
    }

    fn entry(&self, unit: IpNet, caller: &Caller) -> Result<CallerEntry, dataplane::Error> {
        let allowed = self.app.lists.allowed_inside(unit);
        let bans = self.bans(unit)?;
        let counts = self.counts(unit, caller)?;
        let full = counts.iter().find(|count| count.is_full());
        let bursts = self.bursts(unit, caller);
        let spent = bursts.iter().find(|burst| burst.is_spent());
        let (state, rule) = if allowed.iter().any(|allowed| allowed.contains(&unit)) {
            (CallerState::Allowed, None)
        } else if let Some((prefix, _)) = bans.first() {
            let known = self.app.lists.covering(unit.addr()).bans;
            let ban = known.into_iter().find(|ban| ban.prefix == *prefix);
            (CallerState::Banned, ban.map(|ban| ban.rule))
        } else if let Some(count) = full {
            (CallerState::OverThreshold, Some(count.rule.name.clone()))
        } else if let Some(burst) = spent {
            (CallerState::Limited, Some(burst.rule.name.clone()))
        } else {
            (CallerState::Counted, None)
        };
        let ban = self.app.dataplane.ban_of(unit)?;
        Ok(CallerEntry {
            prefix: unit,
            connections: caller.calls,
            distinct_ports: self.key(Sort::Ports, caller),
            packets: caller.packets,
            bytes: caller.bytes,
            dropped: caller.dropped + ban.map_or(0, |ban| ban.packets),
            rule,
            first_seen: self.now.utc_of_past(caller.first_seen),
            last_seen: self.now.utc_of_past(caller.last_seen),
            state,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::windows::tests::caller;

    #[test]
    fn most_come_first_and_equals_by_prefix() {
        let of = |prefix: &str, calls| {
            let caller = Caller { calls, ..caller() };
            (prefix.parse::<IpNet>().unwrap(), caller)
        };
        let all = vec![
            of("198.51.100.9/32", 3),
            of("2001:db8::/64", 7),
            of("198.51.100.1/32", 3),
        ];
        let order = |limit| {
            let sorted = most(all.clone(), limit, |caller| caller.calls);
            sorted
                .iter()
                .map(|(unit, _)| unit.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            order(9),
            ["2001:db8::/64", "198.51.100.1/32", "198.51.100.9/32"]
        );
        assert_eq!(order(1), ["2001:db8::/64"]);
    }

    #[test]
    fn an_address_has_the_units_of_the_rules_and_itself() {
        let shown = |address: &str| {
            let units = units(address.parse().unwrap(), &RuleSet::default());
            units.iter().map(IpNet::to_string).collect::<Vec<_>>()
        };
        assert_eq!(shown("198.51.100.7"), ["198.51.100.7/32"]);
        assert_eq!(shown("2001:db8::7"), ["2001:db8::7/128", "2001:db8::/64"]);
    }
}
