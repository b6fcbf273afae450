//! Writers at work while the disk under the journal fills up, turns read-only, and is well again:
//! each write is either acknowledged and kept, or refused and not there.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use packetwatch_tests::patience::{Raised, until};
use packetwatch_tests::{FailingDisk, SmallDisk};
use serde_json::{Value, json};

use crate::scene::{PROMPT, Scene};

/// Writers at a time.
const WRITERS: usize = 3;

/// Entries of one write, which is there whole or not at all. Each has a reason of some length, so
/// that a disk is full soon.
const ENTRIES: usize = 250;

/// Writes of each writer before it repeats itself: megabytes in all.
const FEEDS: usize = 8;

/// What the writers have been told.
#[derive(Default)]
struct Told {
    /// the prefixes of the writes that were acknowledged
    kept: Mutex<BTreeSet<String>>,
    /// how many writes were acknowledged, by writer
    acknowledged: Mutex<[usize; WRITERS]>,
    /// the words of the refusals, by writer
    refused: Mutex<[Vec<String>; WRITERS]>,
    ended: AtomicBool,
}

impl Told {
    /// Writes until told to end.
    fn write(&self, scene: &Scene, writer: usize) {
        for n in (0..FEEDS).cycle() {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let prefixes = (0..ENTRIES).map(|m| format!("10.{}.{m}.0/24", n + FEEDS * writer));
            let prefixes: Vec<String> = prefixes.collect();
            let feed = prefixes
                .iter()
                .map(|prefix| json!({"prefix": prefix, "reason": "x".repeat(200)}));
            let feed: Value = feed.collect();
            let answer = loop {
                let answer = scene.daemon.api("POST", "/v1/deny", Some(&feed));
                if answer.status == 200 || self.ended.load(Ordering::Relaxed) {
                    break answer;
                }
                assert_eq!(answer.status, 503, "{answer:?}");
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                let detail = answer.json()["detail"]
                    .as_str()
                    .expect("a detail")
                    .to_owned();
                self.refused.lock().unwrap()[writer].push(detail);
            };
            if answer.status == 200 {
                self.kept.lock().unwrap().extend(prefixes);
                self.acknowledged.lock().unwrap()[writer] += 1;
            }
        }
    }

    /// Waits until each writer was refused with these words, from now on.
    #[track_caller]
    fn wait_for_refusals(&self, words: &[&str]) {
        let before = self.refused.lock().unwrap().each_ref().map(Vec::len);
        let is_it = |text: &String| words.iter().all(|words| text.contains(words));
        let refused = until(PROMPT, || {
            let refused = self.refused.lock().unwrap();
            let mut each = refused.iter().zip(before);
            each.all(|(texts, from)| texts[from..].iter().any(is_it))
                .then_some(())
        });
        let last = || {
            self.refused
                .lock()
                .unwrap()
                .each_ref()
                .map(|texts| texts.last().cloned())
        };
        assert!(refused.is_some(), "{words:?} is not in {:?}", last());
    }

    /// Waits until a write of each writer is acknowledged, from now on.
    #[track_caller]
    fn wait_for_acknowledgements(&self) {
        let before = *self.acknowledged.lock().unwrap();
        let moved = until(PROMPT, || {
            let now = *self.acknowledged.lock().unwrap();
            now.iter()
                .zip(before)
                .all(|(now, before)| *now > before)
                .then_some(())
        });
        assert!(moved.is_some(), "no writer is served again");
    }
}

/// Lets writers write while `during` lasts.
fn beside_writers(scene: &Scene, during: impl FnOnce(&Told)) -> BTreeSet<String> {
    let told = Told::default();
    thread::scope(|scope| {
        let _end = Raised(&told.ended);
        for writer in 0..WRITERS {
            let told = &told;
            scope.spawn(move || told.write(scene, writer));
        }
        during(&told);
    });
    told.kept.into_inner().unwrap()
}

/// The words of `/readyz`, once its status is this.
#[track_caller]
fn readiness(scene: &Scene, status: u16) -> String {
    let answer = until(PROMPT, || {
        let answer = scene.daemon.api("GET", "/readyz", None);
        (answer.status == status).then_some(answer)
    });
    let answer = answer.unwrap_or_else(|| panic!("/readyz does not answer {status}"));
    answer.text().to_owned()
}

#[track_caller]
fn assert_denied(scene: &Scene, kept: &BTreeSet<String>) {
    let foreign = not_acknowledged(scene, kept);
    let some: Vec<_> = foreign.iter().take(3).collect();
    assert!(foreign.is_empty(), "refused and there: {some:?}");
}

/// What is denied and was not acknowledged. What was acknowledged has to be there.
#[track_caller]
fn not_acknowledged(scene: &Scene, kept: &BTreeSet<String>) -> BTreeSet<String> {
    let prefix = |entry: Value| entry["prefix"].as_str().expect("a prefix").to_owned();
    let denied: BTreeSet<_> = scene.all("/v1/deny").into_iter().map(prefix).collect();
    let lost: Vec<_> = kept.difference(&denied).take(3).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    denied.difference(kept).cloned().collect()
}

#[test]
#[ignore = "needs root: network namespaces, BPF and mounts"]
fn a_disk_that_fills_and_turns_read_only_under_writers_recovers_with_the_cause() {
    let mut scene = Scene::new("10m");
    scene.daemon.terminate();
    let disk = SmallDisk::mount(&scene.daemon.state_dir());
    scene.daemon.restart();
    let journal = scene.daemon.state_dir().join("journal.redb");
    let journal = journal.to_str().expect("UTF-8").to_owned();
    let remedy = "nothing was changed. See to the state directory's disk";

    let kept = beside_writers(&scene, |told| {
        told.wait_for_acknowledgements();
        readiness(&scene, 200);
        let filler = disk.fill();
        told.wait_for_refusals(&[&journal, "No space left on device", remedy]);
        let why = readiness(&scene, 503);
        assert!(
            why.contains(&journal) && why.contains("No space left"),
            "{why}"
        );

        disk.set_read_only(true);
        told.wait_for_refusals(&[&journal, "Read-only file system", remedy]);
        let why = readiness(&scene, 503);
        assert!(why.contains("state directory's disk"), "{why}");
        // The filter needs no disk.
        scene.scan_into_ban(0);

        disk.set_read_only(false);
        fs::remove_file(filler).expect("make room");
        told.wait_for_acknowledgements();
    });
    // By itself, also for what nobody writes again: the ban.
    readiness(&scene, 200);
    assert_denied(&scene, &kept);
    scene.daemon.kill();
    scene.daemon.restart();
    assert_denied(&scene, &kept);
    scene.assert_silence(0);
    scene.daemon.terminate();
    drop(disk);
}

#[test]
#[ignore = "needs root: network namespaces, BPF and loop devices"]
fn a_file_system_that_turns_read_only_by_an_error_loses_nothing_acknowledged() {
    let mut scene = Scene::new("10m");
    scene.daemon.terminate();
    let disk = FailingDisk::mount(&scene.daemon.state_dir());
    scene.daemon.restart();
    let journal = scene.daemon.state_dir().join("journal.redb");
    let journal = journal.to_str().expect("UTF-8").to_owned();
    let remedy = "nothing was changed. See to the state directory's disk";

    let kept = beside_writers(&scene, |told| {
        told.wait_for_acknowledgements();
        disk.fail();
        told.wait_for_refusals(&[&journal, "Read-only file system", remedy]);
        let why = readiness(&scene, 503);
        assert!(
            why.contains(&journal) && why.contains("Read-only file system"),
            "{why}"
        );
        scene.scan_into_ban(0);
    });
    assert_denied(&scene, &kept);

    // Linux lets go of such a file system before it takes it for sound: so must the daemon.
    scene.daemon.terminate();
    disk.unmount();
    disk.mount_again();
    scene.daemon.restart();
    // A write that the error met on its way may have got to the disk, which took nothing that would
    // have undone it: one of each writer at most, and whole.
    let doubtful = not_acknowledged(&scene, &kept);
    assert_eq!(doubtful.len() % ENTRIES, 0, "a write is there in part");
    assert!(doubtful.len() <= WRITERS * ENTRIES, "{}", doubtful.len());
    scene.expect(201, "PUT", "/v1/deny/203.0.113.0%2F24", None);
    scene.daemon.terminate();
    drop(disk);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn into_a_journal_that_was_removed_nothing_is_acknowledged() {
    let scene = Scene::new("10m");
    let journal = scene.daemon.state_dir().join("journal.redb");
    let aside = journal.with_extension("aside");
    let put = |n| {
        let path = format!("/v1/deny/203.0.113.{n}");
        scene.daemon.api("PUT", &path, None).status
    };
    assert_eq!(put(1), 201);
    fs::rename(&journal, &aside).expect("move the journal away");
    assert_eq!(put(2), 503);
    let words = readiness(&scene, 503);
    assert!(words.contains("journal.redb"), "{words}");
    fs::write(&journal, "another").expect("write a file");
    assert_eq!(put(3), 503);
    fs::rename(&aside, &journal).expect("move the journal back");
    readiness(&scene, 200);
    assert_eq!(put(4), 201);
}
