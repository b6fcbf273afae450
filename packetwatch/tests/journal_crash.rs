//! A daemon that is killed at any moment has on disk whatever it acknowledged.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use ipnet::IpNet;
use packetwatch::{
    clock::Clock,
    dataplane::{Ban, Change, Differences, Error, Region},
    lists::{Capacity, Force, List, Lists, Maps, NewEntry, PageQuery},
};
use packetwatch_abi::{Standing, Tally};

const ROUNDS: u64 = 30;
const STATE_DIR: &str = "JOURNAL_CRASH_STATE_DIR";
const FIRST: &str = "JOURNAL_CRASH_FIRST";

/// No kernel: the journal alone is looked at.
struct NoMaps;

impl Maps for NoMaps {
    fn set_standings(&self, _: Vec<(Region, Vec<(IpNet, Standing)>)>) -> Change {
        Change::Done
    }

    fn replace_standings(&self, _: &[(IpNet, Standing)]) -> Result<(), Error> {
        Ok(())
    }

    fn compare_standings(&self, _: &[(IpNet, Standing)]) -> Result<Differences, Error> {
        Ok(Differences::default())
    }

    fn inherited_standings(&self) -> Result<Vec<(IpNet, Standing)>, Error> {
        Ok(Vec::new())
    }

    fn mend_ban_filter(&self) -> Vec<IpNet> {
        Vec::new()
    }

    fn standings_as_written(&self) -> bool {
        true
    }

    fn lists_in_force(&self) -> Result<bool, Error> {
        Ok(true)
    }
    fn list_hits(&self, _: u32) -> Result<Tally, Error> {
        Ok(Tally::default())
    }
    fn clear_list_hits(&self, _: u32) -> Result<(), Error> {
        Ok(())
    }
    fn ban(&self, _: IpNet, _: u64) -> Result<(), Error> {
        Ok(())
    }
    fn ban_until(&self, _: IpNet) -> Option<u64> {
        None
    }
    fn ban_of(&self, _: IpNet) -> Result<Option<Ban>, Error> {
        Ok(None)
    }
    fn remove_ban(&self, _: IpNet) -> Result<(), Error> {
        Ok(())
    }
    fn bans_as_written(&self) -> Result<bool, Error> {
        Ok(true)
    }
    fn each_ban(&self, _: &mut dyn FnMut(IpNet, u64)) -> Result<(), Error> {
        Ok(())
    }
    fn forget_caller(&self, _: IpNet) -> Result<(), Error> {
        Ok(())
    }
}

fn open(dir: &Path) -> Lists {
    let capacity = Capacity {
        lists: 500_000,
        bans: 8,
    };
    Lists::open(dir, NoMaps, capacity, Clock::new()).expect("a killed writer leaves a sound file")
}

fn host(n: u64) -> IpNet {
    let [.., a, b, c] = n.to_be_bytes();
    IpNet::from(IpAddr::from([10, a, b, c]))
}

fn entry(prefix: IpNet, reason: u64) -> NewEntry {
    NewEntry {
        prefix,
        reason: Some(reason.to_string()),
        ttl: None,
    }
}

/// The n-th write: two puts, the removal of the first of them, a whole list, and so on.
fn write(lists: &Lists, n: u64) {
    match n % 4 {
        0 | 1 => drop(
            lists
                .put(List::Deny, entry(host(n), n), Force(false))
                .unwrap(),
        ),
        2 => drop(lists.remove(List::Deny, host(n - 2)).unwrap()),
        _ => {
            let list = (0..50).map(|i| entry(host(n + i), n)).collect();
            lists.replace(List::Allow, list).unwrap();
        }
    }
}

#[test]
#[ignore = "the writer that acknowledged_writes_survive_a_kill starts, and kills"]
fn writer() {
    let (Ok(dir), Ok(first)) = (env::var(STATE_DIR), env::var(FIRST)) else {
        return;
    };
    let lists = open(Path::new(&dir));
    // Bounded in case that nobody kills it.
    let first: u64 = first.parse().unwrap();
    for n in first..first + 20_000 {
        write(&lists, n);
        // Not print!, which the test harness would keep to itself.
        writeln!(std::io::stdout(), "\nacknowledged {n}").unwrap();
    }
}

/// Runs a writer from the `first` write on and kills it; returns the write after the last one that
/// it acknowledged.
fn killed(dir: &Path, first: u64, after: Duration) -> u64 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "writer", "--ignored", "--nocapture"])
        .env(STATE_DIR, dir)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acknowledged = |line: &String| line.strip_prefix("acknowledged ")?.parse::<u64>().ok();
    let begun = lines.find_map(|line| acknowledged(&line.unwrap()));
    assert!(begun.is_some(), "the writer ended before its first write");
    thread::sleep(after);
    child.kill().unwrap();
    let last = lines
        .map_while(Result::ok)
        .filter_map(|line| acknowledged(&line))
        .last();
    assert!(!child.wait().unwrap().success(), "the writer was killed");
    last.or(begun).unwrap() + 1
}

fn rows(lists: &Lists, list: List) -> Vec<(IpNet, u64)> {
    let mut query = PageQuery {
        limit: PageQuery::MAX_LIMIT,
        ..PageQuery::default()
    };
    let mut rows = Vec::new();
    loop {
        let page = lists.page(list, query.clone()).unwrap();
        let row = |row: &packetwatch::lists::Row| {
            (row.prefix, row.reason.as_ref().unwrap().parse().unwrap())
        };
        rows.extend(page.entries.iter().map(row));
        query.cursor = page.next;
        if query.cursor.is_none() {
            return rows;
        }
    }
}

/// What the deny list holds after the writes before `next`.
fn expected_deny(next: u64) -> BTreeSet<(IpNet, u64)> {
    let is_put = |n: &u64| match n % 4 {
        0 => n + 2 >= next,
        1 => true,
        _ => false,
    };
    (0..next).filter(is_put).map(|n| (host(n), n)).collect()
}

#[test]
fn acknowledged_writes_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 0;
    for round in 0..ROUNDS {
        let after = Duration::from_micros(round * 7_919 % 40_000);
        let acknowledged = killed(dir.path(), next, after);
        let lists = open(dir.path());
        let deny: BTreeSet<_> = rows(&lists, List::Deny).into_iter().collect();
        let allow = rows(&lists, List::Allow);
        // The write under way when the kill came is there in full or not at all.
        let is_as_of = |next: u64| {
            let list = (0..next).rev().find(|n| n % 4 == 3);
            let is_whole = |n: u64| {
                allow.len() == 50
                    && allow
                        .iter()
                        .zip(0..)
                        .all(|(row, i)| *row == (host(n + i), n))
            };
            deny == expected_deny(next) && list.map_or(allow.is_empty(), is_whole)
        };
        next = [acknowledged, acknowledged + 1]
            .into_iter()
            .find(|next| is_as_of(*next))
            .unwrap_or_else(|| panic!("round {round}: not as after write {acknowledged}"));
    }
}
