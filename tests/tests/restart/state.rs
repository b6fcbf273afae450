//! State directories on which nothing can be written, or that hold what this daemon cannot read.

use std::fs;

use packetwatch_tests::SmallDisk;
use packetwatch_tests::daemon::refused;
use serde_json::json;

use crate::scene::{PORTS, Scene};

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
    let journal = scene.daemon.state_dir().join("journal.redb");
    assert!(detail.contains(journal.to_str().unwrap()), "{detail}");
    let remedy = "See to the state directory's disk";
    assert!(detail.contains(remedy), "{detail}");
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
    // The ban was on no disk until there was room, and went there with the write that found it.
    scene.daemon.kill();
    scene.daemon.restart();
    assert_eq!(entries(&scene), kept + 1);
    scene.assert_silence(0);
    scene.assert_silence(1);
    scene.daemon.terminate();
    drop(disk);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_start_without_room_or_rights_names_the_directory_and_the_remedy() {
    let mut scene = Scene::new("10m");
    scene.daemon.terminate();
    let state = scene.daemon.state_dir();
    let shown = state.display().to_string();
    let disk = SmallDisk::mount(&state);

    let filler = disk.fill();
    refused(
        scene.daemon.command(),
        &[&shown, "No space left", "state_dir"],
    );
    fs::remove_file(filler).expect("make room");
    disk.set_read_only(true);
    refused(
        scene.daemon.command(),
        &[&shown, "Read-only file system", "state_dir"],
    );
    assert!(!scene.is_filtered());
    disk.set_read_only(false);

    // What a first start without room left behind does not stand in the way of the next.
    scene.daemon.restart();
    scene.expect(201, "PUT", "/v1/deny/203.0.113.0/24", None);
    scene.daemon.terminate();

    // With a journal there, as well.
    disk.set_read_only(true);
    refused(
        scene.daemon.command(),
        &[&shown, "Read-only file system", "state_dir"],
    );
    disk.set_read_only(false);
    scene.daemon.restart();
    let deny = scene.expect(200, "GET", "/v1/deny", None);
    assert_eq!(deny["entries"][0]["prefix"], "203.0.113.0/24");
    scene.assert_served(0, &PORTS);
    scene.daemon.terminate();
    drop(disk);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_journal_of_a_newer_version_is_refused_and_left_as_it_is() {
    let mut scene = Scene::new("10m");
    scene.expect(201, "PUT", "/v1/deny/203.0.113.0/24", None);
    scene.daemon.terminate();
    let path = scene.daemon.state_dir().join("journal.redb");
    let set_version = |version: u64| {
        let database = redb::Database::create(&path).expect("open the journal");
        let transaction = database.begin_write().expect("begin");
        let meta = redb::TableDefinition::<&str, u64>::new("meta");
        transaction
            .open_table(meta)
            .expect("the table of the version")
            .insert("version", version)
            .expect("write the version");
        transaction.commit().expect("commit");
    };
    set_version(4);
    let shown = path.display().to_string();
    let words = [shown.as_str(), "version 4", "run the newer packetwatch"];
    for _ in 0..2 {
        refused(scene.daemon.command(), &words);
        assert!(!scene.is_filtered());
    }
    set_version(3);
    scene.daemon.restart();
    let deny = scene.expect(200, "GET", "/v1/deny", None);
    assert_eq!(deny["entries"][0]["prefix"], "203.0.113.0/24");
}
