//! What happens in the daemon, counted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::dataplane;

/// Rules that have a series of their own; bans of further ones are counted as `other`. Over the
/// API rules get ever new names.
pub(super) const MAX_RULE_NAMES: usize = 64;

/// What happens in the daemon and is counted nowhere else. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<Counted>>);

#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) bans: BTreeMap<String, u64>,
    pub(super) map_full: BTreeMap<&'static str, u64>,
    pub(super) map_errors: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) map_differences: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) detached: BTreeMap<&'static str, u64>,
    pub(super) pins_lost: u64,
    pub(super) evicted: BTreeMap<&'static str, u64>,
    pub(super) crowded: bool,
    pub(super) auth_failed: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// A rule has set a ban.
    pub fn ban(&self, rule: &str) {
        self.with(|counted| {
            let known = counted.bans.contains_key(rule) || counted.bans.len() < MAX_RULE_NAMES;
            let name = if known { rule } else { "other" };
            *counted.bans.entry(name.to_owned()).or_default() += 1;
        });
    }

    /// A write found the map at capacity: `lists` or `bans`.
    pub fn map_full(&self, map: &'static str) {
        self.with(|counted| *counted.map_full.entry(map).or_default() += 1);
    }

    /// The kernel did not take an entry: a map without room is full, as one at its capacity is.
    pub fn refused(&self, map: &'static str, error: &dataplane::Error) {
        if error.is_full() {
            self.map_full(map);
        } else {
            self.map_error(map, error.cause());
        }
    }

    /// A map could not be read or written.
    pub fn map_error(&self, map: &'static str, error: &'static str) {
        self.with(|counted| *counted.map_errors.entry((map, error)).or_default() += 1);
    }

    /// Entries of a map were found other than they should be: `missing`, `changed`, `foreign`.
    pub fn map_differences(&self, map: &'static str, kind: &'static str, entries: u64) {
        self.with(|counted| *counted.map_differences.entry((map, kind)).or_default() += entries);
    }

    /// An interface was filtered no more: `gone`, or the program was `taken-off` or `replaced`.
    pub fn detached(&self, cause: &'static str) {
        self.with(|counted| *counted.detached.entry(cause).or_default() += 1);
    }

    /// Pins of an interface were found taken away.
    pub fn pins_lost(&self) {
        self.with(|counted| counted.pins_lost += 1);
    }

    /// Callers were forgotten: they were `idle`, or the table was `crowded`.
    pub fn evicted(&self, cause: &'static str, callers: u64) {
        self.with(|counted| *counted.evicted.entry(cause).or_default() += callers);
    }

    /// Callers that a rule holds something of are forgotten for want of room, or are no more.
    pub fn set_crowded(&self, crowded: bool) {
        self.with(|counted| counted.crowded = crowded);
    }

    /// What [`Counters::set_crowded`] has said last.
    pub fn is_crowded(&self) -> bool {
        self.with(|counted| counted.crowded)
    }

    /// A request over the API was not let in: `no-token`, `wrong-token`, `expired-token`, `scope`
    /// or `user`.
    pub fn auth_failed(&self, cause: &'static str) {
        self.with(|counted| *counted.auth_failed.entry(cause).or_default() += 1);
    }

    /// All that [`Counters::evicted`] has counted.
    pub fn all_evicted(&self) -> u64 {
        self.with(|counted| counted.evicted.values().sum())
    }

    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Counted) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
