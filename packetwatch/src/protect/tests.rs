use std::sync::{Arc, Mutex};

use tokio::time::sleep;

use super::*;
use crate::netlink::tests::{in_namespace, ip};

fn settings(own: bool, gateway: bool) -> Settings {
    Settings {
        interfaces: vec!["wan".into(), "no-such-one".into()],
        own,
        gateway,
        sessions: true,
        extra: vec!["203.0.113.0/24".parse().unwrap()],
    }
}

fn protector(netlink: &Netlink, settings: watch::Receiver<Settings>) -> Protector {
    let api_peers = || vec!["192.0.2.9".parse().unwrap()];
    Protector::new(netlink.clone(), settings, Sessions::none(), api_peers)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn settings_say_what_is_protected() {
    in_namespace(|| async {
        ip("addr add 198.18.0.1/24 dev wan");
        ip("addr flush dev wan scope link");
        ip("route add default via 198.18.0.254");
        let netlink = Netlink::connect().unwrap();
        let set = async |own, gateway| -> Vec<String> {
            let (_, settings) = watch::channel(settings(own, gateway));
            let set = protector(&netlink, settings).current().await.unwrap();
            set.into_iter()
                .map(|(prefix, reason)| format!("{prefix} {reason}"))
                .collect()
        };
        let own = "198.18.0.1/32 own address of wan";
        let hop = "198.18.0.254/32 next hop of wan";
        let others = [
            "192.0.2.9/32 API client with a token",
            "203.0.113.0/24 protect.extra of the configuration",
        ];
        assert_eq!(set(true, true).await, [others[0], own, hop, others[1]]);
        assert_eq!(set(true, false).await, [others[0], own, others[1]]);
        assert_eq!(set(false, true).await, [others[0], hop, others[1]]);
        assert_eq!(set(false, false).await, others);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_new_address_is_protected_within_a_second_and_a_failure_is_repeated() {
    in_namespace(|| async {
        ip("addr add 198.18.0.1/24 dev wan");
        let netlink = Netlink::connect().unwrap();
        let sets: Arc<Mutex<Vec<Vec<IpNet>>>> = Arc::default();
        let shutdown = CancellationToken::new();
        let (changing, following) = watch::channel(settings(true, true));
        let protector = protector(&netlink, following);
        let protected = Arc::new(Mutex::new(protector.current().await.unwrap()));
        let task = tokio::spawn(protector.run(
            {
                let protected = Arc::clone(&protected);
                move || protected.lock().unwrap().clone()
            },
            {
                let (sets, protected) = (Arc::clone(&sets), Arc::clone(&protected));
                move |set: Vec<(IpNet, String)>| {
                    let mut sets = sets.lock().unwrap();
                    sets.push(set.iter().map(|(prefix, _)| *prefix).collect());
                    // The first one is refused, and comes again with the next look.
                    if sets.len() == 1 {
                        return Err("full");
                    }
                    *protected.lock().unwrap() = set;
                    Ok(())
                }
            },
            shutdown.clone(),
        ));
        let added: IpNet = "198.18.0.2/32".parse().unwrap();
        let offered = || {
            let sets = sets.lock().unwrap();
            sets.iter().filter(|set| set.contains(&added)).count()
        };
        sleep(Duration::from_millis(500)).await;
        assert_eq!(sets.lock().unwrap().len(), 0, "what is established is");

        ip("addr add 198.18.0.2/24 dev wan");
        sleep(Duration::from_secs(1)).await;
        assert_ne!(offered(), 0);
        // With the next look, at the latest after five seconds.
        sleep(Duration::from_secs(6)).await;
        assert_eq!(offered(), 2);

        // A change that adds nothing to protect is not offered.
        ip("link set lan up");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(sets.lock().unwrap().len(), 2);

        // Other settings count at once, the same ones not at all.
        changing.send_replace(settings(true, true));
        sleep(Duration::from_millis(500)).await;
        assert_eq!(sets.lock().unwrap().len(), 2);
        let mut other = settings(true, true);
        other.extra.push("192.0.2.77/32".parse().unwrap());
        changing.send_replace(other);
        sleep(Duration::from_millis(500)).await;
        assert_eq!(sets.lock().unwrap().len(), 3);

        // What others have protected meanwhile goes with the next look, unless it belongs there.
        let other = ("192.0.2.78/32".parse().unwrap(), "gone since".to_owned());
        protected.lock().unwrap().push(other);
        sleep(Duration::from_secs(6)).await;
        assert_eq!(sets.lock().unwrap().len(), 4);
        shutdown.cancel();
        task.await.unwrap().unwrap();
    });
}

#[test]
fn loopback_unspecified_and_multicast_are_never_protected() {
    let mut set = Set::default();
    for never in [
        "127.0.0.1/32",
        "127.0.0.0/8",
        "::1/128",
        "0.0.0.0/32",
        "::/128",
        "224.0.0.1/32",
        "ff02::1/128",
        "255.255.255.255/32",
    ] {
        set.add_prefix(never.parse().unwrap(), Claim::Extra, "test");
        assert_eq!(set.0.len(), 0, "{never}");
    }
    let mapped = "::ffff:127.0.0.1".parse().unwrap();
    set.add(mapped, Claim::Session, "mapped loopback");
    assert_eq!(set.0.len(), 0);
}

#[test]
fn a_prefix_is_canonical_and_keeps_its_first_reason() {
    let mut set = Set::default();
    let [first, second] = ["198.51.100.7", "::ffff:198.51.100.7"].map(|a| a.parse().unwrap());
    set.add(first, Claim::Session, "first");
    set.add(second, Claim::Own, "second");
    set.add_prefix("2001:db8::1/64".parse().unwrap(), Claim::Extra, "extra");
    let expected = [("198.51.100.7/32", "first"), ("2001:db8::/64", "extra")];
    let expected = expected.map(|(prefix, reason)| (prefix.parse().unwrap(), reason.into()));
    assert_eq!(set.cut(2), (expected.to_vec(), Vec::new()));
}

#[test]
fn where_there_is_no_place_for_all_the_best_claims_have_theirs() {
    let claims = [
        ("192.0.2.5", Claim::ApiClient),
        ("192.0.2.4", Claim::Session),
        ("192.0.2.3", Claim::NextHop),
        ("192.0.2.2", Claim::Own),
        ("192.0.2.9", Claim::Session),
        // Named as well.
        ("192.0.2.9", Claim::Extra),
    ];
    for (places, expected) in [
        (5, &[2, 3, 4, 5, 9][..]),
        (4, &[2, 3, 4, 9]),
        (3, &[2, 3, 9]),
        (2, &[2, 9]),
        (1, &[9]),
    ] {
        let mut set = Set::default();
        for (address, claim) in claims {
            set.add(address.parse().unwrap(), claim, "test");
        }
        let (kept, left_out) = set.cut(places);
        let last = |(prefix, _): &(IpNet, String)| match prefix.addr() {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        let kept: Vec<u8> = kept.iter().map(last).collect();
        assert_eq!(kept, expected, "{places} places");
        assert_eq!(left_out.len(), 5 - places);
    }
}
