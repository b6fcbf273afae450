//! From where tokens were accepted of late: these addresses are somebody's session.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use time::OffsetDateTime;

/// How long after its last accepted request an address counts as a peer.
const SEEN_FOR: time::Duration = time::Duration::HOUR;
/// Addresses remembered; the one seen longest ago gives way.
pub(super) const MAX_SEEN: usize = 256;

#[derive(Default)]
pub(super) struct Seen(Mutex<HashMap<IpAddr, OffsetDateTime>>);

impl Seen {
    pub(super) fn note(&self, address: IpAddr, at: OffsetDateTime) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_SEEN && !seen.contains_key(&address) {
            let oldest = seen
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(addr, _)| *addr);
            oldest.and_then(|address| seen.remove(&address));
        }
        seen.insert(address, at);
    }

    pub(super) fn within(&self, now: OffsetDateTime) -> Vec<IpAddr> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, at| *at > now - SEEN_FOR);
        seen.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn addresses_are_remembered_for_an_hour_up_to_the_bound() {
        let seen = Seen::default();
        let start = OffsetDateTime::now_utc();
        let address = |n: usize| IpAddr::from(Ipv4Addr::from_bits(n as u32));
        for n in 0..=MAX_SEEN {
            seen.note(address(n), start + time::Duration::milliseconds(n as i64));
            assert_eq!(seen.within(start).len(), (n + 1).min(MAX_SEEN));
        }
        let known = seen.within(start);
        assert!(!known.contains(&address(0)), "the oldest gave way");
        assert!(known.contains(&address(1)) && known.contains(&address(MAX_SEEN)));
        seen.note(address(2), start);
        assert_eq!(
            seen.within(start).len(),
            MAX_SEEN,
            "a known one makes no other give way"
        );
        let later = start + SEEN_FOR;
        assert!(!seen.within(later).contains(&address(2)));
        assert!(seen.within(later + time::Duration::SECOND).is_empty());
    }
}
