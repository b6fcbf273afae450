//! The writes of a crash test, numbered from 0 on, and what is on disk after each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use packetwatch::clock::Clock;
use packetwatch::lists::{BanOrder, Capacity, Force, List, Lists, NewEntry, PageQuery};
use packetwatch::rules::BanLength;
use packetwatch::tokens::{NewToken, Scope, Tokens};

use crate::maps::NoMaps;

/// The writes of one turn.
const TURN: u64 = 10;
/// Writes until the prefixes come again: what is on disk is of the last so many, and is compared
/// in a moment after any number of rounds.
const PREFIXES: u64 = 50 * TURN;
/// Entries of a replaced list.
const REPLACED: u64 = 50;
/// Longer than any test.
const LONG: Duration = Duration::from_secs(12 * 3600);

/// The lists and tokens of a state directory.
pub(crate) struct Stored {
    pub(crate) lists: Lists,
    pub(crate) tokens: Tokens,
}

impl Stored {
    pub(crate) fn open(dir: &Path) -> Self {
        let capacity = Capacity {
            lists: 500_000,
            bans: 2 * PREFIXES as u32,
        };
        let lists = Lists::open(dir, NoMaps, capacity, Clock::new());
        Self {
            lists: lists.expect("a killed writer leaves a sound journal"),
            tokens: Tokens::open(dir, Clock::new()).expect("and sound tokens"),
        }
    }

    /// The `n`-th write, which is on disk when this returns.
    pub(crate) fn write(&self, n: u64) {
        let put = |n| {
            let put = self.lists.put(List::Deny, entry(host(n), n), Force(false));
            put.expect("a sound disk");
        };
        match n % TURN {
            2 => drop(self.lists.remove(List::Deny, host(n - 2)).unwrap()),
            3 => {
                let list = (0..REPLACED).map(|i| entry(host(n + i), n)).collect();
                self.lists.replace(List::Allow, list).unwrap();
            }
            // Bans wait for no disk; they are on it with the next write of a list.
            4 => {
                self.lists.ban(order(host(n))).unwrap();
                put(n);
            }
            5 if lifts(n) => drop(self.lists.unban(host(n - 1)).unwrap()),
            6 => {
                let writing = self.lists.confirming(Some(LONG));
                let put = writing.put(List::Deny, entry(host(n), n), Force(false));
                put.unwrap();
            }
            7 => self.lists.confirm().unwrap(),
            8 => {
                let now = Clock::new().utc();
                drop(self.tokens.create(token(n), now).unwrap());
            }
            // The first turn has none of a turn before.
            9 if n < TURN => {}
            9 => drop(self.tokens.revoke(&name(n - 1 - TURN)).unwrap()),
            _ => put(n),
        }
    }

    pub(crate) fn state(&self) -> State {
        let rows = |list| {
            let page = |cursor| {
                let query = page_after(cursor);
                let page = self.lists.page(list, query).unwrap();
                (page.entries, page.next)
            };
            all(page)
        };
        let bans = all(|cursor| {
            let page = self.lists.bans(page_after(cursor)).unwrap();
            (page.entries, page.next)
        });
        let with_write = |row: packetwatch::lists::Row| {
            let reason = row.reason.expect("a reason");
            (row.prefix, reason.parse().expect("the number of a write"))
        };
        State {
            deny: rows(List::Deny).into_iter().map(with_write).collect(),
            allow: rows(List::Allow).into_iter().map(with_write).collect(),
            bans: bans.into_iter().map(|ban| ban.prefix).collect(),
            tokens: self
                .tokens
                .list()
                .into_iter()
                .map(|(token, _)| token.name)
                .collect(),
            is_on_trial: self.lists.pending().is_some(),
        }
    }
}

/// What people find there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// by prefix, with the write that put it
    deny: BTreeMap<IpNet, u64>,
    allow: BTreeMap<IpNet, u64>,
    bans: BTreeSet<IpNet>,
    tokens: BTreeSet<String>,
    is_on_trial: bool,
}

impl State {
    /// After the writes before `next`.
    pub(crate) fn after(next: u64) -> Self {
        let mut state = Self::default();
        state.tokens.insert("first".to_owned());
        let first = next.saturating_sub(2 * PREFIXES) / TURN * TURN;
        (first..next).for_each(|n| state.apply(n));
        state
    }

    fn apply(&mut self, n: u64) {
        match n % TURN {
            2 => drop(self.deny.remove(&host(n - 2))),
            3 => self.allow = (0..REPLACED).map(|i| (host(n + i), n)).collect(),
            5 if lifts(n) => drop(self.bans.remove(&host(n - 1))),
            7 => self.is_on_trial = false,
            8 => drop(self.tokens.insert(name(n))),
            9 if n < TURN => {}
            9 => drop(self.tokens.remove(&name(n - 1 - TURN))),
            write => {
                self.deny.insert(host(n), n);
                if write == 4 {
                    self.bans.insert(host(n));
                }
                self.is_on_trial = write == 6;
            }
        }
    }

    /// As it is after the writes before `next`. The ban of that write may be there without its
    /// entry, since it was not acknowledged by itself.
    pub(crate) fn is_as_of(&self, next: u64) -> bool {
        let mut expected = Self::after(next);
        if next % TURN == 4 && self.bans.contains(&host(next)) {
            expected.bans.insert(host(next));
        }
        *self == expected
    }
}

/// Every second turn keeps its ban.
fn lifts(n: u64) -> bool {
    n / TURN % 2 == 1
}

fn host(n: u64) -> IpNet {
    let [.., a, b, c] = (n % PREFIXES).to_be_bytes();
    IpNet::from(IpAddr::from([10, a, b, c]))
}

fn entry(prefix: IpNet, write: u64) -> NewEntry {
    NewEntry {
        prefix,
        reason: Some(write.to_string()),
        ttl: None,
    }
}

fn order(prefix: IpNet) -> BanOrder {
    BanOrder {
        prefix,
        rule: "crash".to_owned(),
        offender: prefix.addr(),
        reason: "three ports".to_owned(),
        ban: BanLength::For(LONG),
        escalate: 1.0,
        max_ban: LONG,
        within: Duration::from_secs(5),
        trial: None,
    }
}

fn name(n: u64) -> String {
    format!("of-write-{n}")
}

fn token(n: u64) -> NewToken {
    NewToken {
        name: Some(name(n)),
        scopes: vec![Scope::Read],
        ttl: None,
    }
}

pub(crate) fn page_after(cursor: Option<String>) -> PageQuery {
    PageQuery {
        limit: PageQuery::MAX_LIMIT,
        cursor,
        ..PageQuery::default()
    }
}

/// Page after page, to the last.
pub(crate) fn all<R>(mut page: impl FnMut(Option<String>) -> (Vec<R>, Option<String>)) -> Vec<R> {
    let (mut rows, mut next) = page(None);
    while let Some(cursor) = next {
        let (more, after) = page(Some(cursor));
        rows.extend(more);
        next = after;
    }
    rows
}

#[test]
fn the_last_writes_tell_the_whole_state() {
    for next in (0..5 * PREFIXES).step_by(37) {
        let mut whole = State::after(0);
        (0..next).for_each(|n| whole.apply(n));
        assert_eq!(State::after(next), whole, "after {next}");
    }
}

#[test]
fn a_state_is_told_from_that_before_and_after_each_write() {
    for next in (0..3 * TURN).chain(3 * PREFIXES - TURN..3 * PREFIXES + TURN) {
        assert!(State::after(next).is_as_of(next));
        if next != 9 {
            assert!(!State::after(next).is_as_of(next + 1), "{next}");
            assert!(!State::after(next + 1).is_as_of(next), "{next}");
        }
    }
}
