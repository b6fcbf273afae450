//! An interface that another's program holds: who it is, and what takes it off.

use std::os::fd::OwnedFd;
use std::process::Command;

use aya::programs::loaded_links;
use packetwatch_tests::Program;
use packetwatch_tests::daemon::refused;
use packetwatch_tests::intruder::occupy;
use packetwatch_tests::programs::pin;

use crate::scene::{Scene, ended};

struct Held {
    scene: Scene,
}

impl Held {
    /// A daemon that has ended, on an interface that is free.
    fn new() -> Self {
        let mut scene = Scene::new("10m");
        scene.daemon.terminate();
        Self { scene }
    }

    fn occupy(&self) -> OwnedFd {
        let host = &self.scene.lan.host;
        let occupied = host.run(|| occupy(nix::net::if_::if_nametoindex("pw0").unwrap()));
        occupied.expect("the interface is free")
    }

    fn program(&self) -> u64 {
        let xdp = self.scene.lan.host.xdp("pw0").expect("it is held");
        xdp["prog"]["id"].as_u64().expect("an id")
    }

    /// The last words of a start must hold all these. Returns the remedy that they name.
    #[track_caller]
    fn refused(&self, words: &[&str]) -> String {
        self.refused_by(self.scene.daemon.command(), words)
    }

    #[track_caller]
    fn refused_by(&self, command: Command, words: &[&str]) -> String {
        let program = format!("program id {}", self.program());
        let held = ["another XDP program holds pw0", &program];
        let stderr = refused(command, &[&held, words].concat());
        let remedy = stderr.split('`').nth(1);
        remedy.expect("a remedy").to_owned()
    }

    /// The command of a start on both interfaces.
    fn on_both(&self) -> Command {
        let mut command = self.scene.daemon.command();
        command.args(["--interface", "pw0", "--interface", "pw1"]);
        command
    }

    /// Does as it was told, in the host's namespace.
    #[track_caller]
    fn obey(&self, remedy: &str) {
        let (program, arguments) = remedy.split_once(' ').expect("a command");
        let program = match program {
            "packetwatch" => packetwatch_tests::daemon::binary(),
            other => std::path::Path::new(other),
        };
        let mut command = self.scene.lan.host.command(program);
        command.args(arguments.split(' '));
        let output = ended(command);
        assert!(output.status.success(), "{remedy}: {output:?}");
        assert!(!self.scene.is_filtered(), "{remedy}");
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_foreign_link_is_named_with_its_pin() {
    let mut held = Held::new();
    let link = held.occupy();
    let program = held.program();
    let mut links = loaded_links().filter_map(Result::ok);
    let id = links.find(|link| u64::from(link.program_id()) == program);
    let id = id.expect("it is a link").id();
    let remedy = held.refused(&[&format!("link id {id}"), "not pinned"]);
    assert_eq!(remedy, format!("bpftool link detach id {id}"));

    let path = held.scene.daemon.bpffs().join("theirs");
    pin(&link, &path);
    held.refused(&[&format!("pinned at {}", path.display())]);
    std::fs::remove_file(path).expect("remove the pin");
    drop(link);
    held.scene.daemon.restart();
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_program_of_ip_link_is_taken_off_by_ip_link() {
    let mut held = Held::new();
    let path = held.scene.daemon.bpffs().join("theirs");
    Program::passing().pin(&path);
    for mode in ["xdpgeneric", "xdpdrv"] {
        // `ip -n` mounts a /sys of its own, without the pins.
        let mut ip = held.scene.lan.host.command("ip");
        ip.args(["link", "set", "dev", "pw0", mode, "pinned"])
            .arg(&path);
        let output = ended(ip);
        assert!(output.status.success(), "{output:?}");
        let pinned = format!("pinned at {}", path.display());
        let remedy = held.refused(&["without a link", &pinned]);
        assert_eq!(remedy, format!("ip link set dev pw0 {mode} off"));
        held.obey(&remedy);
    }
    std::fs::remove_file(path).expect("remove the pin");
    held.scene.daemon.restart();
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_filter_of_ours_on_another_bpffs_is_taken_off_by_detach() {
    let mut held = Held::new();
    held.scene.daemon.restart();
    held.scene.daemon.kill();
    let own = held.scene.daemon.bpffs();
    let other = own.join("other");
    // The same start, but for where it looks for pins.
    let run = held.scene.daemon.command();
    let mut elsewhere = Command::new(run.get_program());
    let arguments = run.get_args();
    elsewhere.args(arguments.map(|argument| match argument == own.as_os_str() {
        true => other.as_os_str(),
        false => argument,
    }));
    // It is found where everybody looks, which is not below its own --bpffs.
    let remedy = held.refused_by(elsewhere, &["\"packetwatch\"", "pinned at"]);
    let own = own.display();
    assert_eq!(
        remedy,
        format!("packetwatch detach --interface pw0 --bpffs {own}")
    );
    held.obey(&remedy);
    held.scene.daemon.restart();
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn where_others_hold_all_there_are_the_start_is_refused() {
    let mut held = Held::new();
    let first = held.occupy();
    let host = &held.scene.lan.host;
    let second = host.run(|| occupy(nix::net::if_::if_nametoindex("pw1").unwrap()));
    held.refused_by(held.on_both(), &[]);
    // Nor is one that is missing one to filter.
    host.ip(["link del pw1"]);
    held.refused_by(held.on_both(), &[]);
    drop((first, second));
    held.scene.daemon.restart();
}
