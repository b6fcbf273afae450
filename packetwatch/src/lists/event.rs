//! Log lines of the lists. The fields are those of the Elastic Common Schema.

use ipnet::IpNet;
use packetwatch_abi::capacity;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{Level, event};

use super::{
    entry::{BanEntry, Entry, List},
    recover::Recovered,
    restore::Restored,
    salvage::Salvage,
    shelf::Shelf,
    touched::{Prefixes, Touched},
};
use crate::pending::Told;

/// Lines with this target are events: they have an `event.action` and are streamed.
const TARGET: &str = "packetwatch::event";
const EXPIRED: &str = "ban-expired";
/// The log's queue has room for eight times as many.
const PROTECTED_LINES: usize = 1000;

fn added_to(list: List) -> &'static str {
    match list {
        List::Allow => "allow-added",
        List::Deny => "deny-added",
    }
}

fn removed_from(list: List) -> &'static str {
    match list {
        List::Allow => "allow-removed",
        List::Deny => "deny-removed",
    }
}

pub(super) fn added(list: List, entry: &Entry, before: Option<&Entry>) {
    let Entry {
        prefix,
        reason,
        source,
        created_at: _,
        expires_at,
    } = entry;
    let verb = match before {
        None => "added to",
        Some(_) => "changed in",
    };
    event!(
        target: TARGET,
        Level::INFO,
        event.action = added_to(list),
        packetwatch.list = list.as_str(),
        packetwatch.prefix = %prefix,
        packetwatch.source = source.as_str(),
        packetwatch.reason = reason.as_deref(),
        packetwatch.expires_at = rfc3339(*expires_at),
        packetwatch.before = before.map(described),
        packetwatch.after = described(entry),
        "{prefix} {verb} the {list} list"
    );
}

/// One line for many entries: a list of a million is no million lines. `before` is how many there
/// were.
pub(super) fn added_many(list: List, before: usize, touched: &Touched) {
    let (added, updated) = (touched.added.total, touched.updated());
    event!(
        target: TARGET,
        Level::INFO,
        event.action = added_to(list),
        packetwatch.list = list.as_str(),
        packetwatch.added = added,
        packetwatch.updated = updated,
        packetwatch.prefixes_added = touched.added.names(),
        packetwatch.prefixes_changed = touched.changed.names(),
        packetwatch.before = entries(before),
        packetwatch.after = entries(before + added),
        "{added} added to the {list} list, {updated} changed in it"
    );
}

pub(super) fn removed(shelf: Shelf, entry: &Entry, ended: bool) {
    let list = shelf.list();
    let prefix = entry.prefix;
    let cause = if ended { "its time is over" } else { "removed" };
    event!(
        target: TARGET,
        Level::INFO,
        event.action = removed_from(list),
        packetwatch.list = list.as_str(),
        packetwatch.prefix = %prefix,
        packetwatch.source = entry.source.as_str(),
        packetwatch.reason = entry.reason.as_deref(),
        packetwatch.expires_at = rfc3339(entry.expires_at),
        packetwatch.before = described(entry),
        "{prefix} is no longer in the {list} list: {cause}"
    );
}

/// One line for many entries whose time is over together; `left` is how many there are still.
pub(super) fn ended_many(list: List, ended: usize, left: usize) {
    removed_many(list, ended, None, left, "their time is over");
}

fn removed_many(list: List, removed: usize, names: Option<String>, left: usize, cause: &str) {
    event!(
        target: TARGET,
        Level::INFO,
        event.action = removed_from(list),
        packetwatch.list = list.as_str(),
        packetwatch.removed = removed,
        packetwatch.prefixes_removed = names,
        packetwatch.before = entries(left + removed),
        packetwatch.after = entries(left),
        "{removed} are no longer in the {list} list: {cause}"
    );
}

pub(super) fn replaced(list: List, touched: &Touched) {
    let (added, updated) = (touched.added.total, touched.updated());
    let removed = touched.removed.total;
    event!(
        target: TARGET,
        Level::INFO,
        event.action = "list-replaced",
        packetwatch.list = list.as_str(),
        packetwatch.added = added,
        packetwatch.updated = updated,
        packetwatch.removed = removed,
        packetwatch.prefixes_added = touched.added.names(),
        packetwatch.prefixes_changed = touched.changed.names(),
        packetwatch.prefixes_removed = touched.removed.names(),
        packetwatch.before = entries(updated + removed),
        packetwatch.after = entries(added + updated),
        "the {list} list was replaced: {added} added, {updated} kept or changed, {removed} removed"
    );
}

/// A start with less than was promised: whoever reads the log is to know what is missing.
pub(super) fn set_aside(salvage: &Salvage) {
    let Salvage {
        aside,
        cause,
        kept,
        lost,
    } = salvage;
    let lost = match lost {
        Some(lost) => {
            format!("{lost} rows could not be read, and the last writes may be missing too")
        }
        None => "nothing of it could be read: restore a backup".to_owned(),
    };
    event!(
        target: TARGET,
        Level::ERROR,
        event.action = "journal-set-aside",
        file.path = %aside.display(),
        error.message = cause.as_str(),
        packetwatch.entries = kept,
        "the journal was damaged and lies at {} now; {kept} entries and bans are kept, {lost}",
        aside.display()
    );
}

/// One line for everything that a backup has put back. `before` is what there was of each.
pub(super) fn restored(before: &Restored, restored: &Restored) {
    let Restored {
        allow,
        deny,
        bans,
        ended,
    } = restored;
    let counts = |of: &Restored| {
        let Restored {
            allow, deny, bans, ..
        } = of;
        format!("{allow} allowed, {deny} denied, {bans} banned")
    };
    event!(
        target: TARGET,
        Level::WARN,
        event.action = "restored",
        packetwatch.entries = allow + deny + bans,
        packetwatch.before = counts(before),
        packetwatch.after = counts(restored),
        "restored from a backup: {}; {ended} have ended since it was made", counts(restored)
    );
}

/// What only the kernel knew of.
pub(super) fn recovered(recovered: &Recovered) {
    let (entries, what) = match recovered {
        Recovered::Lists { allow, deny } => (
            allow + deny,
            format!("{allow} allowed and {deny} denied prefixes"),
        ),
        Recovered::Bans(bans) => (*bans, format!("{bans} bans")),
    };
    event!(
        target: TARGET,
        Level::WARN,
        event.action = "recovered",
        packetwatch.entries = entries,
        "the filter that was left knows of {what} that are in no journal: they stand; `packetwatch \
         detach` before a start begins without them"
    );
}

/// What happened to a ban.
#[derive(Clone, Copy)]
pub(super) enum BanEvent {
    Ban,
    Unban,
    Expired,
}

pub(super) fn ban(event: BanEvent, ban: &BanEntry) {
    let BanEntry {
        prefix,
        rule,
        reason,
        offender,
        repeat,
        created_at: _,
        expires_at,
    } = ban;
    let (action, words) = match event {
        BanEvent::Ban => ("ban", "banned"),
        BanEvent::Unban => ("unban", "unbanned"),
        BanEvent::Expired => (EXPIRED, "no longer banned: the ban has ended"),
    };
    event!(
        target: TARGET,
        Level::INFO,
        event.action = action,
        packetwatch.prefix = %prefix,
        source.ip = %offender,
        rule.name = rule.as_str(),
        packetwatch.reason = reason.as_str(),
        packetwatch.repeat = repeat,
        packetwatch.expires_at = rfc3339(*expires_at),
        packetwatch.before = matches!(event, BanEvent::Unban).then(|| until(*expires_at)),
        "{prefix} {words}"
    );
}

/// One line for many bans that end together; `left` is how many there are still.
pub(super) fn bans_ended(ended: usize, left: usize) {
    event!(
        target: TARGET,
        Level::INFO,
        event.action = EXPIRED,
        packetwatch.removed = ended,
        packetwatch.before = bans(left + ended),
        packetwatch.after = bans(left),
        "{ended} are no longer banned: their bans have ended"
    );
}

/// A line for each of up to [`PROTECTED_LINES`]: whoever is locked out wants to read which. Beyond, one
/// for all: they would crowd the log's other lines out. `before` is how many were protected.
pub(super) fn protected(before: usize, now_protected: &[Entry], no_longer: &[Entry]) {
    if now_protected.len() <= PROTECTED_LINES {
        now_protected
            .iter()
            .for_each(|entry| added(List::Allow, entry, None));
    } else {
        let touched = Touched {
            added: now_protected.iter().map(|entry| entry.prefix).collect(),
            ..Touched::default()
        };
        added_many(List::Allow, before, &touched);
    }
    if no_longer.len() <= PROTECTED_LINES {
        no_longer
            .iter()
            .for_each(|entry| removed(Shelf::Protected, entry, false));
    } else {
        let left = before + now_protected.len() - no_longer.len();
        let gone: Prefixes = no_longer.iter().map(|entry| entry.prefix).collect();
        let cause = "they are protected no more";
        removed_many(List::Allow, gone.total, gone.names(), left, cause);
    }
}

pub(super) fn not_written(error: &dyn std::error::Error, retry_in: std::time::Duration) {
    tracing::error!(
        error.message = %error,
        "bans are not written to the journal; tried again in {retry_in:?}. See to the state directory's disk"
    );
}

pub(super) fn not_compacted(error: &dyn std::error::Error) {
    tracing::warn!(
        error.message = %error,
        "the journal is larger than it need be and was not compacted; the next start tries again. \
         See to the state directory's disk"
    );
}

pub(super) fn kernel_refused(
    operation: &str,
    prefix: Option<IpNet>,
    error: &crate::dataplane::Error,
) {
    tracing::error!(
        error.message = %error,
        packetwatch.prefix = prefix.map(tracing::field::display),
        "{operation}: the kernel refused"
    );
}

/// Once when it begins, and at each start.
pub(super) fn not_counted_by_entry() {
    tracing::warn!(
        "the lists hold more than {} entries: those beyond are judged, and show no packets and bytes \
         of their own; they do when they are written again to shorter lists",
        capacity::LIST_HITS
    );
}

/// What stood and what stands under the prefixes of a trial, for its own lines.
pub(super) fn on_trial(entries_of: [&[Option<Entry>]; 2]) -> Told {
    let words = |all: &[Option<Entry>]| match all {
        [None] => "no entry".to_owned(),
        [Some(entry)] => described(entry),
        _ => entries(all.iter().flatten().count()),
    };
    let [before, after] = entries_of.map(words);
    Told { before, after }
}

/// What of an entry a change may change, as `until 2026-11-22T07:00:00Z: a scraper`.
fn described(entry: &Entry) -> String {
    let end = until(entry.expires_at);
    match &entry.reason {
        Some(reason) => format!("{end}: {reason}"),
        None => end,
    }
}

fn until(end: Option<OffsetDateTime>) -> String {
    rfc3339(end).map_or_else(|| "until removed".to_owned(), |end| format!("until {end}"))
}

fn entries(count: usize) -> String {
    match count {
        1 => "1 entry".to_owned(),
        _ => format!("{count} entries"),
    }
}

fn bans(count: usize) -> String {
    match count {
        1 => "1 ban".to_owned(),
        _ => format!("{count} bans"),
    }
}

fn rfc3339(at: Option<OffsetDateTime>) -> Option<String> {
    at.and_then(|at| at.format(&Rfc3339).ok())
}
