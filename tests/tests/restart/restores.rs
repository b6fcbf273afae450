//! A restore while the disk refuses the files of the rules, and while the daemon is killed: what the next one
//! starts with is all of it or nothing.

use std::fs;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use packetwatch_tests::http::{Request, Response};
use packetwatch_tests::patience::until;
use serde_json::{Value, json};

use crate::scene::{PORTS, PROMPT, Scene};

const MEDIA: (&str, &str) = ("Content-Type", "application/jsonl");
/// So many that the transaction of the lists takes a while.
const DENIED: u32 = 20_000;
/// The kernel takes them one by one.
const BANNED: u32 = 3000;
/// This one of the clients is banned on one side alone.
const CLIENT: u8 = 1;
/// Kills at moments that are spread over the length of a restore, and a little beyond.
const KILLS: u32 = 12;

/// Denies 10.`n`.0.0/16 in single addresses, under rules and a mode of the API, or of the configuration.
fn set_up(scene: &Scene, n: u8, rules: Option<Value>, mode: Option<&str>) {
    let denied = (0..DENIED).map(|i| format!("10.{n}.{}.{}\n", i >> 8, i & 0xff));
    let put = scene.daemon.request(&Request {
        headers: vec![("Content-Type", "text/plain")],
        body: denied.collect::<String>().into_bytes(),
        ..Request::new("PUT", "/v1/deny")
    });
    assert_eq!(put.status, 200, "{put:?}");
    match rules {
        Some(rules) => scene.expect(200, "PUT", "/v1/rules", Some(rules)),
        None => scene.expect(200, "DELETE", "/v1/rules", None),
    };
    match mode {
        Some(mode) => scene.expect(200, "PUT", "/v1/mode", Some(json!({ "mode": mode }))),
        None => scene.expect(200, "DELETE", "/v1/mode", None),
    };
}

fn named(name: &str) -> Option<Value> {
    let rule = json!({"name": name, "distinct_ports": 7, "within": "5s", "ban": "10m"});
    Some(json!({"rules": [rule]}))
}

fn backup(scene: &Scene) -> String {
    let backup = scene.daemon.request(&Request::new("GET", "/v1/backup"));
    assert_eq!(backup.status, 200, "{backup:?}");
    backup.text().to_owned()
}

fn restore(backup: &str) -> Request<'static> {
    Request {
        headers: vec![MEDIA],
        body: backup.as_bytes().to_vec(),
        ..Request::new("POST", "/v1/restore?force=true")
    }
}

/// With bans besides: half of them are the same prefixes on both sides, with other ends.
fn with_bans(backup: &str, n: u8, year: u32, client: Option<String>) -> String {
    let addresses = (0..BANNED).map(|i| match i % 2 {
        0 => format!("10.99.{}.{}", i >> 8, i & 0xff),
        _ => format!("10.{}.{}.{}", 100 + n, i >> 8, i & 0xff),
    });
    let mut lines: Vec<String> = backup.lines().map(str::to_owned).collect();
    lines.pop();
    lines.extend(addresses.chain(client).map(|address| {
        let ban = json!({
            "kind": "ban", "prefix": format!("{address}/32"), "rule": "scan", "reason": "ports",
            "offender": address, "repeat": 1, "within_seconds": 60,
            "created_at": "2026-01-01T00:00:00Z", "expires_at": format!("{year}-01-01T00:00:00Z"),
        });
        ban.to_string()
    }));
    lines.push(json!({"kind": "end", "lines": lines.len()}).to_string());
    lines.join("\n")
}

/// Two things that can stand, and that differ in everything.
fn two(scene: &Scene) -> [String; 2] {
    set_up(scene, 1, named("of-the-api"), Some("enforce"));
    let one = with_bans(
        &backup(scene),
        1,
        2050,
        Some(scene.address(CLIENT).to_string()),
    );
    set_up(scene, 2, None, None);
    let other = with_bans(&backup(scene), 2, 2060, None);
    // As the daemon writes them.
    [one, other].map(|text| {
        let done = scene.daemon.request(&restore(&text));
        assert_eq!(done.status, 200, "{}", done.text());
        backup(scene)
    })
}

/// As `one` has it, or the other.
fn assert_in_force(scene: &Scene, is_one: bool) {
    match is_one {
        true => scene.assert_silence(CLIENT),
        false => scene.assert_served(CLIENT, &PORTS[..1]),
    }
}

/// What is short enough to be shown: how many entries there are, rules and mode.
fn without_entries(backup: &str) -> Vec<&str> {
    backup.lines().filter(|line| line.len() < 1000).collect()
}

/// Without the line that says when and by whom it was made.
fn contents(backup: &str) -> Vec<&str> {
    backup.lines().skip(1).collect()
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_the_disk_refuses_of_a_restore_the_next_start_brings() {
    let mut scene = Scene::new("10m");
    let [one, other] = two(&scene);
    let file = scene.daemon.state_dir().join("rules.toml");
    for killed in [true, false] {
        let done = scene.daemon.request(&restore(&other));
        assert_eq!(done.status, 200, "{done:?}");
        // In the way of a file.
        fs::create_dir(&file).expect("rules of the configuration have no file");
        let done = scene.daemon.request(&restore(&one));
        assert_eq!(done.status, 200, "the journal has it: {done:?}");
        assert_eq!(contents(&backup(&scene)), contents(&one));
        let told = scene.daemon.api("GET", "/readyz", None);
        assert_eq!(told.status, 503, "{told:?}");
        assert!(told.text().contains("rules.toml"), "{told:?}");
        let refused = scene.expect(503, "PUT", "/v1/rules", named("refused"));
        let detail = refused["detail"].as_str().expect("a detail");
        assert!(detail.contains("rules.toml"), "{detail}");
        if killed {
            scene.daemon.kill();
        }
        fs::remove_dir(&file).expect("nothing is in it");
        if killed {
            scene.daemon.restart();
            let finished = |line: &Value| line["event.action"] == "restore-finished";
            let line = scene.daemon.wait_for(finished, PROMPT);
            assert_eq!(line["packetwatch.mode"], "enforce", "{line}");
        }
        let ready = || (scene.daemon.api("GET", "/readyz", None).status == 200).then_some(());
        assert!(until(PROMPT, ready).is_some(), "it is not ready");
        assert_eq!(contents(&backup(&scene)), contents(&one));
        assert_in_force(&scene, true);
        // It is finished: what comes after it stays.
        scene.expect(200, "PUT", "/v1/rules", named("after"));
        scene.daemon.kill();
        scene.daemon.restart();
        let rules = scene.expect(200, "GET", "/v1/rules", None);
        assert_eq!(rules["rules"][0]["name"], "after", "{rules}");
    }
}

/// The word that is to leave the journal may be taken out by who writes whatever it lacks, too.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_journal_that_is_back_ends_what_is_told_of_an_unfinished_restore() {
    let scene = Scene::new("10m");
    let backup = backup(&scene);
    let directory = scene.daemon.state_dir();
    let [rules, journal, away] =
        ["rules.toml", "journal.redb", "away"].map(|name| directory.join(name));
    for _ in 0..4 {
        fs::create_dir(&rules).expect("rules of the configuration have no file");
        let done = scene.daemon.request(&restore(&backup));
        assert_eq!(done.status, 200, "{done:?}");
        fs::rename(&journal, &away).expect("it is there");
        fs::remove_dir(&rules).expect("nothing is in it");
        let told = until(PROMPT, || {
            let answer = scene.daemon.api("GET", "/readyz", None);
            answer
                .text()
                .contains("a restore is not finished")
                .then_some(())
        });
        assert!(told.is_some(), "/readyz does not tell");
        let refused = scene.expect(503, "PUT", "/v1/mode", Some(json!({"mode": "observe"})));
        let detail = refused["detail"].as_str().expect("a detail");
        assert!(detail.contains("journal.redb"), "{detail}");
        fs::rename(&away, &journal).expect("put it back");
        let ready = || (scene.daemon.api("GET", "/readyz", None).status == 200).then_some(());
        assert!(until(PROMPT, ready).is_some(), "it is not ready");
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_daemon_killed_in_a_restore_has_all_of_it_or_nothing() {
    let mut scene = Scene::new("10m");
    let [one, other] = two(&scene);
    let began = Instant::now();
    let done = scene.daemon.request(&restore(&one));
    assert_eq!(done.status, 200, "{done:?}");
    let length = began.elapsed();
    let (mut stands, mut next) = ((&one, true), (&other, false));
    for kill in 0..KILLS {
        let socket = scene.daemon.socket();
        let request = restore(next.0);
        let asking = thread::spawn(move || -> Option<Response> {
            let stream = UnixStream::connect(socket).ok()?;
            request.exchange(stream).ok()
        });
        thread::sleep(length * kill / (KILLS - 2));
        scene.daemon.kill();
        let answer = asking.join().expect("it does not panic");
        scene.daemon.restart();
        let now = backup(&scene);
        let is_next = contents(&now) == contents(next.0);
        if let Some(answer) = answer {
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(is_next, "kill {kill}: it was acknowledged");
        }
        if is_next {
            std::mem::swap(&mut stands, &mut next);
        } else {
            assert!(
                contents(&now) == contents(stands.0),
                "kill {kill}: {:?}, neither what stood nor the backup",
                without_entries(&now)
            );
        }
        assert_in_force(&scene, stands.1);
    }
}
