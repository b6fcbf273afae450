//! Random histories over a disk that fails and crashes: what was acknowledged is there, what was
//! not is there whole or not at all.
//!
//! `JOURNAL_SEED=N` replays a run, `JOURNAL_CASES=N` sets its length. A failure names the seed of
//! its case: with that and one case it comes at once.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    disk::{Disk, Fault},
    life::{Life, Rows, journal},
    random::Random,
};

const CASES: u64 = 2_000;

/// Three lives on one disk, the last of them on a sound one.
fn case(seed: u64) {
    let mut random = Random::new(seed);
    let disk = Disk::new(random.next());
    // A new file gets its name when it is whole.
    drop(journal(&disk).unwrap());
    let mut possible = BTreeSet::from([Rows::new()]);
    for life in 0..3 {
        let after = random.below(120);
        let fault = match random.below(10) {
            _ if life == 2 => None,
            0..5 => Some(Fault::Crash),
            5 | 6 => Some(Fault::Syncs(30)),
            kind => {
                let kind = [ErrorKind::StorageFull, ErrorKind::Other][kind as usize % 2];
                Some(Fault::Error(kind, 1 + random.below(4)))
            }
        };
        disk.plan(after, fault);
        let mut life = match Life::begin(&mut random, &disk, possible) {
            Ok(life) => life,
            Err(unchanged) => {
                possible = unchanged;
                disk.crash();
                continue;
            }
        };
        for n in 0..life.random.below(25) {
            let met = life.disk.faults_met();
            life.step(n);
            if life.disk.faults_met() > met {
                life.assert_agreed();
            }
        }
        life.assert_agreed();
        if life.disk.has_power() && life.random.percent(50) {
            // With the disk sound again nothing is left undone.
            disk.plan(0, None);
            life.flush();
            assert!(life.unwritten.is_empty());
            assert_eq!(life.possible, BTreeSet::from([life.told.clone()]));
        }
        possible = life.possible;
        drop(life.lists);
        disk.crash();
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

#[test]
fn what_was_acknowledged_survives_every_fault_of_the_disk() {
    let cases = number("JOURNAL_CASES").unwrap_or(CASES);
    let first = number("JOURNAL_SEED").unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        since.as_nanos() as u64
    });
    println!("JOURNAL_SEED={first} JOURNAL_CASES={cases}");
    for seed in (0..cases).map(|i| first.wrapping_add(i)) {
        let outcome = std::panic::catch_unwind(|| case(seed));
        if let Err(panic) = outcome {
            eprintln!("replay with JOURNAL_SEED={seed} JOURNAL_CASES=1");
            std::panic::resume_unwind(panic);
        }
    }
}
