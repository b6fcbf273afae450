//! A restore that is not finished: what the journal says of it, and what a start makes of that.

use std::collections::BTreeSet;

use packetwatch_abi::FOREVER;
use serde_json::{Value, json};

use super::{
    saved::{filled, full_of_bans, other_bans, saved},
    *,
};
use crate::lists::{
    journal::{Batch, Journal},
    record::{BanRecord, RestoreRecord},
};

/// Whether there is a word of a restore that is not finished, and what it is.
fn unfinished(f: &Fixture) -> (bool, Option<Value>) {
    (f.lists.is_restore_unfinished(), f.lists.unfinished())
}

#[test]
fn what_a_restore_changes_besides_is_told_until_it_is_done() {
    let f = filled();
    assert_eq!(unfinished(&f), (false, None));
    f.lists.finished().unwrap();
    let besides = json!({"rules": ["any"]});
    f.lists.restore(saved(&f), besides.clone()).unwrap();
    assert_eq!(unfinished(&f), (true, Some(besides.clone())));
    let clock = f.clock;
    let f = f.reopened(FakeMaps::default(), clock);
    assert_eq!(unfinished(&f), (true, Some(besides)));
    // Of two the later.
    f.lists.restore(saved(&f), json!("later")).unwrap();
    let f = f.reopened(FakeMaps::default(), clock);
    assert_eq!(unfinished(&f), (true, Some(json!("later"))));
    f.lists.finished().unwrap();
    assert_eq!(unfinished(&f), (false, None));
    let f = f.reopened(FakeMaps::default(), clock);
    assert_eq!(unfinished(&f), (false, None));
}

#[test]
fn of_a_restore_that_the_kernel_refuses_nothing_is_left_to_be_done() {
    let f = filled();
    f.maps.kernel().takes = Some(0);
    let refused = f.lists.restore(other_bans(), json!("never"));
    assert!(matches!(refused, Err(WriteError::Kernel(_))), "{refused:?}");
    f.maps.kernel().takes = None;
    f.lists.flush();
    assert_eq!(unfinished(&f), (false, None));
    let clock = f.clock;
    let f = f.reopened(FakeMaps::default(), clock);
    assert_eq!(unfinished(&f), (false, None));
}

/// The daemon is killed when the journal has the restore, and the kernel nothing of it, or all.
fn killed(f: Fixture, backup: Saved, is_in_force: bool) -> Fixture {
    let Fixture {
        lists,
        maps,
        clock,
        dir,
    } = f;
    let before = FakeMaps(Arc::new(Mutex::new(maps.kernel().clone())));
    lists.restore(backup, json!("rules")).unwrap();
    drop(lists);
    let restore = RestoreRecord {
        besides: json!("rules"),
        is_in_force,
    };
    let batch = Batch {
        restore: Some(Some(restore)),
        ..Batch::default()
    };
    Journal::open(dir.path()).unwrap().0.commit(&batch).unwrap();
    let lists = Lists::open(dir.path(), before.clone(), CAPACITY, clock).unwrap();
    Fixture {
        lists,
        maps: before,
        clock,
        dir,
    }
}

/// Ends that people and the kernel are told.
fn ends(f: &Fixture, prefix: IpNet) -> (Option<time::OffsetDateTime>, Option<u64>) {
    let bans = f.lists.bans(PageQuery::default()).unwrap().entries;
    let told = bans.iter().find(|row| row.prefix == prefix);
    let now = f.clock.monotonic_ns();
    let until = f.maps.ban_until(prefix).filter(|until| now < *until);
    (told.and_then(|row| row.expires_at), until)
}

#[test]
fn a_kernel_that_a_restore_did_not_reach_is_behind_the_journal() {
    let backup = {
        let f = filled();
        f.clock.advance(5 * MINUTE);
        let _ = f.lists.ban(order(host(3))).unwrap();
        saved(&f)
    };
    let until = |f: &Fixture, prefix: IpNet| {
        let ban = backup.bans.iter().find(|ban| ban.prefix == prefix).unwrap();
        f.clock.deadline(ban.expires_at.unwrap())
    };
    for is_in_force in [false, true] {
        let f = Fixture::new();
        // Longer than in the backup, which is to shorten it; and one that the backup does not have.
        let forever = BanOrder {
            ban: BanLength::Forever,
            ..order(host(2))
        };
        let _ = f.lists.ban(forever).unwrap();
        let _ = f.lists.ban(order(host(4))).unwrap();
        let f = killed(f, backup.clone(), is_in_force);
        let (told, kernel) = ends(&f, host(2));
        assert!(told.is_some());
        let expected = match is_in_force {
            false => until(&f, host(2)),
            // As at any other start: clocks may have been set.
            true => FOREVER,
        };
        assert!(
            kernel.unwrap().abs_diff(expected) < 1_000_000_000,
            "{kernel:?}"
        );
        let kernel = ends(&f, host(3)).1.unwrap();
        assert!(kernel.abs_diff(until(&f, host(3))) < 1_000_000_000);
        assert_eq!(ends(&f, host(4)), (None, None), "it was lifted");
    }
}

#[test]
fn who_made_room_in_the_journal_makes_room_in_a_kernel_that_is_behind() {
    let f = full_of_bans();
    let held: Vec<IpNet> = f.maps.kernel().bans.keys().copied().collect();
    assert_eq!(held.len(), CAPACITY.bans as usize);
    let backup = other_bans();
    let f = killed(f, backup.clone(), false);
    assert_eq!(f.lists.counts().bans.total(), backup.bans.len());
    let found: Vec<IpNet> = f.maps.kernel().bans.keys().copied().collect();
    let expected: BTreeSet<IpNet> = backup.bans.iter().map(|ban| ban.prefix).collect();
    assert_eq!(found, Vec::from_iter(expected));
    let forgotten = &f.maps.kernel().forgotten;
    assert!(forgotten.iter().all(|unit| held.contains(unit)) && !forgotten.is_empty());
}

#[test]
fn the_transaction_of_a_restore_has_no_more_bans_than_there_is_room_for() {
    let f = full_of_bans();
    f.lists.flush();
    let bans: Vec<(IpNet, BanRecord)> = {
        let other = Fixture::new();
        let hosts = (6..8).chain(20..18 + CAPACITY.bans as u8);
        hosts.for_each(|i| drop(other.lists.ban(order(host(i))).unwrap()));
        let mut batch = Batch::default();
        let shared = &other.lists.0.shared;
        let mut held = shared.bans();
        held.mark_unwritten((0..=255).map(host));
        held.take_unwritten(&mut batch, usize::MAX, other.clock);
        let rows = batch.bans.into_iter();
        rows.filter_map(|(prefix, row)| Some((prefix, row?)))
            .collect()
    };
    assert_eq!(bans.len(), CAPACITY.bans as usize);
    let held = f.lists.0.shared.bans();
    let mut rows: BTreeSet<IpNet> = held
        .deadlines()
        .into_iter()
        .map(|(prefix, _)| prefix)
        .collect();
    let mut batch = Batch::default();
    held.replacing(&bans, &[], f.clock, &mut batch);
    for (prefix, row) in batch.bans {
        match row {
            Some(_) => rows.insert(prefix),
            None => rows.remove(&prefix),
        };
    }
    assert_eq!(rows, bans.iter().map(|(prefix, _)| *prefix).collect());
}

/// Such a journal a build before this one could leave behind.
#[test]
fn of_more_bans_than_there_is_room_for_those_that_have_ended_are_left_out() {
    let f = full_of_bans();
    let last = host(CAPACITY.bans as u8);
    let row = |f: &Fixture, prefix: IpNet| {
        let mut batch = Batch::default();
        let mut held = f.lists.0.shared.bans();
        held.mark_unwritten([prefix]);
        held.take_unwritten(&mut batch, usize::MAX, f.clock);
        batch.bans.into_iter().find_map(|(_, row)| row).unwrap()
    };
    let (live, spent) = (row(&f, host(2)), row(&f, last));
    f.lists.flush();
    let Fixture {
        lists, dir, clock, ..
    } = f;
    let live_bans = lists.counts().bans.total();
    drop(lists);
    let open = || Lists::open(dir.path(), FakeMaps::default(), CAPACITY, clock);
    let write = |rows: Vec<(IpNet, Option<BanRecord>)>| {
        let batch = Batch {
            bans: rows,
            ..Batch::default()
        };
        Journal::open(dir.path()).unwrap().0.commit(&batch).unwrap();
    };
    write((200..210).map(|i| (host(i), Some(spent.clone()))).collect());
    let lists = open().unwrap();
    assert_eq!(lists.counts().bans.total(), live_bans);
    drop(lists);
    write(
        (100..100 + CAPACITY.bans as u8)
            .map(|i| (host(i), Some(live.clone())))
            .collect(),
    );
    let refused = open().unwrap_err();
    assert!(
        matches!(refused, OpenError::Capacity { table: "bans", .. }),
        "{refused}"
    );
}

#[test]
fn a_kernel_is_behind_for_one_start_alone() {
    let f = killed(Fixture::new(), saved(&filled()), false);
    f.lists.flush();
    // Of a rule, when the disk took nothing any more.
    f.maps.ban(host(9), FOREVER).unwrap();
    let (maps, clock) = (f.maps.clone(), f.clock);
    let f = f.reopened(maps, clock);
    assert_eq!(ends(&f, host(9)).1, Some(FOREVER));
}

/// The rule loop bans beside the transaction of a restore, which would have ended that ban.
#[test]
fn bans_that_were_made_beside_a_restore_stop_no_start() {
    let f = Fixture::new();
    let _ = f.lists.ban(order(host(1))).unwrap();
    let row = {
        let mut batch = Batch::default();
        let mut held = f.lists.0.shared.bans();
        held.mark_unwritten([host(1)]);
        held.take_unwritten(&mut batch, usize::MAX, f.clock);
        batch.bans.into_iter().find_map(|(_, row)| row).unwrap()
    };
    let Fixture {
        lists, clock, dir, ..
    } = f;
    drop(lists);
    let mut newest = row.clone();
    newest.created_at += time::Duration::seconds(1);
    let last = CAPACITY.bans as u8;
    let rows = (1..=last).map(|i| (host(i), Some(row.clone())));
    let batch = Batch {
        bans: [(host(0), Some(newest))].into_iter().chain(rows).collect(),
        restore: Some(Some(RestoreRecord {
            besides: json!("rules"),
            is_in_force: false,
        })),
        ..Batch::default()
    };
    Journal::open(dir.path()).unwrap().0.commit(&batch).unwrap();
    let lists = Lists::open(dir.path(), FakeMaps::default(), CAPACITY, clock).unwrap();
    let kept = lists.bans(PageQuery::default()).unwrap().entries;
    let kept: Vec<IpNet> = kept.iter().map(|ban| ban.prefix).collect();
    assert_eq!(kept, (1..=last).map(host).collect::<Vec<_>>());
}
