//! How much one token may ask over TCP, and one address without a right one; and how often that may
//! be wrong.
//!
//! What is bounded is the work and the lines that strangers cause: nobody guesses 256 bits. So who
//! presents a right token is let in whatever others at the same address have tried.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::tokens::MAX_TOKENS;

/// Addresses with an account of their own, each some 64 bytes. Beyond them, who has been quiet
/// longest starts anew.
const MAX_ADDRESSES: usize = 4096;

/// Refused attempts of an address: ten at once, then one in six seconds.
pub(super) const FAILURES: Budget = Budget {
    burst: 10,
    every: Duration::from_secs(6),
};
/// Requests with a token, and of an address without a right one: a thousand at once, then a thousand a second.
pub(super) const REQUESTS: Budget = Budget {
    burst: 1000,
    every: Duration::from_millis(1),
};
/// Lines about refused attempts, of all addresses together.
pub(super) const LINES: Budget = Budget {
    burst: 20,
    every: Duration::from_secs(1),
};

/// So many at once, and one more each time that `every` has passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub burst: u32,
    pub every: Duration,
}

/// What is used up of a budget: the time at which nothing of it will be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent(Option<Instant>);

impl Budget {
    /// Spends one, or says how long until there is one to spend.
    pub(super) fn take(self, spent: &mut Spent, now: Instant) -> Result<(), Duration> {
        let empty_at = spent.0.map_or(now, |at| at.max(now));
        let full_by = now + self.every * self.burst;
        let next = empty_at + self.every;
        if next > full_by {
            return Err(next - full_by);
        }
        spent.0 = Some(next);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    requests: Spent,
    failures: Spent,
}

impl Account {
    fn settled(&self) -> Option<Instant> {
        self.requests.0.max(self.failures.0)
    }
}

/// The accounts of addresses and tokens; clones share them.
#[derive(Clone, Default)]
pub(super) struct Throttle {
    addresses: Arc<Mutex<HashMap<IpAddr, Account>>>,
    /// by their ids; those that no longer exist go when there are as many as tokens may be
    tokens: Arc<Mutex<HashMap<String, Spent>>>,
}

impl Throttle {
    /// Counts a request with this token, wherever it comes from.
    ///
    /// # Errors
    /// How long until the next is taken.
    pub(super) fn token(&self, id: &str, now: Instant) -> Result<(), Duration> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MAX_TOKENS && !tokens.contains_key(id) {
            tokens.retain(|_, spent| spent.0 > Some(now));
        }
        REQUESTS.take(tokens.entry(id.to_owned()).or_default(), now)
    }

    /// Counts a request of this address without a right token.
    ///
    /// # Errors
    /// How long until the next is taken.
    pub(super) fn request(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        self.with(address, now, |account| {
            REQUESTS.take(&mut account.requests, now)
        })
    }

    /// Counts an attempt that was refused.
    ///
    /// # Errors
    /// How long until the next is answered as such.
    pub(super) fn failure(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        self.with(address, now, |account| {
            FAILURES.take(&mut account.failures, now)
        })
    }

    fn with<T>(&self, address: IpAddr, now: Instant, work: impl FnOnce(&mut Account) -> T) -> T {
        let accounts = self.addresses.lock();
        let mut accounts = accounts.unwrap_or_else(PoisonError::into_inner);
        let site = site(address);
        if accounts.len() >= MAX_ADDRESSES && !accounts.contains_key(&site) {
            accounts.retain(|_, account| account.settled() > Some(now));
            if accounts.len() >= MAX_ADDRESSES {
                let quietest = accounts.iter().min_by_key(|(_, account)| account.settled());
                let quietest = quietest.map(|(site, _)| *site);
                quietest.and_then(|site| accounts.remove(&site));
            }
        }
        work(accounts.entry(site).or_default())
    }
}

/// What one party has at hand: an IPv4 address, or the /64 of an IPv6 address.
pub(super) fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn a_budget_ends_at_its_burst_and_comes_back_one_by_one() {
        let budget = Budget {
            burst: 3,
            every: Duration::from_secs(6),
        };
        let (mut spent, start) = (Spent::default(), Instant::now());
        let mut take = |after| budget.take(&mut spent, start + Duration::from_secs(after));
        assert_eq!([take(0), take(0), take(0)], [Ok(()); 3]);
        assert_eq!(take(0), Err(Duration::from_secs(6)));
        assert_eq!(take(5), Err(Duration::from_secs(1)));
        assert_eq!([take(6), take(6)], [Ok(()), Err(Duration::from_secs(6))]);
        // However long nothing was spent, no more than the burst is there.
        assert_eq!([take(999), take(999), take(999)], [Ok(()); 3]);
        assert!(take(999).is_err());
    }

    #[test]
    fn each_address_has_its_own_and_a_64_is_one() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let fails = |text: &str| throttle.failure(text.parse().unwrap(), now).is_err();
        for _ in 0..FAILURES.burst {
            assert!(!fails("198.51.100.7") && !fails("2001:db8::1"));
        }
        assert!(fails("198.51.100.7") && fails("::ffff:198.51.100.7"));
        assert!(fails("2001:db8::ffff:2") && !fails("2001:db8:0:1::1"));
        assert!(!fails("198.51.100.8"));
        // What is counted wrong does not count against requests.
        assert_eq!(
            throttle.request("198.51.100.7".parse().unwrap(), now),
            Ok(())
        );
    }

    #[test]
    fn addresses_are_bounded_and_the_quietest_gives_way() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let at = |n: u32| start + Duration::from_micros(n.into());
        for n in 0..MAX_ADDRESSES as u32 {
            for _ in 0..FAILURES.burst {
                throttle.failure(address(n), at(n)).unwrap();
            }
        }
        let last = MAX_ADDRESSES as u32;
        throttle.failure(address(last), at(last)).unwrap();
        assert_eq!(throttle.addresses.lock().unwrap().len(), MAX_ADDRESSES);
        assert!(throttle.failure(address(1), at(last)).is_err());
        assert!(
            throttle.failure(address(0), at(last)).is_ok(),
            "it was forgotten"
        );
        // Accounts that are settled go first, all at once.
        throttle
            .failure(address(last + 1), start + Duration::from_secs(120))
            .unwrap();
        assert_eq!(throttle.addresses.lock().unwrap().len(), 1);
    }

    #[test]
    fn each_token_has_its_own_and_those_that_are_gone_are_forgotten() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for _ in 0..REQUESTS.burst {
            throttle.token("one", start).unwrap();
        }
        assert_eq!(throttle.token("one", start), Err(REQUESTS.every));
        assert_eq!(throttle.token("two", start), Ok(()));
        let later = start + REQUESTS.every * REQUESTS.burst;
        for n in 0..MAX_TOKENS {
            throttle.token(&n.to_string(), later).unwrap();
        }
        assert!(throttle.tokens.lock().unwrap().len() <= MAX_TOKENS);
    }
}
