//! SIGHUP: a good file counts at once, a bad one not at all.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::scene::{PORTS, PROMPT, Scene, rule};

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn sighup_takes_a_good_file_and_refuses_a_bad_one() {
    let scene = Scene::new("10m");
    let rules = || scene.expect(200, "GET", "/v1/rules", None)["rules"].clone();
    let mode = || scene.expect(200, "GET", "/v1/status", None)["mode"].clone();
    let reload = |action: &'static str, edit: &dyn Fn(String) -> String| {
        let mark = scene.daemon.log().len();
        scene.daemon.edit_config(edit);
        scene.daemon.signal(Signal::SIGHUP);
        let told = |line: &Value| line["event.action"] == action;
        (mark, scene.daemon.log().wait_from(mark, told, PROMPT))
    };
    let before = rules();

    let (_, line) = reload("reload-failed", &|text| {
        format!("mdoe = \"observe\"\n{text}").replace("distinct_ports = 3", "distinct_ports = 2")
    });
    let error = line["error.message"].as_str().expect("the error is told");
    assert!(error.contains("packetwatch.toml:1"), "{error}");
    assert!(
        error.contains("\"mode\"") || error.contains("`mode`") || error.contains("mode"),
        "{error}"
    );
    assert_eq!((mode(), rules()), (json!("enforce"), before));
    // Still three ports, not two.
    scene.assert_served(0, &PORTS);
    scene.assert_silence(0);

    let (mark, _) = reload("reloaded", &|text| {
        text.replace("mdoe = \"observe\"\n", "")
            .replace("mode = \"enforce\"", "mode = \"observe\"")
    });
    let lines = scene.daemon.lines();
    let told = |action: &str| {
        lines[mark..]
            .iter()
            .any(|line| line["event.action"] == action)
    };
    assert!(told("mode-changed") && told("rules-changed"));
    assert_eq!(
        (mode(), rules()[0]["distinct_ports"].clone()),
        (json!("observe"), json!(2))
    );
    // The ban stands and drops nothing.
    scene.assert_served(0, &PORTS);

    let (mark, _) = reload("reloaded", &|text| {
        text.replace("mode = \"observe\"", "mode = \"enforce\"")
            .replace("[api]", "[capacity]\nlists = 1000\n[api]")
    });
    let lines = scene.daemon.lines();
    let waits = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        line["log.level"] == "warn" && message.contains("capacity.lists")
    };
    assert!(
        lines[mark..].iter().any(waits),
        "what waits for a restart is named"
    );
    scene.assert_silence(0);
}

/// The log tells what has become protected or no longer is, and not each time what stays so.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn sighup_tells_of_protection_that_changes() {
    let scene = Scene::new("10m");
    let of = |lines: &[Value], action: &str| {
        let is = |line: &&Value| line["event.action"] == action;
        lines.iter().filter(is).cloned().collect::<Vec<_>>()
    };
    let reload = |edit: &dyn Fn(String) -> String| {
        let mark = scene.daemon.log().len();
        scene.daemon.edit_config(edit);
        scene.daemon.signal(Signal::SIGHUP);
        let reloaded = |line: &Value| line["event.action"] == "reloaded";
        scene.daemon.log().wait_from(mark, reloaded, PROMPT);
        mark
    };
    let changed = |mark| {
        let is = |line: &Value| line["event.action"] == "protect-changed";
        scene.daemon.log().wait_from(mark, is, PROMPT)
    };
    let counts = |line: &Value| {
        let count = |key: &str| line[key].as_u64();
        (count("packetwatch.added"), count("packetwatch.removed"))
    };
    reload(&|text| text);
    let extra = "[protect]\nextra = [\"192.0.2.77\"]\n[api]";
    let mark = reload(&|text| text.replace("[api]", extra));
    assert_eq!(counts(&changed(mark)), (Some(1), Some(0)));
    let mark = reload(&|text| text.replace(extra, "[api]"));
    assert_eq!(counts(&changed(mark)), (Some(0), Some(1)));
    // Neither the start nor the file that said the same had anything to tell.
    let lines = scene.daemon.lines();
    let told = of(&lines, "protect-changed");
    assert_eq!(told.len(), 2, "{told:?}");
    let added = of(&lines, "allow-added");
    let again = |line: &&Value| line["packetwatch.prefix"] == "198.18.0.1/32";
    assert_eq!(added.iter().filter(again).count(), 1, "{added:?}");
}

/// Rules that the API has put stay, whatever the file says.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn sighup_leaves_the_rules_of_the_api() {
    let scene = Scene::new("10m");
    let put = json!({"rules": [{"name": "calls", "connections": 100}]});
    let put = scene.expect(200, "PUT", "/v1/rules", Some(put));
    let mark = scene.daemon.log().len();
    scene
        .daemon
        .edit_config(|text| text.replace(&rule("10m"), &rule("20m")));
    scene.daemon.signal(Signal::SIGHUP);
    let reloaded = |line: &Value| line["event.action"] == "reloaded";
    scene.daemon.log().wait_from(mark, reloaded, PROMPT);
    assert_eq!(scene.expect(200, "GET", "/v1/rules", None), put);
    let reset = scene.expect(200, "DELETE", "/v1/rules", None);
    assert_eq!(reset["rules"][0]["ban"], "20m", "the file as it is now");
}
