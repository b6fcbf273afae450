//! The five tests of the first Packetwatch, with its rule: three ports in one second.

use std::thread;
use std::time::Duration;

use packetwatch_tests::Family;
use serde_json::Value;

use crate::for_both_families;
use crate::scene::{PORTS, PROMPT, Scene, rule};

for_both_families![
    reachable,
    slow_scan_passes,
    hammered_port_passes,
    fast_scan_is_banned,
    allowed_fast_scan_passes,
];

fn seed(family: Family) -> Scene {
    Scene::new(family, &rule("1s", "10m", ""))
}

fn reachable(family: Family) {
    let scene = seed(family);
    for (n, port) in (0..).zip(PORTS) {
        let caller = scene.caller(n);
        caller.assert_served(&[port]);
        let source = caller.address.to_string();
        let line = scene.daemon.wait_for(
            |line| line["event.action"] == "connection" && line["source.ip"] == source.as_str(),
            PROMPT,
        );
        assert_eq!(line["destination.port"], port, "{line}");
        assert_eq!(
            line["destination.ip"],
            scene.lan.segment().host(family).to_string(),
            "{line}"
        );
        assert_eq!(line["network.transport"], "tcp", "{line}");
        assert_eq!(line["observer.ingress.interface.name"], "pw0", "{line}");
    }
}

fn slow_scan_passes(family: Family) {
    let scene = seed(family);
    let caller = scene.caller(0);
    for port in PORTS {
        caller.assert_served(&[port]);
        thread::sleep(Duration::from_millis(1500));
    }
    caller.assert_served(&PORTS[..1]);
    assert_eq!(scene.bans(), [] as [Value; 0]);
}

fn hammered_port_passes(family: Family) {
    let scene = seed(family);
    let caller = scene.caller(0);
    caller.assert_served(&[PORTS[0]; 6]);
    assert_eq!(scene.bans(), [] as [Value; 0]);
    let counted = scene.counted(&caller);
    assert_eq!(counted["distinct_ports"], 1, "{counted}");
    assert_eq!(counted["state"], "counted", "{counted}");
}

fn fast_scan_is_banned(family: Family) {
    let scene = seed(family);
    let scanner = scene.caller(0);
    let line = scene.scan_into_ban(&scanner);
    let prefix = scene.single(&scanner);
    assert_eq!(line["rule.name"], "port-scan", "{line}");
    assert_eq!(line["packetwatch.prefix"], prefix, "{line}");

    let bans = scene.bans();
    assert_eq!(bans.len(), 1, "{bans:?}");
    assert_eq!(bans[0]["prefix"], prefix);
    assert_eq!(scene.counted(&scanner)["state"], "banned");

    // The window of one second is over, so it is the ban that holds every port, and this caller alone.
    thread::sleep(Duration::from_millis(1200));
    for port in PORTS {
        scanner.assert_silence(port);
    }
    scene.caller(1).assert_served(&PORTS[..1]);
}

fn allowed_fast_scan_passes(family: Family) {
    let scene = seed(family);
    let scanner = scene.caller(0);
    scene.change("PUT", "allow", &scene.single(&scanner), 201);
    scanner.assert_served(&[PORTS, PORTS, PORTS].concat());
    assert_eq!(scene.bans(), [] as [Value; 0]);
    let counted = scene.counted(&scanner);
    assert_eq!(counted["state"], "allowed", "{counted}");
    assert!(counted["connections"].as_u64() >= Some(9), "{counted}");
}
