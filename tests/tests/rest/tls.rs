//! Certificates, and who is told to use them. Everything here is asked from another host.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use packetwatch_tests::daemon::{binary, refused};
use packetwatch_tests::http::{Request, Response, is_healthy};
use packetwatch_tests::patience::until;
use packetwatch_tests::{Daemon, Family, Lan, Netns, connect};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::stage::{PROMPT, problem};

const PORT: u16 = 7300;

const DAY: Duration = Duration::from_secs(86_400);

/// For a connection that is let in, or dropped.
const ATTEMPT: Duration = Duration::from_millis(500);

/// An authority and the files of a daemon.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    files: TempDir,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("make a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let signed = params.self_signed(&key).expect("sign it");
        let files = TempDir::new().expect("a directory");
        fs::write(files.path().join("ca.pem"), signed.pem()).expect("write the authority");
        Self {
            certificate: signed.der().clone(),
            issuer: Issuer::new(params, key),
            files,
        }
    }

    fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    /// A certificate for these names and its key, in PEM.
    fn sign(&self, names: &[&str]) -> (String, String) {
        self.sign_until(names, OffsetDateTime::now_utc() + 365 * DAY)
    }

    fn sign_until(&self, names: &[&str], end: OffsetDateTime) -> (String, String) {
        let key = KeyPair::generate().expect("make a key");
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_after = end;
        let signed = params.signed_by(&key, &self.issuer).expect("sign it");
        (signed.pem(), key.serialize_pem())
    }

    fn write(&self, (cert, key): &(String, String)) {
        fs::write(self.path("key.pem"), key).expect("write the key");
        fs::write(self.path("cert.pem"), cert).expect("write the certificate");
    }

    fn tables(&self) -> String {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!("[api.tls]\ncert = {cert:?}\nkey = {key:?}\n")
    }
}

/// A daemon that the client of its link can reach.
struct Scene {
    daemon: Daemon,
    authority: Authority,
    address: SocketAddr,
    lan: Lan,
}

impl Scene {
    fn new() -> Self {
        Self::with("")
    }

    fn with(tables: &str) -> Self {
        let (lan, authority) = (Lan::new(), Authority::new());
        let host = lan.segment().host(Family::V4);
        authority.write(&authority.sign(&[&host.to_string()]));
        let daemon = Daemon::builder(&lan.host)
            .interface(&lan.segment().interface)
            .rules_toml("")
            .listen(SocketAddr::from(([0, 0, 0, 0], PORT)))
            .config_toml(&(authority.tables() + tables))
            .start();
        let address = SocketAddr::new(host, PORT);
        Self {
            daemon,
            authority,
            address,
            lan,
        }
    }

    fn client(&self) -> &Netns {
        &self.lan.segment().client
    }

    fn connect(&self) -> TcpStream {
        self.connect_from(None)
    }

    fn connect_from(&self, source: Option<IpAddr>) -> TcpStream {
        let stream = connect(self.client(), source, self.address, PROMPT).expect("connect");
        stream.set_read_timeout(Some(PROMPT)).expect("set a limit");
        stream
    }

    /// A connection after the handshake, and the certificate it was shown.
    fn secure(
        &self,
    ) -> (
        StreamOwned<ClientConnection, TcpStream>,
        CertificateDer<'static>,
    ) {
        self.secure_from(None)
    }

    fn secure_from(
        &self,
        source: Option<IpAddr>,
    ) -> (
        StreamOwned<ClientConnection, TcpStream>,
        CertificateDer<'static>,
    ) {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.authority.certificate.clone())
            .expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::from(self.address.ip());
        let mut connection = ClientConnection::new(Arc::new(config), name).expect("a name");
        let mut stream = self.connect_from(source);
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).expect("shake hands");
        }
        let shown = connection.peer_certificates().expect("it shows one")[0].clone();
        (StreamOwned::new(connection, stream), shown.into_owned())
    }

    /// Asks from the other host, or from that address of it, with the first token.
    fn ask(&self, source: Option<IpAddr>, method: &str, path: &str) -> Response {
        let token = fs::read_to_string(self.daemon.state_dir().join("token")).expect("a token");
        let bearer = format!("Bearer {}", token.trim());
        let request = Request {
            headers: vec![("Authorization", &bearer)],
            ..Request::new(method, path)
        };
        let answer = request.exchange(self.secure_from(source).0);
        answer.expect("an answer")
    }

    /// Whether the other host's calls get through.
    fn reaches(&self) -> bool {
        connect(self.client(), None, self.address, ATTEMPT).is_ok()
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = self.client().command(binary());
        command.args(arguments).output().expect("run the binary")
    }
}

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

/// An API client that a deny cuts off is named in its answer, and let in again when the trial is over.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn who_cuts_himself_off_is_told_and_let_in_again() {
    let scene = Scene::with("[protect]\nsessions = false\n");
    let put = scene.ask(None, "PUT", "/v1/deny/198.18.0.0/15?confirm=4s");
    assert_eq!(put.status, 201, "{put:?}");
    let put = put.json();
    assert_eq!(put["would_drop"][0]["peer"], "who asks", "{put}");
    assert!(!scene.reaches());
    let pending = scene.daemon.api("GET", "/v1/pending", None).json();
    assert_eq!(pending["pending"][0], put["pending"], "{pending}");
    let again = until(PROMPT, || scene.reaches().then_some(()));
    assert!(again.is_some(), "the trial is not over");
    assert_eq!(
        scene.ask(None, "GET", "/v1/pending").json(),
        json!({"pending": []})
    );
}

/// A client that a deny was put around goes on, though another process filters, and is told nothing but
/// in the log when it has been silent for an hour.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn who_was_carved_out_is_so_after_a_restart() {
    let mut scene = Scene::new();
    scene
        .daemon
        .edit_config(|text| format!("on_exit = \"keep\"\n{text}"));
    let client = scene.lan.segment().client(Family::V4, 0);
    let peers = scene.daemon.state_dir().join("peers.json");
    let is_kept =
        || fs::read_to_string(&peers).is_ok_and(|text| text.contains(&client.to_string()));
    let put = scene.ask(None, "PUT", "/v1/deny/198.18.0.0/15");
    assert_eq!(put.status, 201, "{put:?}");
    until(PROMPT, || is_kept().then_some(())).expect("who asked is not on disk");
    for is_killed in [true, false] {
        let ended = match is_killed {
            true => scene.daemon.kill(),
            false => scene.daemon.terminate(),
        };
        assert_eq!(ended.success(), !is_killed);
        scene.daemon.restart();
        assert!(scene.reaches(), "killed: {is_killed}");
        let path = format!("/v1/explain/{client}");
        let told = scene.daemon.api("GET", &path, None).json();
        assert_eq!(told["verdict"], "pass", "{told}");
    }
    // With its token goes what it was let in for.
    scene.daemon.terminate();
    fs::remove_file(&peers).expect("it is there");
    scene.daemon.restart();
    assert!(!scene.reaches(), "the deny does not stand");
}

/// What is looked at every five seconds is no reason for another answer in between.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn who_was_let_in_a_moment_ago_is_a_peer_in_every_write() {
    let scene = Scene::new();
    let client = |n| scene.lan.segment().client(Family::V4, n);
    let text = |method: &str, path: &str, body: &str| {
        scene.daemon.request(&Request {
            headers: vec![("Content-Type", "text/plain")],
            body: body.as_bytes().to_vec(),
            ..Request::new(method, path)
        })
    };
    for (n, method, path) in [
        (0, "PUT", format!("/v1/deny/{}", client(0))),
        (1, "POST", "/v1/deny".to_owned()),
        (2, "PUT", "/v1/deny".to_owned()),
    ] {
        let address = client(n);
        let from = scene.daemon.log().len();
        assert_eq!(scene.ask(Some(address), "GET", "/v1/status").status, 200);
        let put = match n {
            0 => scene.daemon.api(method, &path, None),
            _ => text(method, &path, &format!("192.0.2.0/24\n{address}\n")),
        };
        assert_eq!(put.status, 409, "{method} {path}: {put:?}");
        let changed = |line: &serde_json::Value| line["event.action"] == "protect-changed";
        scene.daemon.log().wait_from(from, changed, PROMPT);
    }
    // A larger one is put around him, and he is nobody whom it drops.
    let address = client(3);
    assert_eq!(scene.ask(Some(address), "GET", "/v1/status").status, 200);
    let put = scene
        .daemon
        .api("PUT", "/v1/deny/198.18.0.0/15", None)
        .json();
    let carved_out = put["carved_out"].as_array().expect("some are");
    let prefix = format!("{address}/32");
    assert!(
        carved_out.iter().any(|out| *out == prefix.as_str()),
        "{put}"
    );
    assert_eq!(put["would_drop"], serde_json::Value::Null, "{put}");
    assert_eq!(scene.ask(Some(address), "GET", "/v1/status").status, 200);
}
