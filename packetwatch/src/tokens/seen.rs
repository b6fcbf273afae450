//! From where calls with a token were let in of late: these addresses are somebody's session, as long
//! as the token is good.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How long after its last call an address counts as a peer, whatever the wall clock says.
pub(super) const SEEN_FOR: Duration = Duration::from_secs(3600);
/// Addresses remembered, each with each of its tokens; the one seen longest ago gives way.
pub(super) const MAX_SEEN: usize = 256;

/// An address and the id of a token that it called with.
pub(super) type Pair = (IpAddr, String);

/// Until when each pair counts, in CLOCK_MONOTONIC nanoseconds.
pub(super) type Ends = HashMap<Pair, u64>;

#[derive(Default)]
pub(super) struct Seen(Mutex<Ends>);

impl Seen {
    /// Those that an earlier process has seen, [`MAX_SEEN`] at most.
    pub(super) fn of(ends: Ends) -> Self {
        let seen = Self::default();
        ends.into_iter().for_each(|(pair, end)| seen.put(pair, end));
        seen
    }

    pub(super) fn note(&self, address: IpAddr, id: &str, now: u64) {
        self.put((address, id.to_owned()), now + SEEN_FOR.as_nanos() as u64);
    }

    fn put(&self, pair: Pair, end: u64) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_SEEN && !seen.contains_key(&pair) {
            let oldest = seen
                .iter()
                .min_by_key(|(_, end)| **end)
                .map(|(pair, _)| pair.clone());
            oldest.and_then(|pair| seen.remove(&pair));
        }
        seen.insert(pair, end);
    }

    /// The addresses that count as peers now, each once; those of tokens that are good no more are
    /// forgotten.
    pub(super) fn within(&self, now: u64, is_good: impl Fn(&str) -> bool) -> HashSet<IpAddr> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|(_, id), end| now < *end && is_good(id));
        seen.keys().map(|(address, _)| *address).collect()
    }

    /// What is remembered.
    pub(super) fn ends(&self) -> Ends {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HOUR: u64 = 3600 * 1_000_000_000;

    #[test]
    fn addresses_are_remembered_for_an_hour_up_to_the_bound() {
        let seen = Seen::default();
        let within = |now| seen.within(now, |_| true);
        let address = |n: usize| IpAddr::from(Ipv4Addr::from_bits(n as u32));
        for n in 0..=MAX_SEEN {
            seen.note(address(n), "ci", n as u64);
            assert_eq!(within(0).len(), (n + 1).min(MAX_SEEN));
        }
        let known = within(0);
        assert!(!known.contains(&address(0)), "the oldest gave way");
        assert!(known.contains(&address(1)) && known.contains(&address(MAX_SEEN)));
        seen.note(address(2), "ci", 0);
        assert_eq!(
            within(0).len(),
            MAX_SEEN,
            "a known one makes no other give way"
        );
        assert_eq!(Seen::of(seen.ends()).ends(), seen.ends());
        assert!(within(HOUR - 1).contains(&address(2)));
        assert!(!within(HOUR).contains(&address(2)));
        assert!(within(HOUR + MAX_SEEN as u64).is_empty());
    }

    #[test]
    fn an_address_goes_with_the_last_of_its_tokens() {
        let seen = Seen::default();
        let address = IpAddr::from([198, 51, 100, 7]);
        seen.note(address, "one", 0);
        seen.note(address, "two", 0);
        assert_eq!(seen.within(0, |_| true).len(), 1);
        assert!(seen.within(0, |id| id != "one").contains(&address));
        assert!(seen.within(0, |id| id == "one").is_empty());
    }
}
