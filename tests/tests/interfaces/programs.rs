//! What somebody does to the program on the interface.

use packetwatch_tests::intruder::{Intruder, occupy};

use crate::scene::Scene;

pub(crate) fn program_of(scene: &Scene) -> u32 {
    let id = &scene.wait_for_state("pw0", "attached")["program_id"];
    u32::try_from(id.as_u64().expect("an id")).expect("ids are u32")
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn taken_off_it_is_put_back() {
    let scene = Scene::new();
    let intruder = Intruder::of(program_of(&scene));
    for times in 1..=2 {
        let mark = scene.daemon.log().len();
        let line = scene.after(|| intruder.detach(), "detached", "pw0");
        assert!(
            line["event.reason"].as_str().unwrap().contains("taken off"),
            "{line}"
        );
        scene.wait_for_line(mark, "attached", "pw0");
        scene.wait_for_state("pw0", "attached");
        scene.assert_filtered();
        assert_eq!(
            scene.metric(r#"packetwatch_detached_total{cause="taken-off"}"#),
            times
        );
    }
    scene.wait_for_readiness(200);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn taken_off_a_renamed_interface_it_is_put_back() {
    let scene = Scene::new();
    let intruder = Intruder::of(program_of(&scene));
    let rename = || {
        scene.lan.host.ip([
            "link set pw0 down",
            "link set pw0 name wan0",
            "link set wan0 up",
        ]);
    };
    scene.after(rename, "interface-changed", "wan0");
    scene.wait_for_state("wan0", "attached");
    scene.after(|| intruder.detach(), "attached", "wan0");
    let again = scene.wait_for_state("wan0", "attached");
    assert_eq!(again["configured_as"], "pw0");
    scene.assert_filtered();
    // It is pw0 that is waited for, and nothing else.
    scene.after(|| scene.lan.host.ip(["link del wan0"]), "detached", "wan0");
    scene.wait_for_state("pw0", "missing");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn replaced_it_is_put_back() {
    let scene = Scene::new();
    let intruder = Intruder::of(program_of(&scene));
    let mark = scene.daemon.log().len();
    let line = scene.after(|| intruder.replace(), "detached", "pw0");
    assert!(
        line["event.reason"].as_str().unwrap().contains("replaced"),
        "{line}"
    );
    scene.wait_for_line(mark, "attached", "pw0");
    scene.wait_for_state("pw0", "attached");
    scene.assert_filtered();
    assert_eq!(
        scene.metric(r#"packetwatch_detached_total{cause="replaced"}"#),
        1
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn while_another_program_is_there_it_is_told_once_and_tried_again() {
    let scene = Scene::new();
    let intruder = Intruder::of(program_of(&scene));
    let ifindex = scene
        .lan
        .host
        .run(|| nix::net::if_::if_nametoindex("pw0").unwrap());
    let mark = scene.daemon.log().len();
    // The daemon looks once a second, and may just then be the first to attach.
    let other = (0..5).find_map(|_| {
        intruder.detach();
        scene.lan.host.run(|| occupy(ifindex)).ok()
    });
    let other = other.expect("the interface is free for a moment");
    let line = scene.wait_for_line(mark, "attach-failed", "pw0");
    let error = line["error.message"].as_str().unwrap();
    for word in ["another XDP program", "program id", "bpftool link detach"] {
        assert!(error.contains(word), "{line}");
    }
    let detached = scene.wait_for_state("pw0", "detached");
    assert!(
        detached["error"]
            .as_str()
            .unwrap()
            .contains("another XDP program"),
        "{detached}"
    );
    scene.wait_for_readiness(503);
    std::thread::sleep(2 * crate::scene::NOTICED);
    assert_eq!(scene.lines_of("attach-failed"), 1);

    scene.after(|| drop(other), "attached", "pw0");
    scene.wait_for_state("pw0", "attached");
    scene.assert_filtered();
    scene.wait_for_readiness(200);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn one_of_several_that_another_holds_at_the_start_is_attached_to_when_it_is_free() {
    let mut scene = Scene::new();
    let host = &scene.lan.host;
    host.ip(["link add held0 type veth peer name far0"]);
    let other = host.run(|| occupy(nix::net::if_::if_nametoindex("held0").unwrap()));
    let other = other.expect("the interface is free");
    // A start comes to the one that is held first.
    let both = |text: String| text.replace("[\"pw0\"]", "[\"held0\", \"pw0\"]");
    scene.daemon.edit_config(both);
    scene.daemon.terminate();
    scene.daemon.restart_lacking();
    let line = scene.wait_for_line(0, "attach-failed", "held0");
    let error = line["error.message"].as_str().unwrap().to_owned();
    assert!(error.contains("another XDP program holds held0"), "{line}");
    scene.wait_for_readiness(503);
    let why = scene.daemon.api("GET", "/readyz", None);
    assert!(why.text().contains("holds held0"), "{why:?}");
    let state = |name: &str, state: &str| {
        let is = |one: &serde_json::Value| one["name"] == name && one["state"] == state;
        scene.wait_for_interfaces(|all| all.iter().any(is))
    };
    state("held0", "detached");
    state("pw0", "attached");
    scene.assert_filtered();
    std::thread::sleep(2 * crate::scene::NOTICED);
    let told = scene.lines_of("attach-failed");
    assert_eq!(told, 1, "{error}");

    scene.after(|| drop(other), "attached", "held0");
    scene.wait_for_readiness(200);
    scene.assert_filtered();
}
