//! The lists over a temporary journal and maps in memory.

mod algebra;
mod bans;
mod cut_short;
mod disk;
mod ended_bans;
mod faults;
mod forecast;
mod journal;
mod life;
mod many;
mod projection;
mod random;
mod reconcile;
mod recover;
mod reload;
mod salvage;
mod saved;
mod size;
mod steps;
mod trial;
mod writes;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ipnet::IpNet;
use packetwatch_abi::{Standing, Tally};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    dataplane::{self, Ban, Change, ListUse, Region},
    rules::BanLength,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const CAPACITY: Capacity = Capacity { lists: 64, bans: 8 };

/// What the kernel holds.
#[derive(Clone, Debug, Default)]
struct Kernel {
    standings: BTreeMap<IpNet, Standing>,
    hits: HashMap<u32, Tally>,
    bans: BTreeMap<IpNet, Ban>,
    /// what the lists of an earlier filter say
    left: Vec<(IpNet, Standing)>,
    forgotten: Vec<IpNet>,
    /// times that all standings were replaced at once
    switches: usize,
    /// writes that are still taken, if not all are
    takes: Option<usize>,
    /// whether it is one write that is not, and all after it are
    refuses_once: bool,
}

#[derive(Clone, Debug, Default)]
struct FakeMaps(Arc<Mutex<Kernel>>);

/// As a map that is full refuses.
fn refusal() -> dataplane::Error {
    dataplane::Error::Full {
        map: "LISTS",
        capacity: 64,
    }
}

impl FakeMaps {
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap()
    }

    fn writing(&self) -> Result<MutexGuard<'_, Kernel>, dataplane::Error> {
        let mut kernel = self.kernel();
        match kernel.takes {
            Some(0) => {
                if kernel.refuses_once {
                    kernel.takes = None;
                }
                return Err(refusal());
            }
            Some(left) => kernel.takes = Some(left - 1),
            None => {}
        }
        Ok(kernel)
    }

    /// As the XDP program finds it.
    fn standing(&self, addr: IpAddr) -> Standing {
        let kernel = self.kernel();
        let standings = kernel.standings.iter();
        let covering = standings.filter(|(prefix, _)| prefix.contains(&addr));
        let longest = covering.max_by_key(|(prefix, _)| prefix.prefix_len());
        longest.map_or_else(Standing::default, |(_, standing)| *standing)
    }

    /// As the XDP program judges by the lists.
    fn verdict(&self, addr: IpAddr, now: u64) -> Option<List> {
        let standing = self.standing(addr);
        match () {
            () if now < standing.allow_until => Some(List::Allow),
            () if now < standing.deny_until => Some(List::Deny),
            () => None,
        }
    }
}

impl Maps for FakeMaps {
    fn inherited_standings(&self) -> Result<Vec<(IpNet, Standing)>, dataplane::Error> {
        Ok(self.kernel().left.clone())
    }

    fn set_standings(&self, regions: Vec<(Region, Vec<(IpNet, Standing)>)>) -> Change {
        let Ok(mut kernel) = self.writing() else {
            return Change::Outgrown;
        };
        for (region, nodes) in regions {
            let region = region.prefix();
            kernel
                .standings
                .retain(|prefix, _| !region.contains(prefix) && !prefix.contains(&region));
            kernel.standings.extend(nodes);
        }
        Change::Done
    }

    fn replace_standings(&self, all: &[(IpNet, Standing)]) -> Result<(), dataplane::Error> {
        let mut kernel = self.writing()?;
        kernel.standings = all.iter().copied().collect();
        kernel.switches += 1;
        Ok(())
    }

    fn compare_standings(
        &self,
        nodes: &[(IpNet, Standing)],
    ) -> Result<Differences, dataplane::Error> {
        let expected: BTreeMap<IpNet, Standing> = nodes.iter().copied().collect();
        let found = &self.kernel().standings;
        let mut differences = Differences::default();
        for (prefix, standing) in &expected {
            match found.get(prefix) {
                None => differences.missing(*prefix),
                Some(other) if other != standing => differences.changed(*prefix),
                Some(_) => {}
            }
        }
        for prefix in found.keys().filter(|prefix| !expected.contains_key(prefix)) {
            differences.foreign(*prefix);
        }
        Ok(differences)
    }

    fn standings_as_written(&self) -> bool {
        true
    }

    fn lists_in_force(&self) -> Result<bool, dataplane::Error> {
        Ok(true)
    }

    fn list_hits(&self, slot: u32) -> Result<Tally, dataplane::Error> {
        Ok(self.kernel().hits.get(&slot).copied().unwrap_or_default())
    }

    fn clear_list_hits(&self, slot: u32) -> Result<(), dataplane::Error> {
        self.writing()?.hits.remove(&slot);
        Ok(())
    }

    fn ban(&self, prefix: IpNet, until: u64) -> Result<(), dataplane::Error> {
        let ban = Ban {
            until,
            ..Ban::default()
        };
        self.writing()?.bans.insert(prefix, ban);
        Ok(())
    }

    fn ban_until(&self, prefix: IpNet) -> Option<u64> {
        self.kernel().bans.get(&prefix).map(|ban| ban.until)
    }

    fn ban_of(&self, prefix: IpNet) -> Result<Option<Ban>, dataplane::Error> {
        Ok(self.kernel().bans.get(&prefix).copied())
    }

    fn remove_ban(&self, prefix: IpNet) -> Result<(), dataplane::Error> {
        self.writing()?.bans.remove(&prefix);
        Ok(())
    }

    fn bans_as_written(&self) -> Result<bool, dataplane::Error> {
        Ok(true)
    }

    fn remove_stray_bans(&self) -> Result<Differences, dataplane::Error> {
        Ok(Differences::default())
    }

    fn each_ban(&self, visit: &mut dyn FnMut(IpNet, u64)) -> Result<(), dataplane::Error> {
        let bans = self.kernel().bans.clone();
        bans.into_iter()
            .for_each(|(prefix, ban)| visit(prefix, ban.until));
        Ok(())
    }

    fn mend_ban_filter(&self) -> Vec<IpNet> {
        Vec::new()
    }

    fn forget_caller(&self, unit: IpNet) -> Result<(), dataplane::Error> {
        self.writing()?.forgotten.push(unit);
        Ok(())
    }
}

struct Fixture {
    lists: Lists,
    maps: FakeMaps,
    clock: Clock,
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (maps, clock) = (FakeMaps::default(), Clock::movable());
        let lists = Lists::open(dir.path(), maps.clone(), CAPACITY, clock).unwrap();
        Self {
            lists,
            maps,
            clock,
            dir,
        }
    }

    /// Another daemon after this one, with the maps of this one or fresh ones.
    fn reopened(self, maps: FakeMaps, clock: Clock) -> Self {
        let Self { lists, dir, .. } = self;
        drop(lists);
        let lists = Lists::open(dir.path(), maps.clone(), CAPACITY, clock).unwrap();
        Self {
            lists,
            maps,
            clock,
            dir,
        }
    }

    fn put(&self, list: List, prefix: &str) -> Put {
        self.lists.put(list, new(prefix), Force(false)).unwrap()
    }

    /// A deny of this prefix finds the lists full.
    #[track_caller]
    fn put_refused(&self, prefix: &str) {
        let full = self.lists.put(List::Deny, new(prefix), Force(false));
        assert!(matches!(full, Err(WriteError::Full { .. })), "{full:?}");
    }

    fn verdict(&self, addr: &str) -> Option<List> {
        let addr = addr.parse().unwrap();
        self.maps.verdict(addr, self.clock.monotonic_ns())
    }

    /// Prefixes of a listing.
    fn listed(&self, list: List) -> Vec<String> {
        let page = self.lists.page(list, PageQuery::default()).unwrap();
        page.entries
            .iter()
            .map(|row| row.prefix.to_string())
            .collect()
    }

    fn protect(&self, prefixes: &[&str]) -> Result<(), WriteError> {
        let reason = "own address of eth0".to_owned();
        let set = prefixes.iter().map(|p| (net(p), reason.clone()));
        self.lists.protect(set.collect())
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn new(prefix: &str) -> NewEntry {
    NewEntry {
        prefix: net(prefix),
        reason: None,
        ttl: None,
    }
}

fn brief(prefix: &str, ttl: Duration) -> NewEntry {
    NewEntry {
        ttl: Some(ttl),
        ..new(prefix)
    }
}

/// The i-th host of 198.51.100.0/24.
fn host(i: u8) -> IpNet {
    IpNet::from(IpAddr::from([198, 51, 100, i]))
}

/// Ten minutes, doubled up to an hour, by a rule that looks a minute back.
fn order(prefix: IpNet) -> BanOrder {
    BanOrder {
        prefix,
        rule: "port-scan".to_owned(),
        offender: prefix.addr(),
        reason: "10 ports in 60s".to_owned(),
        ban: BanLength::For(10 * MINUTE),
        escalate: 2.0,
        max_ban: 60 * MINUTE,
        trial: None,
        within: MINUTE,
    }
}

/// Addresses of few bits, so that prefixes overlap often.
pub(super) fn any_address() -> impl Strategy<Value = IpAddr> {
    let byte = || prop::sample::select(vec![0u8, 1, 127, 128, 255]);
    let v4 = [byte(), byte(), byte(), byte()].prop_map(IpAddr::from);
    let v6 = [byte(), byte(), byte(), byte()].prop_map(|bytes| {
        let mut address = [0; 16];
        for (i, byte) in bytes.into_iter().enumerate() {
            address[i * 5] = byte;
        }
        IpAddr::from(address)
    });
    prop_oneof![v4, v6]
}

pub(super) fn any_prefix() -> impl Strategy<Value = IpNet> {
    (any_address(), 0..=128u8).prop_map(|(addr, len)| {
        let full = IpNet::from(addr).max_prefix_len();
        IpNet::new(addr, len % (full + 1)).unwrap().trunc()
    })
}
