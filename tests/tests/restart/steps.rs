//! Somebody sets the wall clock by a year while the daemon runs, and while it does not. The daemon is
//! shown another clock (libfaketime); the machine's stays as it is.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use packetwatch_tests::patience::until;
use packetwatch_tests::skip;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::scene::{PORTS, PROMPT, SILENCE, Scene};

const HALF_A_YEAR: Duration = Duration::days(183);

/// Of a ban, and of an entry that ends.
const LENGTH: Duration = Duration::seconds(6);

/// Where Debian and others put it, below a directory of the machine's architecture.
fn library() -> Option<PathBuf> {
    let name = "faketime/libfaketimeMT.so.1";
    let places = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let below = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    let mut places = places.into_iter().chain(below.map(|entry| entry.path()));
    places.find_map(|place| Some(place.join(name)).filter(|path| path.is_file()))
}

/// A wall clock for the daemon alone.
struct WallClock(NamedTempFile);

impl WallClock {
    fn new() -> Self {
        let clock = Self(NamedTempFile::with_prefix("packetwatch-clock-").expect("make a file"));
        clock.set("+0");
        clock
    }

    /// So far from the machine's, as libfaketime reads it: `+365d`.
    fn set(&self, offset: &str) {
        // In one step: the daemon reads it at any time.
        let aside = self.0.path().with_extension("new");
        fs::write(&aside, offset).expect("write the offset");
        fs::rename(&aside, self.0.path()).expect("put it in place");
    }
}

/// How far the daemon's clock is from the machine's.
#[track_caller]
fn ahead(scene: &Scene) -> Duration {
    let put = scene
        .daemon
        .api("PUT", "/v1/deny/192.0.2.77", Some(&json!({"ttl": "1h"})));
    assert!([200, 201].contains(&put.status), "{put:?}");
    let _ = scene.expect(204, "DELETE", "/v1/deny/192.0.2.77%2F32", None);
    time(&put.json()["expires_at"]) - Duration::HOUR - OffsetDateTime::now_utc()
}

#[track_caller]
fn time(value: &Value) -> OffsetDateTime {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no time"));
    OffsetDateTime::parse(text, &Rfc3339).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Waits until the daemon sees the clock that it is shown.
#[track_caller]
fn wait_for_step(scene: &Scene, is_so: impl Fn(Duration) -> bool) {
    let seen = until(PROMPT, || is_so(ahead(scene)).then_some(()));
    assert!(seen.is_some(), "the daemon's clock did not follow");
}

/// What keeps a client out was set after `since`. On a machine that takes longer than its length to come
/// to it, it may have ended by then, and not before.
#[track_caller]
fn assert_kept_out(scene: &Scene, n: u8, since: Instant) {
    let is_answered = scene.is_answered(n, PORTS[0], SILENCE);
    assert!(
        !is_answered || since.elapsed() >= LENGTH,
        "client {n} was answered after {:?}",
        since.elapsed()
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_wall_clock_that_is_set_by_a_year_changes_no_length() {
    let Some(library) = library() else {
        skip("libfaketime is missing (package faketime)");
        return;
    };
    let clock = WallClock::new();
    let mut scene = Scene::with("6s", |builder| {
        builder
            .env("LD_PRELOAD", library.display().to_string())
            .env(
                "FAKETIME_TIMESTAMP_FILE",
                clock.0.path().display().to_string(),
            )
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_NO_CACHE", "1")
    });
    let is_near = |ahead: Duration| ahead.abs() < Duration::HOUR;
    let is_ahead = |ahead: Duration| ahead > HALF_A_YEAR;
    let is_behind = |ahead: Duration| ahead < -HALF_A_YEAR;
    wait_for_step(&scene, is_near);
    let deny = |scene: &Scene, n, ttl: Value| {
        let path = format!("/v1/deny/{}", scene.address(n));
        scene.expect(201, "PUT", &path, Some(ttl));
    };
    deny(&scene, 1, json!({}));
    deny(&scene, 2, json!({"ttl": "1h"}));
    for ([banned, briefly, next], offset, is_so) in [
        ([3, 4, 5], "+365d", &is_ahead as &dyn Fn(Duration) -> bool),
        ([6, 7, 0], "-365d", &is_behind),
    ] {
        // While it runs.
        let since = Instant::now();
        scene.scan_into_ban(banned);
        let denied = Instant::now();
        deny(
            &scene,
            briefly,
            json!({"ttl": format!("{}s", LENGTH.whole_seconds())}),
        );
        clock.set(offset);
        wait_for_step(&scene, is_so);
        for n in [1, 2] {
            scene.assert_silence(n);
        }
        assert_kept_out(&scene, banned, since);
        assert_kept_out(&scene, briefly, denied);
        scene.wait_until_served(banned);
        scene.wait_until_served(briefly);
        scene.assert_silence(2);

        // Between two daemons, back and forth.
        let since = Instant::now();
        scene.scan_into_ban(next);
        scene.daemon.kill();
        clock.set("+0");
        scene.daemon.restart();
        wait_for_step(&scene, is_near);
        for n in [1, 2] {
            scene.assert_silence(n);
        }
        assert_kept_out(&scene, next, since);
        let listed = scene.expect(200, "GET", "/v1/deny", None);
        assert_eq!(
            listed["entries"].as_array().map(Vec::len),
            Some(2),
            "{listed}"
        );
        scene.wait_until_served(next);
        scene.assert_silence(2);
    }
}
