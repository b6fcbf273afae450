//! What a filter that an earlier process left knows, and no journal: bans that were on their way to
//! the disk, or everything, if the state directory is gone.
//!
//! The kernel has prefixes and deadlines. Why, by which rule and since when is lost.

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use packetwatch_abi::Standing;

use super::{
    bans::{Bans, Held},
    entry::{BanEntry, List, Source},
    maps::Maps,
    record::{AboutRecord, EntryRecord},
};
use crate::{clock::Clock, dataplane};

const REASON: &str = "found in the filter, without a journal";
/// The rule of a ban of which nobody knows the rule.
const RULE: &str = "unknown";
/// How long the kernel keeps such a ban after its end: the longest that any rule looks back.
const WITHIN: Duration = Duration::from_secs(86_400);

/// What was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recovered {
    Lists { allow: usize, deny: usize },
    Bans(usize),
}

pub(super) type Entries = Vec<(List, IpNet, EntryRecord)>;

/// The entries that say what these standings do, but for those that derive from the host's own
/// surroundings: they are derived again.
pub(super) fn entries(standings: &[(IpNet, Standing)], clock: Clock) -> Entries {
    let now = clock.monotonic_ns();
    let allow = standings.iter().filter(|(_, s)| !s.is_derived);
    let allow = allow.map(|(prefix, s)| (*prefix, s.allow_until));
    let deny = standings.iter().map(|(prefix, s)| (*prefix, s.deny_until));
    let mut entries = Entries::new();
    for (list, found) in [
        (List::Allow, allow.collect::<Vec<_>>()),
        (List::Deny, deny.collect()),
    ] {
        let mut live: Vec<(u64, IpNet)> = found
            .into_iter()
            .filter(|(_, until)| now < *until)
            .map(|(prefix, until)| (until, prefix))
            .collect();
        live.sort_unstable();
        for same in live.chunk_by(|a, b| a.0 == b.0) {
            let until = same[0].0;
            let about = Arc::new(AboutRecord {
                reason: Some(REASON.to_owned()),
                source: Source::Api,
                created_at: clock.utc(),
                expires_at: clock.utc_of(until),
                mark: clock.mark(until),
            });
            // What is denied around an allowed address lies in pieces of one entry.
            let prefixes: Vec<IpNet> = same.iter().map(|(_, prefix)| *prefix).collect();
            let whole = IpNet::aggregate(&prefixes).into_iter();
            entries.extend(whole.map(|p| (list, p, EntryRecord::new(&about, false))));
        }
    }
    entries
}

impl Bans {
    /// Takes the bans of the kernel that no journal tells of; returns how many.
    ///
    /// # Errors
    /// The kernel does not let its table be read.
    pub(super) fn recover(
        &mut self,
        maps: &dyn Maps,
        clock: Clock,
    ) -> Result<usize, dataplane::Error> {
        let mut found = Vec::new();
        maps.each_ban(&mut |prefix, until| found.push((prefix, until)))?;
        // What has no room any more, here or in the kernel, is foreign to the comparison of the two.
        found.retain(|(prefix, _)| {
            self.deadline(*prefix).is_none() && maps.ban_until(*prefix).is_some()
        });
        found.truncate(self.room());
        for (prefix, until) in &found {
            self.hold_unknown(Held::new(
                BanEntry {
                    prefix: *prefix,
                    rule: RULE.to_owned(),
                    reason: REASON.to_owned(),
                    offender: prefix.addr(),
                    repeat: 1,
                    created_at: clock.utc(),
                    expires_at: clock.utc_of(*until),
                },
                *until,
                WITHIN,
                *until <= clock.monotonic_ns(),
            ));
        }
        Ok(found.len())
    }
}
