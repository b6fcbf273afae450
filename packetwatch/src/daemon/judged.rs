//! Which offences have been judged, so that the sweep finds those whose wake-up was lost and no
//! others.
//!
//! A caller keeps the time of its last offence until its next packet. To the sweep, a source that
//! was banned, served its time and fell silent looks like one whose offence nobody has seen.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;

/// Cheap to clone; all clones know the same. One entry a unit that offended within [`RECENT_NS`].
#[derive(Clone, Default)]
pub(super) struct Judged(Arc<Mutex<HashMap<IpNet, u64>>>);

/// Offences older than this are past: two rounds of the sweep have had them. Nanoseconds.
pub(super) const RECENT_NS: u64 = 30_000_000_000;

impl Judged {
    /// Notes an offence at `at`; tells whether that one, or a later one of the unit, was not judged
    /// before.
    pub(super) fn is_news(&self, unit: IpNet, at: u64) -> bool {
        let mut judged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = judged.entry(unit).or_default();
        let news = at > *last;
        *last = at.max(*last);
        news
    }

    pub(super) fn forget_before(&self, at: u64) {
        let mut judged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        judged.retain(|_, last| *last >= at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offence_is_judged_once() {
        let judged = Judged::default();
        let unit: IpNet = "198.18.0.9/32".parse().unwrap();
        let other: IpNet = "198.18.0.8/32".parse().unwrap();
        assert!(judged.is_news(unit, 5));
        assert!(!judged.is_news(unit, 5), "the sweep finds it in the caller");
        assert!(!judged.is_news(unit, 4), "the ring is behind");
        assert!(judged.is_news(unit, 6), "it goes on");
        assert!(judged.is_news(other, 5));
        judged.forget_before(6);
        assert!(!judged.is_news(unit, 6));
        assert!(judged.is_news(other, 5));
    }
}
