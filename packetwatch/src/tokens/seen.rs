//! From where calls with a token were let in of late: these addresses are somebody's session, as long
//! as the token is good.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use time::OffsetDateTime;

/// How long after its last call an address counts as a peer.
const SEEN_FOR: time::Duration = time::Duration::HOUR;
/// Addresses remembered, each with each of its tokens; the one seen longest ago gives way.
pub(super) const MAX_SEEN: usize = 256;

/// When an address was seen last with the token of an id.
#[derive(Default)]
pub(super) struct Seen(Mutex<HashMap<(IpAddr, String), OffsetDateTime>>);

impl Seen {
    pub(super) fn note(&self, address: IpAddr, id: &str, at: OffsetDateTime) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (address, id.to_owned());
        if seen.len() >= MAX_SEEN && !seen.contains_key(&pair) {
            let oldest = seen
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(pair, _)| pair.clone());
            oldest.and_then(|pair| seen.remove(&pair));
        }
        seen.insert(pair, at);
    }

    /// The addresses that count as peers now, each once; those of tokens that are good no more are
    /// forgotten.
    pub(super) fn within(
        &self,
        now: OffsetDateTime,
        is_good: impl Fn(&str) -> bool,
    ) -> HashSet<IpAddr> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|(_, id), at| *at > now - SEEN_FOR && is_good(id));
        seen.keys().map(|(address, _)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn addresses_are_remembered_for_an_hour_up_to_the_bound() {
        let seen = Seen::default();
        let within = |now| seen.within(now, |_| true);
        let start = OffsetDateTime::now_utc();
        let address = |n: usize| IpAddr::from(Ipv4Addr::from_bits(n as u32));
        for n in 0..=MAX_SEEN {
            seen.note(
                address(n),
                "ci",
                start + time::Duration::milliseconds(n as i64),
            );
            assert_eq!(within(start).len(), (n + 1).min(MAX_SEEN));
        }
        let known = within(start);
        assert!(!known.contains(&address(0)), "the oldest gave way");
        assert!(known.contains(&address(1)) && known.contains(&address(MAX_SEEN)));
        seen.note(address(2), "ci", start);
        assert_eq!(
            within(start).len(),
            MAX_SEEN,
            "a known one makes no other give way"
        );
        let later = start + SEEN_FOR;
        assert!(!within(later).contains(&address(2)));
        assert!(within(later + time::Duration::SECOND).is_empty());
    }

    #[test]
    fn an_address_goes_with_the_last_of_its_tokens() {
        let (seen, now) = (Seen::default(), OffsetDateTime::now_utc());
        let address = IpAddr::from([198, 51, 100, 7]);
        seen.note(address, "one", now);
        seen.note(address, "two", now);
        assert_eq!(seen.within(now, |_| true).len(), 1);
        assert!(seen.within(now, |id| id != "one").contains(&address));
        assert!(seen.within(now, |id| id == "one").is_empty());
    }
}
