//! Certificates, and who is told to use them. Everything here is asked from another host.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Output;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use packetwatch_tests::daemon::{binary, refused};
use packetwatch_tests::http::{Request, Response, is_healthy};
use packetwatch_tests::{Daemon, Lan, Netns, connect};
use serde_json::json;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::secure::{ATTEMPT, Authority, DAY, PORT, Scene};
use crate::stage::{PROMPT, problem};

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn off_loopback_there_is_no_start_without_tls() {
    let netns = Netns::new();
    let home = TempDir::new().expect("a directory");
    let path = home.path().join("packetwatch.toml");
    let file = path.display().to_string();
    let with = |text: &str, command: &[&str]| {
        fs::write(&path, text).expect("write the configuration");
        let mut program = netns.command(binary());
        program.args(command).args(["--config", &file]);
        program
    };
    for listen in ["0.0.0.0:7300", "[::]:7300", "198.18.0.1:7300"] {
        for command in [&["config", "check"][..], &["run"]] {
            let text = format!("[api]\nlisten = {listen:?}\n");
            let words = ["2:10", listen, "api.tls.cert", "loopback"];
            refused(with(&text, command), &words);
        }
        // A flag is wrong in itself, which is another status.
        let flag = with("", &["run", "--api", listen]).output();
        let flag = flag.expect("run nsenter (package util-linux)");
        assert_eq!(flag.status.code(), Some(2), "{flag:?}");
        assert!(flag.stdout.is_empty(), "{flag:?}");
        let said = String::from_utf8_lossy(&flag.stderr).into_owned();
        for word in ["--api", listen, "api.tls.cert"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
    let half = "[api.tls]\ncert = \"/nowhere/cert.pem\"\n";
    refused(with(half, &["config", "check"]), &["2:8", "api.tls.key"]);
}

/// The filter does not wait for it.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_certificate_that_is_missing_at_the_start_is_shown_when_it_comes() {
    let mut scene = Scene::new();
    scene.daemon.terminate();
    fs::remove_file(scene.authority.path("key.pem")).expect("remove the key");
    scene.daemon.restart_lacking();
    let ready = scene.daemon.api("GET", "/readyz", None);
    assert_eq!(ready.status, 503, "{ready:?}");
    let key = scene.authority.path("key.pem");
    assert!(ready.text().contains(&key), "{}", ready.text());
    let interface = &scene.lan.segment().interface;
    assert!(
        scene.lan.host.xdp(interface).is_some(),
        "nothing is filtered"
    );
    assert!(connect(scene.client(), None, scene.address, ATTEMPT).is_err());

    let host = scene.address.ip().to_string();
    scene.authority.write(&scene.authority.sign(&[&host]));
    let listens = |line: &serde_json::Value| line["event.action"] == "listening";
    scene.daemon.wait_for(listens, PROMPT);
    let (mut secure, _) = scene.secure();
    assert!(is_healthy(&mut secure));
    // It is looked after as one that was there from the start.
    let from = scene.daemon.log().len();
    scene.authority.write(&scene.authority.sign(&[&host]));
    let changed = |line: &serde_json::Value| line["event.action"] == "certificate-changed";
    scene.daemon.log().wait_from(from, changed, PROMPT);
}

/// Neither the start nor a reload waits for who may write to it.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_pipe_in_the_place_of_a_certificate_keeps_nothing_waiting() {
    let mut scene = Scene::new();
    let (cert, pipe) = (scene.authority.path("cert.pem"), scene.authority.path("p"));
    let replace = || {
        mkfifo(pipe.as_str(), Mode::S_IRUSR | Mode::S_IWUSR).expect("make a pipe");
        fs::rename(&pipe, &cert).expect("put it in its place");
    };
    scene.daemon.terminate();
    replace();
    scene.daemon.restart_lacking();
    let ready = scene.daemon.api("GET", "/readyz", None);
    assert_eq!(ready.status, 503, "{ready:?}");
    let told = ready.text();
    assert!(told.contains(&cert) && told.contains("a pipe"), "{told}");
    let interface = &scene.lan.segment().interface;
    assert!(
        scene.lan.host.xdp(interface).is_some(),
        "nothing is filtered"
    );
    // What a certificate's disk does comes after that.
    let lines = scene.daemon.lines();
    let at = |action: &str| {
        let is_it = |line: &serde_json::Value| line["event.action"] == action;
        let at = lines.iter().position(is_it);
        at.unwrap_or_else(|| panic!("no line {action}"))
    };
    assert!(at("attached") < at("listen-failed"));

    let host = scene.address.ip().to_string();
    fs::remove_file(&cert).expect("remove the pipe");
    scene.authority.write(&scene.authority.sign(&[&host]));
    let of = |action: &'static str, from| {
        let is_it = move |line: &serde_json::Value| line["event.action"] == action;
        scene.daemon.log().wait_from(from, is_it, PROMPT)
    };
    of("listening", 0);
    let shown = scene.secure().1;
    let from = scene.daemon.log().len();
    replace();
    scene.daemon.signal(Signal::SIGHUP);
    let refused = of("certificate-refused", from);
    let why = refused["error.message"].as_str().unwrap_or_default();
    assert!(why.contains(&cert) && why.contains("a pipe"), "{refused}");
    of("reloaded", from);
    assert_eq!(scene.secure().1, shown);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn tls_is_spoken_to_those_who_trust_it_and_the_others_are_told_why_not() {
    let scene = Scene::new();
    let token = scene.daemon.state_dir().join("token").display().to_string();
    let url = format!("https://{}", scene.address);
    let (ca, stranger) = (scene.authority.path("ca.pem"), Authority::new());
    let with = |url: &str, ca: &str| {
        scene.cli(&["status", "--url", url, "--ca", ca, "--token-file", &token])
    };
    let status = with(&url, &ca);
    assert!(
        status.status.success() && status.stderr.is_empty(),
        "{status:?}"
    );

    let failed = |output: Output, words: &[&str]| {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    };
    failed(
        with(&url, &stranger.path("ca.pem")),
        &["not trusted", "--ca", &url],
    );
    let by_system = scene.cli(&["status", "--url", &url, "--token-file", &token]);
    failed(by_system, &["--ca", &url]);
    failed(with(&url, "/nowhere/ca.pem"), &["/nowhere/ca.pem"]);
    failed(with(&url, &token), &[&token, "no certificate"]);
    let plain = format!("http://{}", scene.address);
    failed(with(&plain, &ca), &["--ca", "https://"]);
    let clear = scene.cli(&["status", "--url", &plain, "--token-file", &token]);
    failed(clear, &["https://", "can be read on the way"]);
    // A certificate for another name than the one it is asked under.
    scene
        .authority
        .write(&scene.authority.sign(&["host.example"]));
    let from = scene.daemon.log().len();
    scene.daemon.signal(Signal::SIGHUP);
    let changed = |line: &serde_json::Value| line["event.action"] == "certificate-changed";
    scene.daemon.log().wait_from(from, changed, PROMPT);
    failed(with(&url, &ca), &["not trusted", "host.example"]);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn plain_http_on_the_port_of_tls_is_told_so_and_closed() {
    let scene = Scene::new();
    let answer = Request::new("GET", "/healthz").exchange(scene.connect());
    let told = problem(&answer.expect("an answer"), 400, None);
    assert!(
        told["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("https://"))
    );
    for noise in [
        &b"\0\0\0\0"[..],
        b"SSH-2.0-x\r\n",
        &[0x16, 0xff, 0xff, 0xff, 0xff],
    ] {
        let mut stream = scene.connect();
        stream.write_all(noise).expect("say something");
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{noise:?}"),
        }
    }
    let (secure, _) = scene.secure();
    let answer = Request::new("GET", "/v1/status")
        .exchange(secure)
        .expect("an answer");
    problem(&answer, 401, Some("Authorization"));
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_certificate_is_changed_under_connections() {
    let scene = Scene::new();
    let host = scene.address.ip().to_string();
    let (mut old, first) = scene.secure();
    assert!(is_healthy(&mut old));
    let told = |action: &'static str, from| {
        let is_it = move |line: &serde_json::Value| line["event.action"] == action;
        scene.daemon.log().wait_from(from, is_it, PROMPT)
    };

    // On SIGHUP.
    let from = scene.daemon.log().len();
    scene.authority.write(&scene.authority.sign(&[&host]));
    scene.daemon.signal(Signal::SIGHUP);
    told("certificate-changed", from);
    let (mut new, second) = scene.secure();
    assert_ne!(first, second);
    assert!(is_healthy(&mut old) && is_healthy(&mut new));

    // A pair that is none is refused, and the one before goes on.
    let from = scene.daemon.log().len();
    let (cert, _) = scene.authority.sign(&[&host]);
    let (_, key) = scene.authority.sign(&[&host]);
    scene.authority.write(&(cert, key));
    scene.daemon.signal(Signal::SIGHUP);
    let refused = told("certificate-refused", from);
    let why = refused["error.message"].as_str().unwrap_or_default();
    assert!(
        why.contains("key.pem") && why.contains("cert.pem"),
        "{refused}"
    );
    assert_eq!(scene.secure().1, second);

    // Without a signal, within seconds.
    let from = scene.daemon.log().len();
    scene.authority.write(&scene.authority.sign(&[&host]));
    told("certificate-changed", from);
    let (mut newest, third) = scene.secure();
    assert_ne!(second, third);
    for stream in [&mut old, &mut new, &mut newest] {
        assert!(is_healthy(stream));
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_certificate_that_ends_soon_is_told_until_it_is_renewed() {
    let scene = Scene::new();
    let host = scene.address.ip().to_string();
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    let metric = || {
        let metrics = scene.daemon.api("GET", "/metrics", None);
        let name = "packetwatch_certificate_expiry_timestamp_seconds ";
        let mut lines = metrics.text().lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.parse::<i64>().ok());
        value.expect("it is there with TLS")
    };
    let status = || scene.daemon.api("GET", "/v1/status", None).json()["certificate"].clone();
    assert_eq!(status()["state"], "valid");
    for (end, action, state) in [
        (now + 3 * DAY, "certificate-due", "due"),
        (now - DAY, "certificate-ended", "ended"),
        (now + 30 * DAY, "certificate-changed", "valid"),
    ] {
        let from = scene.daemon.log().len();
        let pair = scene.authority.sign_until(&[&host], end);
        scene.authority.write(&pair);
        let is_it = |line: &serde_json::Value| line["event.action"] == action;
        let line = scene.daemon.log().wait_from(from, is_it, PROMPT);
        let at = end.format(&Rfc3339).unwrap();
        if action != "certificate-changed" {
            assert_eq!(line["tls.server.not_after"], at.as_str(), "{line}");
        }
        let path = scene.authority.path("cert.pem");
        let expected = json!({"path": path, "expires_at": at, "state": state});
        assert_eq!(status(), expected);
        assert_eq!(metric(), end.unix_timestamp());
        let doctor = scene.daemon.cli(&["doctor"]);
        let findings: Vec<serde_json::Value> =
            serde_json::from_slice(&doctor.stdout).expect("JSON");
        let finding = findings
            .iter()
            .find(|finding| finding["check"] == "certificate");
        let is_ok = finding.expect("it is looked at")["ok"].as_bool();
        assert_eq!(is_ok, Some(state == "valid"), "{findings:?}");
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn tls_is_spoken_on_loopback_too() {
    let (lan, authority) = (Lan::new(), Authority::new());
    authority.write(&authority.sign(&["localhost", "127.0.0.1"]));
    let daemon = Daemon::builder(&lan.host)
        .interface(&lan.segment().interface)
        .listen(SocketAddr::from(([127, 0, 0, 1], PORT)))
        .config_toml(&authority.tables())
        .start();
    let token = daemon.state_dir().join("token").display().to_string();
    let ca = authority.path("ca.pem");
    let url = format!("https://127.0.0.1:{PORT}");
    let status = daemon.cli(&["status", "--url", &url, "--ca", &ca, "--token-file", &token]);
    assert!(status.status.success(), "{status:?}");
    let answer: Response = {
        let to = SocketAddr::from(([127, 0, 0, 1], PORT));
        let stream = connect(&lan.host, None, to, PROMPT).expect("connect");
        stream.set_read_timeout(Some(PROMPT)).expect("set a limit");
        Request::new("GET", "/healthz")
            .exchange(stream)
            .expect("an answer")
    };
    assert_eq!(answer.status, 400);
}
