//! Starts that must not happen, each with a message that names the thing and the remedy.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use packetwatch_tests::daemon::{Process, binary, refused};
use packetwatch_tests::netns::Netns;
use packetwatch_tests::patience::until;
use packetwatch_tests::seccomp::{Lacking, deprive};

use crate::scene::{PORTS, PROMPT, Scene};

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let scene = Scene::new("10m");
    let other = TempDir::new().expect("a directory");
    let (state, socket) = (other.path().join("state"), other.path().join("api.sock"));
    let running = scene.lan.host.xdp("pw0");

    let mut same_state = scene.daemon.command();
    same_state
        .args(["--interface", "pw1", "--socket"])
        .arg(&socket);
    let journal = scene
        .daemon
        .state_dir()
        .join("journal.redb")
        .display()
        .to_string();
    refused(same_state, &[&journal, "in use by another packetwatch"]);

    let mut same_socket = scene.daemon.command();
    same_socket
        .args(["--interface", "pw1", "--state-dir"])
        .arg(&state);
    let taken = scene.daemon.socket().display().to_string();
    refused(
        same_socket,
        &["a daemon already answers on", &taken, "--socket"],
    );

    let mut same_interface = scene.daemon.command();
    same_interface
        .arg("--state-dir")
        .arg(&state)
        .arg("--socket")
        .arg(&socket);
    refused(
        same_interface,
        &["pw0 is filtered by another packetwatch process"],
    );

    // Of two interfaces one is taken: the other is let go of.
    let mut half = scene.daemon.command();
    half.args(["--interface", "pw1", "--interface", "pw0", "--state-dir"]);
    half.arg(&state).arg("--socket").arg(&socket);
    refused(half, &["pw0 is filtered by another packetwatch process"]);
    assert_eq!(scene.lan.host.xdp("pw1"), None);

    let mut missing = scene.daemon.command();
    missing.args(["--interface", "nope0", "--state-dir"]);
    missing.arg(&state).arg("--socket").arg(&socket);
    refused(missing, &["no interface nope0", "ip link"]);

    assert!(running.is_some());
    assert_eq!(scene.lan.host.xdp("pw0"), running);
    scene.scan_into_ban(0);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn state_of_a_newer_version_or_that_cannot_be_read_is_refused_by_name_and_left_as_it_is() {
    let mut scene = Scene::new("10m");
    scene.expect(201, "PUT", "/v1/deny/192.0.2.1", None);
    let state = scene.daemon.state_dir();
    scene.daemon.terminate();

    let newer: [(&str, &[u8]); 2] = [
        (
            "tokens.json",
            b"{\"version\": 2, \"tokens\": {\"kept\": \"otherwise\"}}",
        ),
        ("control.json", b"{\"v\": 2, \"kept\": \"otherwise\"}"),
    ];
    for (name, text) in newer {
        let path = state.join(name);
        let before = fs::read(&path).ok();
        fs::write(&path, text).expect("write into the state directory");
        let shown = path.display().to_string();
        refused(
            scene.daemon.command(),
            &[&shown, "newer", "run the newer packetwatch"],
        );
        assert_eq!(
            fs::read(&path).expect("read it"),
            text,
            "{name} was touched"
        );
        assert!(!scene.is_filtered());
        match before {
            Some(before) => fs::write(&path, before).expect("put it back"),
            None => fs::remove_file(&path).expect("remove it"),
        }
    }
    // What leads nowhere may be sound elsewhere.
    let path = state.join("rules.toml");
    symlink(&path, &path).expect("a link to itself");
    let shown = path.display().to_string();
    refused(scene.daemon.command(), &[&shown, "cannot read"]);
    assert!(!scene.is_filtered());
    fs::remove_file(path).expect("remove the link");

    let mut file = scene.daemon.command();
    let no_directory = state.join("token");
    file.arg("--state-dir").arg(&no_directory);
    let shown = no_directory.display().to_string();
    refused(file, &[&shown, "state_dir"]);
    let mut kernels = scene.daemon.command();
    kernels.args(["--state-dir", "/proc/packetwatch"]);
    refused(kernels, &["/proc/packetwatch", "state_dir"]);

    // With everything in its place again nothing is lost.
    scene.daemon.restart();
    let deny = scene.expect(200, "GET", "/v1/deny", None);
    assert_eq!(deny["entries"][0]["prefix"], "192.0.2.1/32");
    scene.assert_served(0, &PORTS);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_journal_that_is_gone_beside_the_tokens_is_told() {
    let mut scene = Scene::new("10m");
    let journal = scene.daemon.state_dir().join("journal.redb");
    let is_told = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with(&journal.display().to_string()) && message.contains("is missing")
    };
    assert!(
        !scene.daemon.lines().iter().any(is_told),
        "at the first start"
    );
    scene.daemon.terminate();
    fs::remove_file(&journal).expect("remove the journal");
    scene.daemon.restart();
    let line = scene.daemon.wait_for(is_told, PROMPT);
    assert_eq!(line["log.level"], "warn");
    let message = line["message"].as_str().expect("a message");
    assert!(message.contains("packetwatch restore"), "{message}");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_wrong_configuration_is_told_with_its_place_and_the_nearest_key() {
    let netns = Netns::new();
    let home = TempDir::new().expect("a directory");
    let path = home.path().join("packetwatch.toml");
    let shown = path.display().to_string();
    let start = |text: &[u8]| {
        fs::write(&path, text).expect("write the configuration");
        let mut command = netns.command(binary());
        command.args(["run", "--config", &shown]);
        command
    };
    // The text, the line, and what else is told.
    let table: [(&str, u32, &[&str]); 14] = [
        ("interfces = [\"eth0\"]\n", 1, &["interfces", "interfaces"]),
        (
            "mode = \"enforce\"\nstate_dri = \"/x\"\n",
            2,
            &["state_dri", "state_dir"],
        ),
        ("[api]\nlitsen = \"off\"\n", 2, &["litsen", "listen"]),
        ("[protcet]\nself = true\n", 1, &["protcet", "protect"]),
        (
            "[[rules]]\nname = \"a\"\ndistinct_port = 3\n",
            3,
            &["distinct_port", "distinct_ports"],
        ),
        ("mode = \"observ\"\n", 1, &["mode", "observ", "observe"]),
        ("mode = 7\n", 1, &["mode"]),
        ("interfaces = \"eth0\"\n", 1, &["interfaces"]),
        (
            "[api]\nlisten = \"nowhere\"\n",
            2,
            &["api.listen", "nowhere"],
        ),
        (
            "[protect]\nextra = [\"10.0.0.0/33\"]\n",
            2,
            &["protect.extra", "10.0.0.0/33"],
        ),
        (
            "[[rules]]\nname = \"a\"\nconnections = 5\nwithin = \"0s\"\n",
            4,
            &["within"],
        ),
        (
            "[[rules]]\nname = \"a\"\nconnections = 5\nbytes = 5\n",
            1,
            &["connections", "bytes"],
        ),
        ("mode = \"enforce\"\nmode = \"observe\"\n", 2, &["mode"]),
        ("mode = \n", 1, &[]),
    ];
    for (text, line, words) in table {
        let place = format!("{shown}:{line}");
        refused(start(text.as_bytes()), &[&[place.as_str()], words].concat());
    }
    // Everything that is wrong is told at once.
    let several = start(b"mdoe = \"observe\"\n[api]\nlitsen = \"off\"\n");
    refused(several, &[&format!("{shown}:1"), &format!("{shown}:3")]);
    refused(start(b"\xff\xfe"), &[&shown]);

    let mut variable = start(b"");
    variable.env("PACKETWATCH_MODE", "observ");
    refused(variable, &["PACKETWATCH_MODE", "observe"]);
    let mut variable = start(b"");
    variable.env("PACKETWATCH_API__LITSEN", "off");
    refused(
        variable,
        &["PACKETWATCH_API__LITSEN", "PACKETWATCH_API__LISTEN"],
    );

    fs::remove_file(&path).expect("remove the configuration");
    let mut missing = netns.command(binary());
    missing.args(["run", "--config", &shown]);
    refused(missing, &[&shown]);
    let mut directory = netns.command(binary());
    directory.args(["run", "--config"]).arg(home.path());
    refused(directory, &[&home.path().display().to_string()]);

    // No interface is named, and this namespace has no route.
    let mut nowhere = start(format!("state_dir = {:?}\n", home.path().join("state")).as_bytes());
    nowhere.args(["--socket", "off", "--api", "off"]);
    refused(nowhere, &["no default route", "--interface"]);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_the_host_does_not_grant_is_named() {
    let mut scene = Scene::new("10m");
    scene.daemon.terminate();

    // Root without a single capability, who can still read every file of root's.
    let mut powerless = scene.lan.host.command("setpriv");
    powerless.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
    let run = scene.daemon.command();
    // After nsenter's own arguments, which the new command has already.
    let arguments = run.get_args().skip_while(|argument| *argument != binary());
    powerless.args(arguments);
    refused(powerless, &["CAP_BPF", "root"]);

    // No directory is mounted over that holds files, and without the rights none at all.
    let own = scene.daemon.bpffs().as_os_str();
    let home = TempDir::new().expect("a directory");
    let with_bpffs = |mut command: Command, other: &OsStr| {
        let arguments = run.get_args().skip_while(|argument| *argument != binary());
        command.args(arguments.map(|argument| if argument == own { other } else { argument }));
        command
    };
    let full = home.path().join("full");
    fs::create_dir_all(full.join("of files")).expect("make a directory");
    let mounted = with_bpffs(scene.lan.host.command("env"), full.as_os_str());
    let shown = full.display().to_string();
    refused(
        mounted,
        &[&shown, "no BPF file system", "--bpffs", "/sys/fs/bpf"],
    );
    assert!(full.join("of files").is_dir());

    let empty = home.path().join("empty");
    let mut unable = scene.lan.host.command("setpriv");
    unable.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]);
    let mut unable = with_bpffs(unable, empty.as_os_str());
    unable.args(["--on-exit", "keep"]);
    let shown = empty.display().to_string();
    refused(unable, &["on_exit", "mount -t bpf", &shown]);
    assert!(!empty.exists(), "nothing is left of the attempt");
    assert!(!scene.is_filtered());
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_bpffs_is_mounted_on_an_empty_directory_and_on_a_new_one() {
    let mut scene = Scene::new("10m");
    scene.daemon.terminate();
    let home = TempDir::new().expect("a directory");
    let empty = home.path().join("empty");
    fs::create_dir(&empty).expect("make a directory");
    for path in [empty, home.path().join("not/yet")] {
        let run = scene.daemon.command();
        // The mount goes with the mount namespace, which is the process's own.
        let mut alone = scene.lan.host.command("unshare");
        alone.args(["--mount", "--"]);
        let arguments = run.get_args().skip_while(|argument| *argument != binary());
        let own = scene.daemon.bpffs().as_os_str();
        alone.args(arguments.map(|argument| match argument == own {
            true => path.as_os_str(),
            false => argument,
        }));
        alone.args(["--on-exit", "keep"]);
        let mut running = Process::start(alone);
        let filtered = until(PROMPT, || scene.is_filtered().then_some(()));
        assert!(filtered.is_some(), "{}", path.display());
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", running.pid()));
        let line = format!("bpf {} bpf ", path.display());
        assert!(mounts.expect("it runs").contains(&line), "{line}");
        assert_eq!(running.stop(Signal::SIGTERM).code(), Some(0));
        let gone = until(PROMPT, || (!scene.is_filtered()).then_some(()));
        assert!(gone.is_some(), "the pin went with its file system");
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_the_kernel_lacks_is_named_with_the_oldest_that_has_it() {
    let mut scene = Scene::new("10m");
    scene.daemon.terminate();
    let maps = [
        "BPF hash maps, since Linux 3.19",
        "BPF ring buffers, since Linux 5.8",
    ];
    let call = ["the bpf system call (CONFIG_BPF_SYSCALL)"];
    for (lacking, words) in [(Lacking::Maps, &maps[..]), (Lacking::Call, &call[..])] {
        let mut command = scene.daemon.command();
        deprive(&mut command, lacking);
        let told = ["this kernel (", "needs Linux 5.18 or later", "seccomp"];
        let stderr = refused(command, &[words, &told].concat());
        assert!(!stderr.contains("bpf_xdp_get_buff_len"), "{stderr}");
        assert!(!scene.is_filtered());
    }
}
