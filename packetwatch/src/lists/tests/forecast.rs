//! Whom a backup would drop is whom its lists and bans drop where it was made.

use super::{saved::saved, *};

/// As the lists say it of themselves.
fn dropped(f: &Fixture, address: IpAddr) -> Option<(IpAddr, Option<String>)> {
    let Covering { allow, deny, bans } = f.lists.covering(address);
    match (allow.is_empty(), deny.is_empty(), bans.first()) {
        (false, ..) | (_, true, None) => None,
        (_, false, _) => Some((address, None)),
        (.., Some(ban)) => Some((address, Some(ban.rule.clone()))),
    }
}

#[test]
fn a_backup_would_drop_whom_its_lists_and_bans_drop() {
    let f = Fixture::new();
    let force = Force(true);
    f.protect(&["198.51.100.4/32", "198.51.100.5/32", "2001:db8::5/128"])
        .unwrap();
    for prefix in ["198.51.100.0/28", "2001:db8::/64"] {
        f.lists.put(List::Deny, new(prefix), force).unwrap();
    }
    f.lists
        .put(List::Deny, new("198.51.100.5/32"), force)
        .unwrap();
    f.lists
        .put(List::Deny, brief("198.51.100.20/32", MINUTE), force)
        .unwrap();
    f.lists
        .put(List::Allow, new("198.51.100.8/30"), force)
        .unwrap();
    f.lists
        .put(List::Allow, brief("198.51.100.1/32", MINUTE), force)
        .unwrap();
    for banned in [9, 21, 22] {
        f.lists.ban(order(host(banned))).unwrap();
    }
    let v4 = (0..32).map(|i| host(i).addr());
    let v6 = ["2001:db8::5", "2001:db8::6", "2001:db8:1::6"].map(|a| a.parse().unwrap());
    let addresses: Vec<IpAddr> = v4.chain(v6).collect();
    let saved = saved(&f);
    let expected = |f: &Fixture| -> Vec<_> {
        let dropped = addresses.iter().map(|address| dropped(f, *address));
        dropped.flatten().collect()
    };
    let found = f.lists.would_drop(&saved, addresses.clone());
    assert_eq!(found, expected(&f));
    let of = |i: u8| found.iter().find(|(address, _)| *address == host(i).addr());
    assert!(of(4).is_none() && of(1).is_none() && of(9).is_none());
    assert!(of(5).is_some(), "its protection is taken away");
    assert_eq!(
        of(22).unwrap().1.as_deref(),
        Some(order(host(22)).rule.as_str())
    );
    // What has ended by then is not restored.
    f.clock.advance(2 * MINUTE);
    let found = f.lists.would_drop(&saved, addresses.clone());
    assert_eq!(found, expected(&f));
    assert!(found.contains(&(host(1).addr(), None)));
    // Lists without any of it would drop nobody whom these do.
    assert_eq!(f.lists.would_drop(&Saved::default(), addresses), []);
}
