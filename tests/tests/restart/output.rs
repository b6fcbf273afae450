//! Consumers and disks that fail the daemon: the filter goes on.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use packetwatch_tests::http::Request;
use packetwatch_tests::patience::until;
use serde_json::json;

use crate::scene::{PROMPT, Running, Scene};

/// Starts the scene's daemon again with a stdout of the test's own, which is handed out.
fn start(scene: &mut Scene) -> Running {
    scene.daemon.terminate();
    let mut command = scene.daemon.command();
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let running = Running(command.spawn().expect("run nsenter (package util-linux)"));
    let ready = until(PROMPT, || {
        let stream = std::os::unix::net::UnixStream::connect(scene.daemon.socket()).ok()?;
        let answer = Request::new("GET", "/readyz").exchange(stream).ok()?;
        (answer.status == 200).then_some(())
    });
    assert!(ready.is_some(), "the daemon was not ready in {PROMPT:?}");
    running
}

/// Many times what a pipe holds.
fn make_lines(scene: &Scene) {
    for n in 0..600 {
        let path = format!("/v1/deny/192.0.2.{}", n % 250);
        let answer = scene.daemon.api("PUT", &path, None);
        assert!([200, 201].contains(&answer.status), "{answer:?}");
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_stdout_that_closes_does_not_stop_the_filter() {
    let mut scene = Scene::new("10m");
    let mut running = start(&mut scene);
    drop(running.0.stdout.take());
    make_lines(&scene);
    scene.scan_into_ban(0);
    scene.assert_silence(0);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code(), Some(0));
    assert!(!scene.is_filtered());
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_stdout_that_blocks_does_not_stop_the_filter() {
    let mut scene = Scene::new("10m");
    let mut running = start(&mut scene);
    // Held open and never read.
    let unread = running.0.stdout.take();
    make_lines(&scene);
    scene.scan_into_ban(0);
    scene.assert_silence(0);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code(), Some(0));
    assert!(!scene.is_filtered());
    drop(unread);
}

/// A small file system of its own at a path; unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Self {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs"])
            .arg(path);
        assert!(mount.status().expect("run mount").success());
        Self(path.to_owned())
    }

    /// Fills it with a file, which is returned.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).expect("make a file");
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, for a daemon that a failing test has not stopped yet may hold it.
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let mut scene = Scene::new("10m");
    scene.daemon.terminate();
    let disk = SmallDisk::mount(&scene.daemon.state_dir());
    scene.daemon.restart();
    scene.expect(201, "PUT", "/v1/deny/203.0.113.0/24", None);
    let filler = disk.fill();

    let mut kept = 1;
    let refused = (0..200).find_map(|n| {
        let feed: Vec<_> = (0..250)
            .map(|m| json!({"prefix": format!("10.{n}.{m}.0/24"), "reason": "x".repeat(200)}))
            .collect();
        let answer = scene.daemon.api("POST", "/v1/deny", Some(&json!(feed)));
        if answer.status == 200 {
            kept += 250;
            return None;
        }
        Some(answer)
    });
    let refused = refused.expect("a full disk refuses a write at last");
    assert_eq!(refused.status, 503, "{refused:?}");
    let detail = refused.json()["detail"].to_string();
    assert!(detail.contains("nothing was changed"), "{detail}");
    assert!(detail.contains("disk"), "the remedy: {detail}");
    let entries =
        |scene: &Scene| scene.expect(200, "GET", "/v1/status", None)["lists"]["deny"].clone();
    assert_eq!(entries(&scene), kept, "all or nothing");
    // The filter goes on, and so do its bans.
    scene.scan_into_ban(0);
    scene.assert_silence(0);

    fs::remove_file(filler).expect("make room");
    let denied = scene.address(1);
    scene.expect(201, "PUT", &format!("/v1/deny/{denied}"), None);
    scene.assert_silence(1);
    // The ban was on no disk until there was room.
    std::thread::sleep(std::time::Duration::from_secs(2));
    scene.daemon.kill();
    scene.daemon.restart();
    assert_eq!(entries(&scene), kept + 1);
    scene.assert_silence(0);
    scene.assert_silence(1);
    scene.daemon.terminate();
    drop(disk);
}
