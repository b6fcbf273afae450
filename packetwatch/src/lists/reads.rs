//! What is asked of the lists. Nothing here waits for the disk.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use packetwatch_abi::{NO_SLOT, capacity};

use super::{
    Lists,
    bans::Held,
    entry::{BanEntry, BanRow, ByFamily, Counts, Covering, Entry, List, Page, PageQuery, Row},
    error::WriteError,
    prefix_map::address,
    shelf::{Listed, Node, Shelf},
    state::State,
};
use crate::dataplane::{self, ListUse};

/// Above so many entries a listing shows no hits.
const HITS_UP_TO: usize = capacity::LIST_HITS as usize;

impl Lists {
    /// Live entries in the order of their prefixes.
    ///
    /// # Errors
    /// [`WriteError::Cursor`]; [`WriteError::Kernel`] if the hits cannot be read.
    pub fn page(&self, list: List, query: PageQuery) -> Result<Page<Row>, WriteError> {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let cursor = read_cursor(&query)?;
        let (rows, with_hits) = {
            let state = shared.state();
            let shown =
                |(prefix, node): (IpNet, &Node)| Some((prefix, node.shown(list, now)?.clone()));
            let rows: Vec<(IpNet, Listed)> = match query.contains {
                Some(addr) => cut(
                    in_order(state.nodes.covering(address(addr)).collect(), cursor)
                        .filter_map(shown),
                    &query,
                ),
                None => cut(state.nodes.after(cursor).filter_map(shown), &query),
            };
            (rows, count(&state, list, now).total() <= HITS_UP_TO)
        };
        let row = |(prefix, listed): (IpNet, Listed)| -> Result<Row, dataplane::Error> {
            let hits = match with_hits && listed.slot != NO_SLOT {
                true => Some(shared.maps.list_hits(listed.slot)?),
                false => None,
            };
            let Entry {
                prefix,
                reason,
                source,
                created_at,
                expires_at,
            } = listed.about.entry(prefix);
            Ok(Row {
                prefix,
                reason,
                source,
                created_at,
                expires_at,
                packets: hits.map(|hits| hits.packets),
                bytes: hits.map(|hits| hits.bytes),
            })
        };
        paged(rows, &query, |(prefix, _)| *prefix, row)
    }

    /// Live bans in the order of their prefixes.
    ///
    /// # Errors
    /// As [`Lists::page`].
    pub fn bans(&self, query: PageQuery) -> Result<Page<BanRow>, WriteError> {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let cursor = read_cursor(&query)?;
        let (rows, with_hits) = {
            let bans = shared.bans();
            let entry = |held: &Held| held.entry.clone();
            let rows: Vec<BanEntry> = match query.contains {
                Some(addr) => {
                    let covering = bans.covering(address(addr), now);
                    let covering = covering.map(|held| (held.entry.prefix, held)).collect();
                    cut(
                        in_order(covering, cursor).map(|(_, held)| entry(held)),
                        &query,
                    )
                }
                None => cut(bans.after(cursor, now).map(entry), &query),
            };
            (rows, bans.len() <= HITS_UP_TO)
        };
        let row = |entry: BanEntry| -> Result<BanRow, dataplane::Error> {
            let ban = match with_hits {
                true => shared.maps.ban_of(entry.prefix)?,
                false => None,
            };
            let BanEntry {
                prefix,
                rule,
                reason,
                offender,
                repeat,
                created_at,
                expires_at,
            } = entry;
            Ok(BanRow {
                prefix,
                rule,
                reason,
                offender,
                repeat,
                created_at,
                expires_at,
                packets: ban.map(|ban| ban.packets),
                bytes: ban.map(|ban| ban.bytes),
            })
        };
        paged(rows, &query, |entry| entry.prefix, row)
    }

    /// The rules whose bans are in force: how many, and the packets that they have dropped, or in
    /// observe mode would have. A read of the kernel for each ban.
    ///
    /// # Errors
    /// The hits cannot be read.
    pub fn bans_by_rule(&self) -> Result<BTreeMap<String, (usize, u64)>, dataplane::Error> {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let live: Vec<(IpNet, String)> = {
            let bans = shared.bans();
            let live = bans.after(None, now);
            live.map(|held| (held.entry.prefix, held.entry.rule.clone()))
                .collect()
        };
        let mut by_rule = BTreeMap::<_, (usize, u64)>::new();
        for (prefix, rule) in live {
            let packets = shared.maps.ban_of(prefix)?.map_or(0, |ban| ban.packets);
            let of_rule = by_rule.entry(rule).or_default();
            *of_rule = (of_rule.0 + 1, of_rule.1 + packets);
        }
        Ok(by_rule)
    }

    /// Whether an address is allowed or protected. Waits for no write, however large.
    pub fn is_allowed(&self, addr: IpAddr) -> bool {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        shared.exempt.covers(address(addr), now)
    }

    /// Whether something allowed or protected lies inside a prefix or covers it. Waits for no write,
    /// however large.
    pub fn holds_allowed(&self, prefix: IpNet) -> bool {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        shared.exempt.touches(prefix.trunc(), now)
    }

    /// Whether a ban of an address, or of a prefix around it, is in force. Waits for no write.
    pub fn is_banned(&self, addr: IpAddr) -> bool {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let bans = shared.bans();
        bans.covering(address(addr), now).next().is_some()
    }

    /// Live allow entries, protected ones included, that lie inside a prefix or cover it.
    pub fn allowed_inside(&self, prefix: IpNet) -> Vec<IpNet> {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let prefix = prefix.trunc();
        let state = shared.state();
        let covering = state.nodes.covering(prefix);
        let inside = state.nodes.inside(prefix).filter(|(p, _)| *p != prefix);
        covering
            .chain(inside)
            .filter(|(_, node)| node.shown(List::Allow, now).is_some())
            .map(|(prefix, _)| prefix)
            .collect()
    }

    /// Those of these prefixes that are protected: to deny one of them takes force.
    pub fn protected_among(&self, prefixes: impl IntoIterator<Item = IpNet>) -> HashSet<IpNet> {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let state = shared.state();
        let prefixes = prefixes.into_iter().map(|prefix| prefix.trunc());
        prefixes
            .filter(|prefix| state.is_protected(*prefix, now))
            .collect()
    }

    /// What is listed for an address.
    pub fn covering(&self, addr: IpAddr) -> Covering {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let (allow, deny) = {
            let state = shared.state();
            let of = |list| state.covering(list, addr, now);
            (of(List::Allow), of(List::Deny))
        };
        let bans = shared.bans();
        let bans = bans.covering(address(addr), now);
        Covering {
            allow,
            deny,
            bans: bans.map(|held| held.entry.clone()).collect(),
        }
    }

    /// What is listed, of what there is room for.
    pub fn usage(&self) -> ListUse {
        let state = self.0.shared.state();
        ListUse {
            written: state.written(),
            protected: state.count(Shelf::Protected).total(),
        }
    }

    pub fn counts(&self) -> Counts {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let (allow, deny) = {
            let state = shared.state();
            (
                count(&state, List::Allow, now),
                count(&state, List::Deny, now),
            )
        };
        Counts {
            allow,
            deny,
            bans: shared.bans().counts(),
        }
    }
}

/// Entries of a list; a protected prefix that is also allowed by hand is one entry.
fn count(state: &State, list: List, now: u64) -> ByFamily {
    let mut count = state.count(list.into());
    if list == List::Allow {
        for (prefix, node) in state.protected() {
            if node.on(Shelf::Allow).is_none() && node.protection(now).is_some() {
                *count.of(prefix) += 1;
            }
        }
    }
    count
}

fn read_cursor(query: &PageQuery) -> Result<Option<IpNet>, WriteError> {
    let Some(cursor) = &query.cursor else {
        return Ok(None);
    };
    let prefix: Option<IpNet> = cursor.parse().ok();
    match prefix {
        Some(prefix) => Ok(Some(prefix.trunc())),
        None => Err(WriteError::Cursor {
            cursor: cursor.chars().take(64).collect(),
        }),
    }
}

/// What covers an address, behind the cursor and in the order of prefixes.
fn in_order<T>(
    mut covering: Vec<(IpNet, T)>,
    cursor: Option<IpNet>,
) -> impl Iterator<Item = (IpNet, T)> {
    covering.sort_by_key(|(prefix, _)| *prefix);
    let behind = move |(prefix, _): &(IpNet, T)| cursor.is_none_or(|cursor| *prefix > cursor);
    covering.into_iter().filter(behind)
}

/// One more than asked for, which tells whether there is a next page.
fn cut<T>(rows: impl Iterator<Item = T>, query: &PageQuery) -> Vec<T> {
    rows.take(limit(query) + 1).collect()
}

fn limit(query: &PageQuery) -> usize {
    query.limit.clamp(1, PageQuery::MAX_LIMIT)
}

fn paged<T, R>(
    mut rows: Vec<T>,
    query: &PageQuery,
    prefix: impl Fn(&T) -> IpNet,
    row: impl FnMut(T) -> Result<R, dataplane::Error>,
) -> Result<Page<R>, WriteError> {
    let is_more = rows.len() > limit(query);
    rows.truncate(limit(query));
    let next = rows
        .last()
        .filter(|_| is_more)
        .map(|last| prefix(last).to_string());
    let entries: Result<Vec<R>, dataplane::Error> = rows.into_iter().map(row).collect();
    Ok(Page {
        entries: entries?,
        next,
    })
}
