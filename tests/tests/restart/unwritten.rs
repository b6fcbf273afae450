//! Rules, trials and the bypass while the disk does not take what they have become: what was refused or
//! taken back stays so, for the next daemon too.

use std::fs;

use packetwatch_tests::SmallDisk;
use packetwatch_tests::patience::until;
use serde_json::{Value, json};

use crate::scene::{PORTS, PROMPT, Scene};

/// Longer than anything here takes.
const TRIAL: &str = "30m";

/// Rules under which so many ports are not yet too many.
fn rules(name: &str, ports: u32) -> Option<Value> {
    let rule = json!({"name": name, "distinct_ports": ports, "within": "5s", "ban": "10m"});
    Some(json!({"rules": [rule]}))
}

/// A scene whose state directory is a small disk. The mode is of the API, so that there is something to
/// keep in `control.json` whatever else ends.
fn on_small_disk() -> (Scene, SmallDisk) {
    let mut scene = Scene::new("10m");
    scene.daemon.terminate();
    let disk = SmallDisk::mount(&scene.daemon.state_dir());
    scene.daemon.restart();
    let enforce = Some(json!({"mode": "enforce"}));
    scene.expect(200, "PUT", "/v1/mode", enforce);
    (scene, disk)
}

fn on_trial(scene: &Scene, method: &str, rules: Option<Value>) -> String {
    let path = format!("/v1/rules?confirm={TRIAL}");
    let put = scene.expect(200, method, &path, rules);
    put["pending"]["id"].as_str().expect("an id").to_owned()
}

/// The rules' names and who has set them.
fn standing(scene: &Scene) -> (String, String) {
    let rules = scene.expect(200, "GET", "/v1/rules", None);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&rules["rules"][0]["name"]), text(&rules["rules_from"]))
}

fn wait_until_ready(scene: &Scene) {
    let ready = || (scene.daemon.api("GET", "/readyz", None).status == 200).then_some(());
    assert!(until(PROMPT, ready).is_some(), "it is not ready");
}

#[test]
#[ignore = "needs root: network namespaces, BPF and mounts"]
fn rules_whose_confirmation_the_disk_refused_do_not_come_back() {
    let (mut scene, disk) = on_small_disk();
    let id = on_trial(&scene, "PUT", rules("tried", 2));
    // Room for one of the two files.
    let filler = disk.fill_but(1);
    let confirm = format!("/v1/pending/{id}/confirm");
    let refused = scene.expect(503, "POST", &confirm, None);
    let detail = refused["detail"].as_str().expect("a detail");
    assert!(detail.contains("control.json"), "{detail}");
    assert_eq!(standing(&scene).0, "tried", "it stays on trial");
    scene.daemon.kill();
    fs::remove_file(filler).expect("make room");
    scene.daemon.restart();
    assert_eq!(standing(&scene).0, "tried", "it goes on");
    scene.expect(204, "DELETE", &format!("/v1/pending/{id}"), None);
    scene.daemon.kill();
    scene.daemon.restart();
    let (name, by) = standing(&scene);
    assert_eq!(name, "port-scan");
    assert_ne!(by, "api");
    scene.daemon.terminate();
    drop(disk);
}

/// `rules.toml` has what was tried, and `control.json` still says that it is on trial.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_daemon_killed_while_it_confirms_rules_has_not_confirmed_them() {
    let mut scene = Scene::new("10m");
    let file = scene.daemon.state_dir().join("rules.toml");
    scene.expect(200, "PUT", "/v1/rules", rules("stood", 3));
    for what in ["other rules", "the configuration's"] {
        let stood = fs::read_to_string(&file).expect("rules of the API");
        let id = match what {
            "other rules" => on_trial(&scene, "PUT", rules("tried", 2)),
            _ => on_trial(&scene, "DELETE", None),
        };
        scene.daemon.kill();
        match what {
            "other rules" => {
                let tried = stood.replace("stood", "tried");
                let tried = tried.replace("distinct_ports = 3", "distinct_ports = 2");
                fs::write(&file, tried).expect("write rules");
            }
            _ => fs::remove_file(&file).expect("remove rules"),
        }
        scene.daemon.restart();
        assert_ne!(standing(&scene).0, "stood", "the trial goes on: {what}");
        assert_eq!(fs::read_to_string(&file).ok(), Some(stood), "{what}");
        scene.expect(204, "DELETE", &format!("/v1/pending/{id}"), None);
        let api = ("stood".to_owned(), "api".to_owned());
        assert_eq!(standing(&scene), api, "{what}");
        scene.daemon.kill();
        scene.daemon.restart();
        assert_eq!(standing(&scene), api, "{what}");
    }
    // Rules that somebody writes there meanwhile are what the trial returns to.
    let id = on_trial(&scene, "PUT", rules("tried", 2));
    scene.daemon.kill();
    let stood = fs::read_to_string(&file).expect("rules of the API");
    fs::write(&file, stood.replace("stood", "edited")).expect("write rules");
    scene.daemon.restart();
    scene.expect(204, "DELETE", &format!("/v1/pending/{id}"), None);
    assert_eq!(standing(&scene).0, "edited");
}

#[test]
#[ignore = "needs root: network namespaces, BPF and mounts"]
fn what_a_full_disk_did_not_take_is_written_as_soon_as_it_does() {
    let (mut scene, disk) = on_small_disk();
    let denied = format!("/v1/deny/{}", scene.address(1));
    scene.expect(201, "PUT", &denied, None);
    for what in ["bypass", "trial"] {
        let (end, done) = match what {
            "bypass" => {
                let hour = Some(json!({"for": "1h"}));
                scene.expect(200, "POST", "/v1/bypass", hour);
                scene.assert_served(1, &PORTS[..1]);
                ("/v1/bypass".to_owned(), "the bypass has ended")
            }
            _ => {
                let id = on_trial(&scene, "PUT", rules("tried", 1));
                // Banned by the rules on trial: at the second port.
                scene.assert_served(0, &PORTS[..1]);
                scene.assert_silence_at(0, PORTS[1]);
                scene
                    .daemon
                    .wait_for(|line| line["event.action"] == "ban", PROMPT);
                (format!("/v1/pending/{id}"), "the change is taken back")
            }
        };
        wait_until_ready(&scene);
        let filler = disk.fill_but(0);
        let refused = scene.expect(503, "DELETE", &end, None);
        let detail = refused["detail"].as_str().expect("a detail");
        assert!(detail.contains(done), "{detail}");
        match what {
            "bypass" => scene.assert_silence(1),
            // With its rules their bans.
            _ => {
                scene.assert_served(0, &PORTS[..1]);
                assert_eq!(standing(&scene).0, "port-scan");
            }
        }
        let told = until(PROMPT, || {
            let answer = scene.daemon.api("GET", "/readyz", None);
            (answer.status == 503 && answer.text().contains("control.json")).then_some(())
        });
        assert!(told.is_some(), "/readyz does not tell: {what}");
        fs::remove_file(filler).expect("make room");
        wait_until_ready(&scene);
        scene.daemon.kill();
        scene.daemon.restart();
        scene.assert_silence(1);
        assert_eq!(standing(&scene).0, "port-scan", "{what}");
        let pending = scene.expect(200, "GET", "/v1/pending", None);
        assert_eq!(pending["pending"], json!([]), "{what}");
    }
    scene.daemon.terminate();
    drop(disk);
}
