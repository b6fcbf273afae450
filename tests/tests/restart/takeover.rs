//! What becomes of the filter that a killed daemon left, when the next one starts.

use aya::programs::loaded_links;
use packetwatch_abi::VERSION;
use packetwatch_tests::Netns;
use packetwatch_tests::daemon::{Process, refused};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::{PORTS, PROMPT, Scene, failed};

/// A client that is denied and [`BANNED`], until the daemon dies. The ban is on disk, with what was
/// acknowledged after it.
fn killed() -> Scene {
    let mut scene = Scene::new("10m");
    scene.scan_into_ban(BANNED);
    let denied = scene.address(1);
    scene.expect(201, "PUT", &format!("/v1/deny/{denied}"), None);
    scene.daemon.kill();
    scene
}

/// By a rule.
const BANNED: u8 = 2;

/// The mode and the link of the program on an interface. A link that stays was never let go of.
#[track_caller]
fn link_on(netns: &Netns, interface: &str) -> (Value, u32) {
    let xdp = netns.xdp(interface).expect("it is filtered");
    let program = xdp["prog"]["id"].as_u64().expect("an id");
    let mut links = loaded_links().filter_map(Result::ok);
    let link = links.find(|link| u64::from(link.program_id()) == program);
    (
        xdp["mode"].clone(),
        link.expect("it is held by a link").id(),
    )
}

/// Whether the start told so.
fn warned(scene: &Scene, words: &str) -> bool {
    let started = |line: &Value| line["event.action"] == "started";
    scene.daemon.wait_for(started, PROMPT);
    let says = |line: &Value| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains(words))
    };
    scene.daemon.lines().iter().any(says)
}

const GAP: &str = "unfiltered for a moment";
/// As `ip link` numbers them.
const NATIVE: u32 = 1;
const GENERIC: u32 = 2;

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_mode_that_it_has_already_is_taken_over_in_one_step() {
    let mut scene = killed();
    let before = link_on(&scene.lan.host, "pw0");
    assert_eq!(before.0, NATIVE, "veth runs XDP natively");
    for mode in ["native", "auto"] {
        scene.set("xdp_mode", &format!("{mode:?}"));
        scene.daemon.restart();
        assert_eq!(link_on(&scene.lan.host, "pw0"), before, "{mode}");
        assert!(!warned(&scene, GAP));
        let status = scene.expect(200, "GET", "/v1/status", None);
        assert_eq!(status["interfaces"][0]["xdp_mode"], "native", "{status}");
        scene.assert_silence(1);
        scene.assert_silence(BANNED);
        scene.daemon.kill();
    }
    assert_eq!(scene.pins(), [scene.pin(VERSION, "pw0")]);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn another_mode_is_taken_with_a_gap_that_is_told() {
    let mut scene = killed();
    let (_, before) = link_on(&scene.lan.host, "pw0");
    scene.set("xdp_mode", "\"generic\"");
    scene.daemon.restart();
    let (mode, link) = link_on(&scene.lan.host, "pw0");
    assert_eq!(mode, GENERIC);
    assert_ne!(link, before);
    assert!(warned(&scene, GAP));
    scene.assert_silence(1);
    scene.assert_silence(BANNED);
    scene.assert_served(0, &PORTS[..1]);
    assert_eq!(scene.pins(), [scene.pin(VERSION, "pw0")]);

    // Which mode the filter is in is no matter to who does not ask for one.
    scene.daemon.kill();
    scene.set("xdp_mode", "\"auto\"");
    scene.daemon.restart();
    assert_eq!(link_on(&scene.lan.host, "pw0"), (json!(GENERIC), link));
    let status = scene.expect(200, "GET", "/v1/status", None);
    assert_eq!(status["interfaces"][0]["xdp_mode"], "generic", "{status}");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_mode_that_the_driver_refuses_leaves_the_former_one() {
    let mut scene = Scene::new("10m");
    scene.daemon.terminate();
    // Loopback has no driver, and so no native XDP.
    scene.set("interfaces", "[\"lo\"]");
    scene.daemon.restart();
    scene.daemon.kill();
    let (mode, before) = link_on(&scene.lan.host, "lo");
    assert_eq!(mode, GENERIC);

    let mut native = scene.daemon.command();
    native.args(["--xdp-mode", "native"]);
    let words = refused(native, &[]);
    for word in [
        "lo",
        "native",
        "--xdp-mode generic",
        "generic mode as before",
    ] {
        assert!(words.contains(word), "{word:?} is not in: {words}");
    }
    let (mode, after) = link_on(&scene.lan.host, "lo");
    assert_eq!(mode, GENERIC);
    assert_ne!(after, before, "the mode was not tried");
    assert_eq!(scene.pins(), [scene.pin(VERSION, "lo")]);
    scene.daemon.restart();
    assert_eq!(link_on(&scene.lan.host, "lo").1, after);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_start_that_fails_leaves_the_other_filters() {
    let mut scene = killed();
    let before = link_on(&scene.lan.host, "pw0").1;
    let home = TempDir::new().expect("a directory");
    // Two daemons for one interface: what is another's program alone keeps no start from the others.
    let occupied = |scene: &Scene| {
        let mut command = scene.daemon.command();
        command.args(["--interface", "pw1", "--state-dir"]);
        command.arg(home.path().join("state")).arg("--socket");
        command.arg(home.path().join("api.sock"));
        let other = Process::start(command);
        let started = |line: &Value| line["event.action"] == "started";
        other.log.wait_from(0, started, PROMPT);
        other
    };
    let other = occupied(&scene);
    scene.set("interfaces", "[\"pw0\", \"pw1\"]");
    let words = ["pw1 is filtered by another packetwatch process"];
    refused(scene.daemon.command(), &words);
    assert_eq!(link_on(&scene.lan.host, "pw0").1, before);
    scene.assert_silence(1);
    drop(other);
    scene.daemon.restart();
    assert_eq!(link_on(&scene.lan.host, "pw0").1, before);

    // What the start attached to itself goes with it.
    scene.daemon.terminate();
    let other = occupied(&scene);
    refused(scene.daemon.command(), &words);
    assert!(!scene.is_filtered());
    drop(other);
    assert!(!scene.daemon.bpffs().join("packetwatch").exists());
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_filter_of_another_abi_version_is_taken_over_in_one_step() {
    let mut scene = killed();
    let before = link_on(&scene.lan.host, "pw0");
    let older = scene.pin(1, "pw0");
    scene.move_pin(&scene.pin(VERSION, "pw0"), &older);
    scene.daemon.restart();
    assert_eq!(link_on(&scene.lan.host, "pw0"), before);
    assert!(warned(&scene, &older), "it is told");
    assert_eq!(scene.pins(), [scene.pin(VERSION, "pw0")]);
    assert!(!scene.daemon.bpffs().join("packetwatch/abi-1").exists());
    scene.assert_silence(1);
    scene.assert_silence(BANNED);

    // Whose process lives is its own.
    scene.move_pin(&scene.pin(VERSION, "pw0"), &older);
    let state = scene.daemon.state_dir().with_file_name("other");
    let mut second = scene.daemon.command();
    second.args(["--socket", "off", "--state-dir"]).arg(&state);
    let words = refused(second, &[]);
    assert!(words.contains("another packetwatch process"), "{words}");
    // Beside the one that the daemon has made anew.
    assert!(scene.pins().contains(&older), "{:?}", scene.pins());
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn interfaces_that_were_renamed_meanwhile_keep_their_filters() {
    let mut scene = killed();
    let before = link_on(&scene.lan.host, "pw0").1;
    let other = Netns::new();
    scene.lan.host.ip([
        "link set pw0 down".to_owned(),
        "link set pw0 name wan0".to_owned(),
        "link set wan0 up".to_owned(),
        format!(
            "link add pw0 type veth peer name eth0 netns {}",
            other.name()
        ),
        "link set pw0 up".to_owned(),
    ]);
    scene.daemon.restart();
    // The new one is filtered, and the old one goes on by itself.
    assert_ne!(link_on(&scene.lan.host, "pw0").1, before);
    assert_eq!(link_on(&scene.lan.host, "wan0").1, before);
    let both = [scene.pin(VERSION, "pw0"), scene.pin(VERSION, "wan0")];
    assert_eq!(scene.pins(), both);
    scene.assert_silence(1);

    // Exchanged, they are taken over by who bears the name.
    scene.daemon.kill();
    let (new, old) = (link_on(&scene.lan.host, "pw0").1, before);
    scene.lan.host.ip([
        "link set pw0 down",
        "link set wan0 down",
        "link set pw0 name between",
        "link set wan0 name pw0",
        "link set between name wan0",
        "link set pw0 up",
        "link set wan0 up",
    ]);
    scene.daemon.restart();
    assert_eq!(link_on(&scene.lan.host, "pw0").1, old);
    assert_eq!(link_on(&scene.lan.host, "wan0").1, new);
    assert_eq!(scene.pins(), both);
    let detached = scene.detach(&["--interface", "wan0"]);
    assert_eq!(detached.status.code(), Some(0), "{detached:?}");
    assert!(scene.lan.host.xdp("wan0").is_none());
    assert_eq!(link_on(&scene.lan.host, "pw0").1, old);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_dead_filter_gives_way_and_one_that_left_is_let_go_of() {
    let mut scene = killed();
    scene.lan.host.ip(["link del pw0"]);
    scene.lan.replug();
    scene.daemon.restart();
    assert!(warned(&scene, "its link is dead"));
    assert!(scene.is_filtered());
    assert_eq!(scene.pins(), [scene.pin(VERSION, "pw0")]);

    // The index alone says nothing: elsewhere it is another interface's.
    let others = [Netns::new(), Netns::new()];
    for (elsewhere, index) in others.iter().zip(["", "index 77"]) {
        scene.lan.host.ip(["link del pw0"]);
        let add = format!(
            "link add pw0 {index} type veth peer name eth9 netns {}",
            elsewhere.name()
        );
        scene.lan.host.ip([add.as_str(), "link set pw0 up"]);
        scene.daemon.restart();
        scene.daemon.kill();
        let away = format!("link set pw0 netns {}", elsewhere.name());
        let again = add.replace("eth9", "eth8");
        scene.lan.host.ip([&away, &again, "link set pw0 up"]);
        assert!(elsewhere.xdp("pw0").is_some(), "the pin holds the filter");
        scene.daemon.restart();
        assert!(warned(&scene, "has left this network namespace"), "{index}");
        assert!(elsewhere.xdp("pw0").is_none());
        assert!(scene.is_filtered());
        assert_eq!(scene.pins(), [scene.pin(VERSION, "pw0")]);
        scene.daemon.kill();
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn detach_finds_the_filters_of_every_abi_version() {
    let mut scene = killed();
    scene.set("interfaces", "[\"pw0\", \"pw1\"]");
    scene.daemon.restart();
    scene.daemon.kill();
    scene.move_pin(&scene.pin(VERSION, "pw0"), &scene.pin(1, "pw0"));
    let detached = scene.detach(&[]);
    assert_eq!(detached.status.code(), Some(0), "{detached:?}");
    let mut told: Vec<_> = String::from_utf8_lossy(&detached.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    told.sort();
    let current = format!("detached from pw1 (abi-{VERSION})");
    assert_eq!(told, ["detached from pw0 (abi-1)", &current]);
    assert!(scene.lan.host.xdp("pw0").is_none() && scene.lan.host.xdp("pw1").is_none());
    assert!(scene.pins().is_empty());

    // Each one is said, also when there is nothing at one.
    scene.daemon.restart();
    scene.daemon.kill();
    scene.lan.host.ip(["link del pw1"]);
    let both = scene.detach(&["--interface", "pw0", "--interface", "pw7"]);
    let words = failed(&both);
    assert!(
        words.contains("pw7: no filter of it was left behind"),
        "{words}"
    );
    assert!(String::from_utf8_lossy(&both.stdout).contains("detached from pw0"));
    let dead = scene.detach(&[]);
    assert!(String::from_utf8_lossy(&dead.stdout).contains("pw1 was not filtered"));
    assert!(scene.pins().is_empty());
}
