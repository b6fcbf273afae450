//! What becomes of the interface itself.

use packetwatch_tests::{Family, Lan, Netns};
use serde_json::Value;

use crate::scene::{NOTICED, Scene};

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn down_and_up_it_stays_attached() {
    let scene = Scene::new();
    let before = scene.wait_for_state("pw0", "attached");
    let set = |state: &str| scene.lan.host.ip([format!("link set pw0 {state}")]);
    let line = scene.after(|| set("down"), "interface-changed", "pw0");
    assert_eq!(line["event.reason"], "down", "{line}");
    let down = scene.wait_for_state("pw0", "down");
    assert_eq!(down["program_id"], before["program_id"]);
    assert_eq!(scene.readiness(), 200, "nothing comes in unfiltered");
    let line = scene.after(|| set("up"), "interface-changed", "pw0");
    assert_eq!(line["event.reason"], "up", "{line}");
    let up = scene.wait_for_state("pw0", "attached");
    assert_eq!(up["interface_index"], before["interface_index"]);
    scene.assert_filtered();
    assert_eq!(scene.lines_of("attached"), 1);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn made_again_it_is_attached_to_again() {
    let scene = Scene::new();
    let dropped = r#"packetwatch_packets_total{interface="pw0",verdict="drop",reason="deny"}"#;
    let before = scene.metric(dropped);
    assert!(before > 0);
    for _ in 0..2 {
        scene.after(|| scene.lan.host.ip(["link del pw0"]), "detached", "pw0");
        let missing = scene.wait_for_state("pw0", "missing");
        assert_eq!(missing["program_id"], 0, "{missing}");
        let answer = scene.daemon.api("GET", "/readyz", None);
        assert_eq!(answer.status, 503);
        assert!(answer.text().contains("pw0 is missing"), "{answer:?}");
        assert_eq!(
            scene.metric(r#"packetwatch_interface_filtered{interface="pw0"}"#),
            0
        );

        scene.after(|| scene.lan.replug(), "attached", "pw0");
        scene.wait_for_state("pw0", "attached");
        scene.wait_for_readiness(200);
        scene.assert_filtered();
    }
    assert!(scene.metric(dropped) > before, "the counters go on");
    assert_eq!(
        scene.metric(r#"packetwatch_detached_total{cause="gone"}"#),
        2
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn renamed_it_stays_filtered_and_who_bears_the_name_is_too() {
    let scene = Scene::new();
    let before = scene.wait_for_state("pw0", "attached");
    let rename = || {
        // Not every kernel renames what is up.
        scene.lan.host.ip([
            "link set pw0 down",
            "link set pw0 name wan0",
            "link set wan0 up",
        ]);
    };
    let line = scene.after(rename, "interface-changed", "wan0");
    assert!(
        line["event.reason"]
            .as_str()
            .unwrap()
            .contains("renamed from pw0"),
        "{line}"
    );
    let renamed = scene.wait_for_state("wan0", "attached");
    assert_eq!(scene.pinned(), ["wan0"]);
    assert_eq!(renamed["configured_as"], "pw0");
    assert_eq!(renamed["interface_index"], before["interface_index"]);
    assert_eq!(renamed["program_id"], before["program_id"]);
    scene.wait_for_readiness(200);
    let own = format!("{}/32", scene.lan.segment().host(Family::V4));
    let allowed = || {
        scene
            .daemon
            .api("GET", "/v1/allow", None)
            .text()
            .contains(&own)
    };
    assert!(allowed(), "its addresses stay protected");

    // Another of the configured name.
    let other = Netns::new();
    let add = format!(
        "link add pw0 type veth peer name eth0 netns {}",
        other.name()
    );
    scene.after(
        || scene.lan.host.ip([add, "link set pw0 up".to_owned()]),
        "attached",
        "pw0",
    );
    let both = scene.wait_for_interfaces(|all| all.len() == 2);
    let of = |name| both.iter().find(|one| one["name"] == name).unwrap();
    assert_eq!(of("pw0")["configured_as"], "pw0");
    assert!(of("wan0")["configured_as"].is_null(), "{both:?}");
    assert!(scene.lan.host.xdp("pw0").is_some() && scene.lan.host.xdp("wan0").is_some());
    assert!(allowed());

    // The renamed one is nobody's once it is gone.
    scene.after(|| scene.lan.host.ip(["link del wan0"]), "detached", "wan0");
    scene.wait_for_state("pw0", "attached");
    scene.wait_for_readiness(200);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn exchanged_names_are_followed() {
    let mut scene = Scene::on(Lan::with_interfaces(2));
    let index = |name: &str| {
        let all = scene.interfaces();
        let one = all.iter().find(|one| one["name"] == name).unwrap();
        one["interface_index"].clone()
    };
    let (first, second) = (index("pw0"), index("pw1"));
    scene.lan.host.ip([
        "link set pw0 down",
        "link set pw1 down",
        "link set pw0 name pwx",
        "link set pw1 name pw0",
        "link set pwx name pw1",
        "link set pw0 up",
        "link set pw1 up",
    ]);
    scene.wait_for_interfaces(|all| {
        let is = |name: &str, index: &Value| {
            all.iter().any(|one| {
                one["name"] == name
                    && one["interface_index"] == *index
                    && one["state"] == "attached"
            })
        };
        is("pw1", &first) && is("pw0", &second)
    });
    assert_eq!(
        scene.lines_of("attached"),
        2,
        "neither was attached to anew"
    );
    scene.wait_for_readiness(200);
    assert_eq!(scene.pinned(), ["pw0", "pw1"]);
    // Their pins have gone with them.
    scene.daemon.kill();
    assert!(scene.lan.host.xdp("pw0").is_some() && scene.lan.host.xdp("pw1").is_some());
    for name in ["pw0", "pw1"] {
        let mut detach = scene.lan.host.command(packetwatch_tests::daemon::binary());
        detach.args(["detach", "--interface", name, "--bpffs"]);
        let done = detach.arg(scene.daemon.bpffs()).output().expect("run it");
        assert!(done.status.success(), "{done:?}");
        assert!(scene.lan.host.xdp(name).is_none());
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn moved_away_it_is_let_go_of_and_attached_to_when_it_is_back() {
    let scene = Scene::new();
    let elsewhere = Netns::new();
    let away = || {
        scene
            .lan
            .host
            .ip([format!("link set pw0 netns {}", elsewhere.name())])
    };
    let line = scene.after(away, "detached", "pw0");
    assert!(
        line["event.reason"].as_str().unwrap().contains("moved"),
        "{line}"
    );
    scene.wait_for_state("pw0", "missing");
    scene.wait_for_readiness(503);
    assert_eq!(
        elsewhere.xdp("pw0"),
        None,
        "it is filtered where it is not ours"
    );

    // A namespace's name is looked up by `ip` itself.
    let back = || elsewhere.ip([format!("link set pw0 netns {}", scene.lan.host.name())]);
    scene.after(back, "attached", "pw0");
    scene.wait_for_state("pw0", "down");
    assert!(scene.lan.host.xdp("pw0").is_some());
    scene.wait_for_readiness(200);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn another_mtu_and_address_are_noticed() {
    let scene = Scene::new();
    let set = || scene.lan.host.ip(["link set pw0 mtu 1400"]);
    let line = scene.after(set, "interface-changed", "pw0");
    assert_eq!(line["event.reason"], "MTU 1400 instead of 1500", "{line}");
    assert_eq!(scene.wait_for_state("pw0", "attached")["mtu"], 1400);

    for (address, of_link, alone) in [("198.18.0.99", 24, 32), ("2001:db8::99", 64, 128)] {
        let change = |what: &str| {
            let command = format!("address {what} {address}/{of_link} dev pw0");
            scene.lan.host.ip([command]);
        };
        let is_shown = |all: &[Value]| {
            let addresses = all[0]["addresses"].as_array().expect("a list");
            addresses.iter().any(|one| one == address)
        };
        for (what, told, protection) in [
            ("add", "added", "allow-added"),
            ("del", "removed", "allow-removed"),
        ] {
            let mark = scene.daemon.log().len();
            let line = scene.after(|| change(what), "interface-changed", "pw0");
            let reason = format!("address {address} {told}");
            assert_eq!(line["event.reason"], reason.as_str(), "{line}");
            scene.wait_for_interfaces(|all| is_shown(all) == (what == "add"));
            let prefix = format!("{address}/{alone}");
            let is_protection = |line: &Value| {
                line["event.action"] == protection && line["packetwatch.prefix"] == prefix.as_str()
            };
            scene.daemon.log().wait_from(mark, is_protection, NOTICED);
        }
    }
    scene.assert_filtered();
    assert_eq!(scene.lines_of("attached"), 1);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn one_of_several_that_is_missing_at_the_start_is_attached_to_when_it_comes() {
    let mut scene = Scene::new();
    let both = |text: String| text.replace("[\"pw0\"]", "[\"pw0\", \"late0\"]");
    scene.daemon.edit_config(both);
    scene.daemon.restart_lacking();
    let state = |name: &str, state: &str| {
        scene.wait_for_interfaces(|all| {
            all.iter()
                .any(|one| one["name"] == name && one["state"] == state)
        })
    };
    state("late0", "missing");
    scene.wait_for_readiness(503);
    let why = scene.daemon.api("GET", "/readyz", None);
    assert!(why.text().contains("no interface late0"), "{why:?}");
    scene.assert_filtered();
    let comes = || {
        scene
            .lan
            .host
            .ip(["link add late0 type veth peer name far0"])
    };
    scene.after(comes, "attached", "late0");
    scene.wait_for_readiness(200);
}
