//! What is not left behind: pins, directories, locks; and what is, filters that nobody configures any
//! more.

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use aya::maps::MapData;
use nix::fcntl::{Flock, FlockArg};
use packetwatch_abi::VERSION;
use packetwatch_tests::bpf;
use packetwatch_tests::daemon::refused;
use serde_json::{Value, json};

use crate::scene::{PROMPT, Scene};
use crate::wire::Wire;

const LOCKS: &str = "/run/packetwatch";

/// Of daemons in this namespace. What a killed one has left goes with the next start of any daemon of the
/// host, those of other tests too: only what is held can be counted on.
fn locks(namespace: u64) -> Vec<String> {
    let files = fs::read_dir(LOCKS).into_iter().flatten();
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    let ending = format!("@{namespace}.lock");
    names.filter(|name| name.ends_with(&ending)).collect()
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).expect("read it").next().is_none()
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_clean_end_and_detach_leave_nothing() {
    let mut scene = Scene::new("10m");
    assert_eq!(locks(scene.namespace()).len(), 1);
    scene.daemon.terminate();
    assert_eq!(locks(scene.namespace()), [""; 0]);
    assert!(is_empty(scene.daemon.bpffs()), "{:?}", scene.pins());

    scene.daemon.restart();
    scene.daemon.kill();
    let detached = scene.detach(&[]);
    assert_eq!(detached.status.code(), Some(0), "{detached:?}");
    assert_eq!(locks(scene.namespace()), [""; 0]);
    assert!(is_empty(scene.daemon.bpffs()), "{:?}", scene.pins());
}

/// Who may open a lock may hold it, and with it keep every daemon off the interface.
#[test]
#[ignore = "needs root: network namespaces, BPF and another user"]
fn a_lock_is_for_nobody_else_and_who_holds_it_is_named() {
    let mut scene = Scene::new("10m");
    let path = Path::new(LOCKS).join(&locks(scene.namespace())[0]);
    let is_open = |path: &Path| {
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        nobody.args(["test", "-r"]).arg(path);
        nobody.output().expect("run setpriv").status.success()
    };
    assert!(
        is_open(Path::new("/proc/self/status")),
        "setpriv or test fails"
    );
    assert!(!is_open(&path));
    scene.daemon.kill();
    let held = held(&path);
    // As an earlier build left them.
    let open_to_all = Permissions::from_mode(0o644);
    held.set_permissions(open_to_all).expect("it is root's");
    let pid = format!("process {} holds", std::process::id());
    refused(
        scene.daemon.command(),
        &["pw0", &path.display().to_string(), &pid],
    );
    assert!(!is_open(&path), "it is as it was found");
    drop(held);
    scene.daemon.restart();
}

/// The lock of a daemon that was killed, whether or not somebody has removed the file.
fn held(path: &Path) -> Flock<fs::File> {
    loop {
        let file = fs::File::create(path).expect("make it");
        let held = Flock::lock(file, FlockArg::LockExclusive).expect("lock it");
        let held_inode = held.metadata().expect("it is open").ino();
        if fs::metadata(path).is_ok_and(|named| named.ino() == held_inode) {
            return held;
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_pin_of_something_else_gives_way_and_is_told() {
    let mut scene = Scene::new("10m");
    let pin = scene.pin(VERSION, "pw0");
    scene.daemon.terminate();
    let path = scene.daemon.bpffs().join(&pin);
    fs::create_dir_all(path.parent().expect("a directory")).expect("make it");
    let map = MapData::from_fd(bpf::array(8, 1).expect("make a map")).expect("it is a map");
    map.pin(&path).expect("pin it");
    scene.daemon.restart();
    assert_eq!(scene.pins(), [pin]);
    let told = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains("a pin of no XDP link") && message.contains(&path.display().to_string())
    };
    scene.daemon.wait_for(told, PROMPT);
    scene.daemon.kill();
    assert!(
        scene.is_filtered(),
        "the map is pinned still, and not the filter"
    );
}

/// Neither pins nor locks of a namespace that is gone outlive the next start; what lives stays.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_a_deleted_namespace_has_left_is_removed() {
    let mut gone = Scene::new("10m");
    let mut scene = Scene::new("10m");
    gone.set("interfaces", "[\"pw0\", \"pw1\"]");
    gone.daemon.restart();
    let namespace = gone.namespace();
    assert_eq!(locks(namespace).len(), 2);
    gone.daemon.kill();
    gone.lan.host.ip(["link del pw0"]);

    // As if both daemons had one BPF file system: the pins of each, one dead and one alive.
    scene.daemon.terminate();
    let version = scene
        .daemon
        .bpffs()
        .join(format!("packetwatch/abi-{VERSION}"));
    let from = gone.daemon.bpffs().join(gone.pin(VERSION, "pw0"));
    fs::create_dir_all(&version).expect("make it");
    let to = version.join(gone.pin_namespace());
    fs::rename(from.parent().expect("a directory"), &to).expect("move the pins");
    scene.daemon.restart();
    assert!(!to.join("pw0").exists(), "its link is dead");
    assert!(to.join("pw1").exists() && gone.lan.host.xdp("pw1").is_some());
    assert_eq!(locks(namespace), [""; 0]);

    gone.lan.host.ip(["link del pw1"]);
    scene.daemon.restart();
    assert!(!to.exists());
    assert_eq!(scene.pins(), [scene.pin(VERSION, "pw0")]);
}

/// Its rules are not those of the daemon that runs, whose windows it must not touch.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_filter_that_nobody_configures_stays_alone_and_is_told() {
    let rule = |calls: u32| {
        format!(
            "[[rules]]\nname = \"calls\"\nconnections = {calls}\nwithin = \"1h\"\nban = \"1h\"\n"
        )
    };
    let mut scene = Scene::with("10m", |builder| builder.rules_toml(rule(100)));
    scene.set("interfaces", "[\"pw0\", \"pw1\"]");
    scene.daemon.restart();
    let denied = scene.address(1);
    scene.expect(201, "PUT", &format!("/v1/deny/{denied}"), None);
    scene.daemon.kill();
    scene.set("interfaces", "[\"pw0\"]");
    let edited = |text: String| text.replace("connections = 100", "connections = 3");
    scene.daemon.edit_config(edited);
    scene.daemon.restart();

    let left = |line: &Value| line["event.action"] == "leftover-found";
    let line = scene.daemon.wait_for(left, PROMPT);
    assert_eq!(line["observer.ingress.interface.name"], "pw1", "{line}");
    let program = &line["packetwatch.program_id"];
    let leftovers = || scene.expect(200, "GET", "/v1/status", None)["leftovers"].clone();
    assert_eq!(leftovers(), json!([{"name": "pw1", "program_id": program}]));
    assert!(scene.lan.host.xdp("pw1").is_some());

    let [first, second] = [0, 1].map(|n| Wire::of(&scene.lan.host, &scene.lan.segments[n]));
    let (caller, IpAddr::V4(denied)) = (Ipv4Addr::new(198, 18, 9, 9), denied) else {
        panic!("{denied} is an IPv4 address");
    };
    assert!(
        second.passed(&[denied], false).is_empty(),
        "it judges still"
    );
    let mut passed = [0, 0];
    for _ in 0..6 {
        let calls = |wire: &Wire| wire.passed(&[caller], true).len();
        passed[0] += calls(&first);
        passed[1] += calls(&second);
    }
    assert_eq!(passed, [3, 6], "each by its own rule");

    let detached = scene.detach(&["--interface", "pw1"]);
    assert_eq!(detached.status.code(), Some(0), "{detached:?}");
    assert_eq!(leftovers(), json!([]));
    assert!(scene.lan.host.xdp("pw1").is_none() && scene.is_filtered());
    // With nobody beside it, a restart forgives nobody again.
    scene.daemon.kill();
    scene.daemon.restart();
    assert!(first.passed(&[caller], true).is_empty());
    let told = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        line["event.action"] == "inherited" && message.contains("its callers and bans go on")
    };
    scene.daemon.wait_for(told, PROMPT);
}
