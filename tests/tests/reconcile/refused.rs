//! Maps that the kernel lets nobody write any more: a daemon that cannot do its work is not ready.

use std::time::Duration;

use packetwatch_tests::patience;

use super::Scene;

/// The policy is written anew every ten seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `/readyz` is not ready, and returns its words.
fn not_ready(scene: &Scene) -> String {
    let words = || {
        let answer = scene.daemon.api("GET", "/readyz", None);
        (answer.status == 503).then(|| answer.json()["detail"].to_string())
    };
    patience::until(PATIENCE, words).expect("it is not ready")
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn who_cannot_ban_is_not_ready() {
    let scene = Scene::new();
    assert_eq!(scene.daemon.api("GET", "/readyz", None).status, 200);
    scene.intruder.freeze("BANS_V4");
    scene.scan(1..=1);
    let words = not_ready(&scene);
    assert!(words.contains("the kernel does not take bans"), "{words}");
    assert!(words.contains("BANS"), "{words}");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn who_cannot_write_the_policy_is_not_ready() {
    let scene = Scene::new();
    scene.intruder.freeze("POLICY");
    let words = not_ready(&scene);
    assert!(words.contains("the policy cannot be refreshed"), "{words}");
}
