//! What an operator's word does to real callers.

use packetwatch_tests::Family;

use crate::for_both_families;
use crate::scene::{PORTS, Scene, rule};

for_both_families![a_denied_prefix_gets_nothing, allow_inside_deny_passes];

fn a_denied_prefix_gets_nothing(family: Family) {
    let scene = Scene::new(family, &rule("1s", "10m", ""));
    let denied = scene.lan.segment().clients(family).to_string();
    scene.caller(0).assert_served(&PORTS[..1]);
    scene.change("PUT", "deny", &denied, 201);
    for n in [0, 7] {
        scene.caller(n).assert_silence(PORTS[0]);
    }
    // The gateway is a neighbour of the prefix, not in it.
    let segment = scene.lan.segment();
    let neighbour = scene.caller_at(segment, segment.gateway(family));
    neighbour.assert_served(&PORTS[..1]);
    scene.change("DELETE", "deny", &denied, 204);
    scene.caller(0).assert_served(&PORTS[..1]);
}

fn allow_inside_deny_passes(family: Family) {
    let scene = Scene::new(family, &rule("1s", "10m", ""));
    let (denied, allowed) = (scene.caller(0), scene.caller(1));
    let prefix = scene.lan.segment().clients(family).to_string();
    scene.change("PUT", "deny", &prefix, 201);
    allowed.assert_silence(PORTS[0]);
    let output = scene.daemon.cli(&["allow", "add", &scene.single(&allowed)]);
    assert!(output.status.success(), "{output:?}");
    allowed.assert_served(&PORTS);
    denied.assert_silence(PORTS[0]);
    // Allow wins whatever the lengths: a denied single address in an allowed prefix passes as well.
    scene.change("PUT", "allow", &prefix, 201);
    scene.change("PUT", "deny", &scene.single(&denied), 201);
    denied.assert_served(&PORTS[..1]);
}
