//! The life of a ban after it is set.

use packetwatch_tests::Family;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::for_both_families;
use crate::scene::{Caller, PORTS, Scene, rule};

for_both_families![
    an_expired_ban_is_logged_and_serves_again,
    each_repeat_is_banned_longer,
    delete_unbans_and_forgets_the_offence,
    the_command_line_unbans_and_forgets_the_offence,
    a_source_that_falls_silent_is_banned_once,
    rules_that_are_sent_again_forgive_nobody,
];

fn an_expired_ban_is_logged_and_serves_again(family: Family) {
    let scene = Scene::new(family, &rule("5s", "2s", ""));
    let scanner = scene.caller(0);
    scene.scan_into_ban(&scanner);
    let line = scene.wait_for_action(0, "ban-expired", &scanner);
    assert_eq!(line["packetwatch.prefix"], scene.single(&scanner), "{line}");
    // All three, for the end of a ban clears the window, which has not rolled by itself yet.
    scanner.assert_served(&PORTS);
    assert_eq!(scene.bans(), [] as [Value; 0]);
}

fn each_repeat_is_banned_longer(family: Family) {
    let scene = Scene::new(
        family,
        &rule("5s", "3s", "escalate = 3.0\nmax_ban = \"12s\""),
    );
    let scanner = scene.caller(0);
    // 3 s, 9 s, and then 27 s but for `max_ban`.
    for (n, seconds) in [3, 9, 12].into_iter().enumerate() {
        scene.scan_into_ban(&scanner);
        assert_eq!(
            ban_length(&scene, &scanner),
            Duration::seconds(seconds),
            "ban {n}"
        );
        if seconds < 12 {
            let mark = scene.daemon.log().len();
            scene.wait_for_action(mark, "ban-expired", &scanner);
        }
    }
}

/// Longer than the daemon goes between two looks at all callers (10 s).
const QUIET: std::time::Duration = std::time::Duration::from_secs(12);

fn a_source_that_falls_silent_is_banned_once(family: Family) {
    let scene = Scene::new(family, &rule("60s", "2s", ""));
    let (served, lifted) = (scene.caller(0), scene.caller(1));
    scene.scan_into_ban(&served);
    scene.wait_for_action(0, "ban-expired", &served);
    scene.scan_into_ban(&lifted);
    scene.change("DELETE", "bans", &scene.single(&lifted), 204);
    // What is left in the kernel of either offence is no new one.
    std::thread::sleep(QUIET);
    let bans = |caller: &Caller| {
        let lines = scene.daemon.lines();
        let of = |line: &&Value| {
            line["event.action"] == "ban" && line["source.ip"] == caller.address.to_string()
        };
        lines.iter().filter(of).count()
    };
    assert_eq!((bans(&served), bans(&lifted)), (1, 1));
}

fn rules_that_are_sent_again_forgive_nobody(family: Family) {
    let scene = Scene::new(family, &rule("10m", "10m", ""));
    let ask = |method: &str, path: &str, body: Option<&Value>| {
        let answer = scene.daemon.api(method, path, body);
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer
    };
    let scanner = scene.caller(0);
    scanner.assert_served(&PORTS[..2]);
    let mark = scene.daemon.log().len();
    let configured = ask("GET", "/v1/rules", None).json();
    let same = json!({"rules": configured["rules"]});
    for _ in 0..2 {
        let answer = ask("PUT", "/v1/rules", Some(&same)).json();
        assert_eq!(answer["rules_from"], "api", "{answer}");
    }
    for (method, end) in [("DELETE", ""), ("POST", "/confirm")] {
        ask("PUT", "/v1/rules?confirm=10m", Some(&same));
        let pending = ask("GET", "/v1/pending", None).json();
        let id = pending["pending"][0]["id"].as_str().expect("an id");
        ask(method, &format!("/v1/pending/{id}{end}"), None);
    }
    assert_eq!(ask("DELETE", "/v1/rules", None).json(), configured);
    scanner.assert_served(&PORTS[2..]);
    scanner.assert_silence(PORTS[0]);
    scene.wait_for_action(mark, "ban", &scanner);
    // They are told as set by another, who is told.
    let lines = scene.daemon.lines();
    let changed = lines[mark..]
        .iter()
        .filter(|line| line["event.action"] == "rules-changed");
    let before_and_after = changed.map(|line| {
        let of = |key: &str| line[format!("packetwatch.{key}")].clone();
        [of("before"), of("after")]
    });
    let file = &configured["rules_from"];
    assert_eq!(
        before_and_after.collect::<Vec<_>>(),
        [[file.clone(), json!("api")], [json!("api"), file.clone()]]
    );
}

fn delete_unbans_and_forgets_the_offence(family: Family) {
    unban(family, |scene, prefix| {
        scene.change("DELETE", "bans", prefix, 204)
    });
}

fn the_command_line_unbans_and_forgets_the_offence(family: Family) {
    unban(family, |scene, prefix| {
        let output = scene.daemon.cli(&["bans", "remove", prefix]);
        assert!(output.status.success(), "{output:?}");
    });
}

fn unban(family: Family, remove: impl Fn(&Scene, &str)) {
    let scene = Scene::new(family, &rule("30s", "10m", "escalate = 3.0"));
    let scanner = scene.caller(0);
    let prefix = scene.single(&scanner);
    for _ in 0..2 {
        // The second time the ban is as long as the first: the offence was forgotten.
        scene.scan_into_ban(&scanner);
        assert_eq!(ban_length(&scene, &scanner), Duration::minutes(10));
        let mark = scene.daemon.log().len();
        remove(&scene, &prefix);
        scene.wait_for_action(mark, "unban", &scanner);
        assert_eq!(scene.bans(), [] as [Value; 0]);
    }
    scanner.assert_served(&PORTS);
    // What is gone cannot be removed again.
    scene.change("DELETE", "bans", &prefix, 404);
}

/// From a ban's beginning to its end, to the next second.
fn ban_length(scene: &Scene, scanner: &Caller) -> Duration {
    let prefix = scene.single(scanner);
    let bans = scene.bans();
    let ban = bans
        .iter()
        .find(|ban| ban["prefix"] == prefix.as_str())
        .unwrap_or_else(|| panic!("{prefix} is not among {bans:?}"));
    let time = |key: &str| {
        let text = ban[key]
            .as_str()
            .unwrap_or_else(|| panic!("{key} of {ban}"));
        OffsetDateTime::parse(text, &Rfc3339).unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    let length = time("expires_at") - time("created_at");
    // The end is reckoned on another clock than the beginning, and either may be shown in full seconds.
    Duration::seconds(length.as_seconds_f64().round() as i64)
}
