//! What somebody else does to the maps is found, counted and mended; what we do ourselves is not.

use packetwatch_abi::FOREVER;

use super::*;

fn filled() -> Fixture {
    let f = Fixture::new();
    f.put(List::Deny, "10.0.0.0/8");
    f.put(List::Allow, "10.1.0.0/16");
    f.protect(&["203.0.113.1/32"]).unwrap();
    f.lists.ban(order(host(1))).unwrap();
    f.lists.ban(order(host(2))).unwrap();
    f
}

fn assert_agreed(f: &Fixture) {
    assert_eq!(f.lists.reconcile_entries().unwrap(), Differences::default());
    assert_eq!(f.lists.reconcile_bans().unwrap(), Differences::default());
}

#[test]
fn entries_are_put_back_restored_and_thrown_out() {
    let f = filled();
    let before = f.maps.kernel().standings.clone();
    {
        let standings = &mut f.maps.kernel().standings;
        standings.remove(&net("10.0.0.0/8"));
        standings.get_mut(&net("10.1.0.0/16")).unwrap().allow_until = 0;
        let foreign = Standing {
            allow_until: FOREVER,
            ..Standing::default()
        };
        standings.insert(net("192.0.2.0/24"), foreign);
        standings.insert(net("2001:db8::/32"), foreign);
    }
    let found = f.lists.reconcile_entries().unwrap();
    assert_eq!((found.missing, found.changed, found.foreign), (1, 1, 2));
    assert!(found.example.is_some());
    assert_eq!(f.maps.kernel().standings, before);
    assert_agreed(&f);
}

#[test]
fn bans_are_put_back_restored_and_thrown_out() {
    let f = filled();
    let deadline = f.maps.kernel().bans[&host(2)].until;
    {
        let bans = &mut f.maps.kernel().bans;
        bans.remove(&host(1));
        bans.get_mut(&host(2)).unwrap().until = 0;
        bans.insert(host(9), Ban::default());
    }
    let found = f.lists.reconcile_bans().unwrap();
    assert_eq!((found.missing, found.changed, found.foreign), (1, 1, 1));
    let bans = f.maps.kernel().bans.clone();
    assert_eq!(bans.keys().copied().collect::<Vec<_>>(), [host(1), host(2)]);
    assert_eq!(bans[&host(2)].until, deadline);
    assert_agreed(&f);
}

#[test]
fn what_ends_is_no_difference_before_the_sweep_or_after_it() {
    let f = filled();
    f.lists
        .put(List::Deny, brief("10.1.2.0/24", MINUTE), Force(false))
        .unwrap();
    f.lists
        .put(List::Allow, brief("10.1.2.3/32", 2 * MINUTE), Force(false))
        .unwrap();
    f.lists.unban(host(2)).unwrap();
    for _ in 0..4 {
        f.clock.advance(MINUTE);
        assert_agreed(&f);
        f.lists.expire();
        assert_agreed(&f);
    }
    f.clock.advance(60 * MINUTE);
    assert_agreed(&f);
    f.lists.expire();
    assert_agreed(&f);
    f.clock.advance(2 * MINUTE);
    f.lists.expire();
    assert!(f.maps.kernel().bans.is_empty());
    assert_agreed(&f);
}

#[test]
fn a_restart_leaves_no_difference_whatever_had_ended() {
    let f = filled();
    f.lists.unban(host(2)).unwrap();
    let clock = f.clock;
    let f = f.reopened(FakeMaps::default(), clock);
    f.protect(&["203.0.113.1/32"]).unwrap();
    assert_agreed(&f);
    clock.advance(60 * MINUTE);
    let f = f.reopened(FakeMaps::default(), clock);
    assert_agreed(&f);
    f.lists.expire();
    assert_agreed(&f);
}

#[test]
fn writers_at_work_are_no_difference() {
    let f = Fixture::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..40u8 {
                let prefix = host(i % 7).to_string();
                f.put(List::Deny, &prefix);
                f.lists.ban(order(host(i % 5))).unwrap();
                f.lists.remove(List::Deny, net(&prefix)).unwrap();
                let _ = f.lists.unban(host(i % 3));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            assert_agreed(&f);
        }
    });
}

#[test]
fn what_the_kernel_refuses_is_found_again() {
    let f = filled();
    f.maps.kernel().standings.clear();
    f.maps.kernel().bans.clear();
    f.maps.kernel().takes = Some(0);
    f.lists.reconcile_entries().unwrap_err();
    f.lists.reconcile_bans().unwrap_err();
    f.maps.kernel().takes = None;
    assert_eq!(f.lists.reconcile_entries().unwrap().missing, 3);
    assert_eq!(f.lists.reconcile_bans().unwrap().missing, 2);
    assert_agreed(&f);
}
