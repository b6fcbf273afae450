use std::{net::IpAddr, process::Command, time::Duration};

use futures_util::StreamExt as _;
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use tokio::time::{sleep, timeout};

use super::{Netlink, changes};

const PROMPT: Duration = Duration::from_secs(10);

/// Runs `test` in a network namespace of its own, which ends with the thread.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // Not dummies: some kernels are built without them.
        for name in ["wan", "lan"] {
            ip(&format!("link add {name} type veth peer name {name}-peer"));
            // No link-local addresses: they come seconds later, of themselves.
            ip(&format!("link set {name} addrgenmode none"));
            ip(&format!("link set {name}-peer addrgenmode none"));
            ip(&format!("link set {name}-peer up"));
        }
        ip("link set wan up");
        runtime.block_on(async { timeout(4 * PROMPT, test()).await.expect("in time") });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A child is in the namespace of the thread that starts it.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("ip of iproute2");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {words}");
}

fn addresses(of: &[&str]) -> Vec<IpAddr> {
    of.iter().map(|address| address.parse().unwrap()).collect()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn links_are_listed_with_what_matters() {
    in_namespace(|| async {
        ip("link set lan mtu 1400");
        let netlink = Netlink::connect().unwrap();
        let links = netlink.links().await.unwrap();
        let of = |name: &str| links.iter().find(|link| link.name == name).unwrap();
        assert_eq!(links.len(), 5); // lo and the far ends
        assert!(of("wan").up);
        assert!(!of("lan").up);
        assert_eq!(of("lan").mtu, 1400);
        assert_eq!(of("wan").xdp_program_id, None);
        let index = if_nametoindex("wan").unwrap();
        assert_eq!(of("wan").index, index);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn own_addresses_are_those_of_the_interface_alone() {
    in_namespace(|| async {
        ip("addr add 198.18.0.1/24 dev wan");
        ip("addr add 198.18.1.1 peer 198.18.1.2 dev wan");
        ip("addr add 2001:db8::1/64 dev wan");
        ip("addr add 198.18.2.1/24 dev lan");
        let netlink = Netlink::connect().unwrap();
        let index = if_nametoindex("wan").unwrap();
        let own = netlink.addresses(index).await.unwrap();
        for address in addresses(&["198.18.0.1", "198.18.1.1", "2001:db8::1"]) {
            assert!(own.contains(&address), "{address} in {own:?}");
        }
        assert_eq!(own.len(), 3, "{own:?}");
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn gateways_are_found_in_every_table_and_behind_every_path() {
    in_namespace(|| async {
        ip("link set lan up");
        ip("addr add 198.18.0.1/24 dev wan");
        ip("addr add 198.18.2.1/24 dev lan");
        ip("addr add 2001:db8::1/64 dev wan nodad");
        ip("route add default via 198.18.0.254");
        ip("route add 198.19.0.0/16 via 198.18.0.253 table 77");
        ip(concat!(
            "route add 198.18.64.0/18",
            " nexthop via 198.18.0.252 dev wan",
            " nexthop via 198.18.2.252 dev lan"
        ));
        ip("route add 198.18.4.0/24 via inet6 2001:db8::fd dev wan");
        ip("-6 route add default via 2001:db8::fe dev wan");
        let netlink = Netlink::connect().unwrap();
        let index = if_nametoindex("wan").unwrap();
        let hops: Vec<_> = netlink.gateways(index).await.unwrap().into_iter().collect();
        let expected = addresses(&[
            "198.18.0.252",
            "198.18.0.253",
            "198.18.0.254",
            "2001:db8::fd",
            "2001:db8::fe",
        ]);
        assert_eq!(hops, expected);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_default_interface_has_the_lowest_metric_and_ipv4_goes_first() {
    in_namespace(|| async {
        let netlink = Netlink::connect().unwrap();
        assert_eq!(netlink.default_interface().await.unwrap(), None);
        ip("link set lan up");
        ip("addr add 2001:db8::1/64 dev lan nodad");
        ip("-6 route add default via 2001:db8::fe dev lan");
        let default = netlink.default_interface().await.unwrap();
        assert_eq!(default.as_deref(), Some("lan"));
        ip("route add default dev lan metric 200");
        ip("route add default dev wan metric 100");
        ip("route add default dev lan metric 1 table 77");
        let default = netlink.default_interface().await.unwrap();
        assert_eq!(default.as_deref(), Some("wan"));
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_burst_of_changes_is_one_change() {
    in_namespace(|| async {
        let mut changes = changes().unwrap();
        // The kernel tells of a carrier up to a second late.
        let quiet = Duration::from_millis(1500);
        while let Ok(change) = timeout(quiet, changes.next()).await {
            assert!(change.is_some());
        }
        ip("addr add 198.18.0.1/24 dev wan");
        let change = timeout(PROMPT, changes.next()).await.unwrap().unwrap();
        assert!(
            change.addresses && change.routes && !change.links,
            "{change:?}"
        );
        for host in 2..50 {
            ip(&format!("addr add 198.18.0.{host}/24 dev wan"));
        }
        // Nobody reads meanwhile, and what comes is one change all the same.
        sleep(Duration::from_millis(300)).await;
        assert!(timeout(PROMPT, changes.next()).await.unwrap().is_some());
        let more = timeout(Duration::from_millis(500), changes.next()).await;
        assert!(more.is_err(), "{more:?}");
    });
}
