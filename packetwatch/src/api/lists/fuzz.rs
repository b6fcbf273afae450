//! Bodies of whole lists, read as their handlers read them; [`crate::fuzz`] says what for.

use std::collections::HashSet;

use super::{
    ListedBody,
    feed::Feed,
    read::{from_json, from_text},
};
use crate::{
    api::{
        fuzz::{assert_reason, assert_told, is_lasting},
        problem::MAX_FAULTS,
    },
    fuzz::assert_plain,
    lists::NewEntry,
    rules::duration,
};

/// A whole list, as JSON and as text.
///
/// # Panics
/// Where what was taken is out of bounds or reads back as something else.
pub fn lists(input: &[u8]) {
    match from_json(input) {
        Ok(feed) => {
            let written: Vec<ListedBody> = feed.entries.iter().map(listed).collect();
            let written = serde_json::to_vec(&written).expect("entries are JSON");
            let again = from_json(&written).expect("entries read back");
            assert_same(feed, &again.entries);
        }
        Err(problem) => assert_told(&problem),
    }
    match from_text(input) {
        Ok(feed) => {
            let prefixes = feed.entries.iter().map(|entry| entry.prefix.to_string());
            let written: Vec<String> = prefixes.chain(["# the end".to_owned()]).collect();
            let again = from_text(written.join("\n").as_bytes()).expect("prefixes read back");
            assert_same(feed, &again.entries);
        }
        Err(problem) => assert_told(&problem),
    }
}

fn assert_same(feed: Feed, again: &[NewEntry]) {
    assert_eq!(feed.entries, again);
    for entry in &feed.entries {
        assert_eq!(entry.prefix, entry.prefix.trunc());
        assert_reason(entry.reason.as_deref());
        assert!(entry.ttl.is_none_or(is_lasting));
    }
    feed.note().iter().for_each(|note| assert_plain(note));
    assert_eq!(feed.refused.min(MAX_FAULTS), feed.faults.len());
    // Whatever is protected among them, each entry is either good or refused.
    let all = feed.entries.len() + feed.refused;
    let protected: HashSet<_> = feed.entries.iter().map(|entry| entry.prefix).collect();
    let mut feed = feed;
    feed.refuse_protected(&protected);
    assert_eq!((feed.entries.len(), feed.refused), (0, all));
    if all > 0 {
        assert_told(&feed.problem());
    }
}

fn listed(entry: &NewEntry) -> ListedBody {
    ListedBody {
        prefix: entry.prefix.to_string(),
        reason: entry.reason.clone(),
        ttl: entry.ttl.map(duration::format),
    }
}
