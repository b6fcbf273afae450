//! What somebody does to the pins, which are why the filter stays when the daemon is killed.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use packetwatch_tests::Lan;
use packetwatch_tests::daemon::Builder;
use packetwatch_tests::intruder::Intruder;
use serde_json::Value;
use tempfile::TempDir;

use crate::programs::program_of;
use crate::scene::Scene;

/// The pinned link of pw0.
fn link(bpffs: &Path) -> PathBuf {
    let only = |path: PathBuf| {
        let mut entries = fs::read_dir(&path).expect("read a directory");
        entries.next().expect("it is not empty").unwrap().path()
    };
    only(only(bpffs.join("packetwatch"))).join("pw0")
}

fn maps(link: &Path) -> Vec<PathBuf> {
    let directory = link.with_file_name("pw0:maps");
    let maps = fs::read_dir(directory).expect("the maps are pinned");
    let mut maps: Vec<_> = maps.map(|map| map.unwrap().path()).collect();
    maps.sort();
    maps
}

fn reason(line: &Value) -> &str {
    line["event.reason"].as_str().expect("a reason")
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn taken_away_they_are_made_anew_and_the_filter_stays_after_kill_9() {
    let mut scene = Scene::new();
    let ours = scene.daemon.bpffs().join("packetwatch");
    let link = link(scene.daemon.bpffs());
    let whole = maps(&link);
    let all = || {
        for entry in fs::read_dir(&ours).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    };
    let line = scene.after(all, "pins-restored", "pw0");
    for word in ["link", "BANS_V4", "CALLERS", "LINES"] {
        assert!(reason(&line).contains(word), "{line}");
    }
    assert_eq!(scene.pinned(), ["pw0"]);
    assert_eq!(maps(&link), whole);
    assert_eq!(scene.metric("packetwatch_pins_lost_total"), 1);

    // One map, the link alone, and a map of the same shape in the place of ours.
    let map = |name: &str| link.with_file_name("pw0:maps").join(name);
    let one = || fs::remove_file(map("CALLERS")).unwrap();
    let line = scene.after(one, "pins-restored", "pw0");
    assert_eq!(reason(&line), "taken away were CALLERS");
    let line = scene.after(|| fs::remove_file(&link).unwrap(), "pins-restored", "pw0");
    assert_eq!(reason(&line), "taken away were link");
    let other = || fs::rename(map("BANS_V6"), map("BANS_V4")).unwrap();
    let line = scene.after(other, "pins-restored", "pw0");
    assert_eq!(reason(&line), "taken away were BANS_V4, BANS_V6");
    assert_eq!(maps(&link), whole);
    assert_eq!(scene.metric("packetwatch_pins_lost_total"), 4);

    scene.daemon.kill();
    scene.assert_filtered();
    scene.daemon.restart();
    assert_eq!(scene.lines_of("inherited"), 1);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn without_a_file_system_to_pin_to_it_is_told_once_until_there_is_one() {
    let bpffs = Mounted::new();
    let mut scene = Scene::with(Lan::new(), |daemon| daemon.bpffs(bpffs.path()));
    let line = scene.after(|| bpffs.unmount(), "pins-lost", "pw0");
    let error = line["error.message"].as_str().unwrap();
    let remedy = format!("mount -t bpf bpf {}", bpffs.path().display());
    assert!(error.contains(&remedy), "{line}");
    let told = scene.wait_for_state("pw0", "attached");
    assert_eq!(told["not_pinned"], error, "{told}");
    let pinned = r#"packetwatch_interface_pinned{interface="pw0"}"#;
    assert_eq!(scene.metric(pinned), 0);
    // It filters, which is what readiness is about.
    assert_eq!(scene.readiness(), 200);
    scene.assert_filtered();
    // With each change the daemon looks at everything again.
    for mtu in [1400, 1500] {
        let change = || scene.lan.host.ip([format!("link set pw0 mtu {mtu}")]);
        scene.after(change, "interface-changed", "pw0");
    }
    assert_eq!(scene.lines_of("pins-lost"), 1);
    // Put back all the same when it is taken off meanwhile.
    let intruder = Intruder::of(program_of(&scene));
    scene.after(|| intruder.detach(), "attached", "pw0");
    scene.assert_filtered();
    assert_eq!(scene.lines_of("pins-lost"), 1);
    let made = fs::read_dir(bpffs.path()).unwrap().count();
    assert_eq!(made, 0, "directories where no pins can be");

    scene.after(|| bpffs.mount(), "pins-restored", "pw0");
    let told = scene.wait_for_state("pw0", "attached");
    assert!(told["not_pinned"].is_null(), "{told}");
    assert_eq!(scene.metric(pinned), 1);
    assert_eq!(scene.metric("packetwatch_pins_lost_total"), 1);
    scene.daemon.kill();
    scene.assert_filtered();
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn an_end_that_was_to_keep_the_filter_tells_that_it_does_not() {
    let bpffs = Mounted::new();
    let kept = |daemon: Builder| daemon.bpffs(bpffs.path()).arg("--on-exit").arg("keep");
    let mut scene = Scene::with(Lan::new(), kept);
    scene.after(|| bpffs.unmount(), "pins-lost", "pw0");
    let mark = scene.daemon.log().len();
    scene.daemon.terminate();
    let line = scene.wait_for_line(mark, "detached", "pw0");
    assert!(reason(&line).contains("mount -t bpf bpf"), "{line}");
    assert!(scene.lan.host.xdp("pw0").is_none());
}

/// A BPF file system of the test's own.
struct Mounted(TempDir);

impl Mounted {
    fn new() -> Self {
        let mounted = Self(TempDir::new().expect("a directory"));
        mounted.mount();
        mounted
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    fn mount(&self) {
        let nothing = None::<&str>;
        mount(
            Some("bpf"),
            self.0.path(),
            Some("bpf"),
            MsFlags::empty(),
            nothing,
        )
        .expect("mount");
    }

    fn unmount(&self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).expect("unmount");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}
