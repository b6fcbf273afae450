//! Places that the API cannot listen on, when the daemon starts or since somebody has taken one away, which
//! the filter does without.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use packetwatch_tests::http::{Request, ask_on, is_healthy};
use packetwatch_tests::patience::until;
use serde_json::Value;

use crate::scene::{PROMPT, Scene};

const TCP: ([u8; 4], u16) = ([127, 0, 0, 1], 7300);

fn has_action(action: &str) -> impl Fn(&Value) -> bool {
    move |line| line["event.action"] == action
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_port_that_somebody_holds_is_listened_on_when_it_is_free() {
    let address = SocketAddr::from(TCP);
    let mut scene = Scene::with("10m", |builder| builder.listen(address));
    let host = scene.lan.host.clone();
    scene.daemon.terminate();
    let holder = host
        .run(|| TcpListener::bind(address))
        .expect("the port is free");
    scene.daemon.restart_lacking();

    let line = scene.daemon.wait_for(has_action("listen-failed"), PROMPT);
    assert_eq!(line["packetwatch.api"], address.to_string(), "{line}");
    let ready = scene.daemon.api("GET", "/readyz", None);
    assert_eq!(ready.status, 503, "{ready:?}");
    let told = ready.text();
    assert!(
        told.contains(&address.to_string()) && told.contains("--api"),
        "{told}"
    );
    scene.scan_into_ban(0);

    // Two tries at least, a second apart, that are not to be told.
    thread::sleep(Duration::from_millis(2500));
    drop(holder);
    scene.daemon.wait_for(has_action("listening"), PROMPT);
    let is_ready = || scene.daemon.api("GET", "/readyz", None).status == 200;
    assert!(until(PROMPT, || is_ready().then_some(())).is_some());
    let stream = host
        .run(|| TcpStream::connect(address))
        .expect("it listens");
    stream.set_read_timeout(Some(PROMPT)).expect("set a limit");
    let answer = Request::new("GET", "/healthz").exchange(stream);
    assert_eq!(answer.expect("an answer").status, 200);
    let lines = scene.daemon.lines();
    let failed = lines.into_iter().filter(has_action("listen-failed"));
    assert_eq!(failed.count(), 1, "told once, not with each try");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_file_in_the_place_of_the_socket_leaves_tcp_and_the_filter() {
    let address = SocketAddr::from(TCP);
    let mut scene = Scene::with("10m", |builder| builder.listen(address));
    let host = scene.lan.host.clone();
    scene.daemon.terminate();
    let socket = scene.daemon.socket();
    fs::write(&socket, "precious").expect("write a file");
    let token = fs::read_to_string(scene.daemon.state_dir().join("token")).expect("a token");
    let bearer = format!("Bearer {}", token.trim());
    scene.daemon.restart_over_tcp(address);

    let line = scene.daemon.wait_for(has_action("listen-failed"), PROMPT);
    let path = socket.display().to_string();
    assert_eq!(line["packetwatch.api"], path.as_str(), "{line}");
    scene.assert_served(0, &crate::scene::PORTS);
    scene.assert_silence(0);
    let bans = || {
        let stream = host
            .run(|| TcpStream::connect(address))
            .expect("it listens");
        stream.set_read_timeout(Some(PROMPT)).expect("set a limit");
        let request = Request {
            headers: vec![("Authorization", &bearer)],
            ..Request::new("GET", "/v1/bans")
        };
        request.exchange(stream).expect("an answer").json()
    };
    assert_eq!(bans()["entries"].as_array().map(Vec::len), Some(1));
    assert_eq!(fs::read_to_string(&socket).expect("it stays"), "precious");

    fs::remove_file(&socket).expect("make way");
    let again = until(PROMPT, || UnixStream::connect(&socket).ok());
    assert!(again.is_some(), "the socket is not listened on");
    scene.expect(200, "GET", "/readyz", None);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_socket_that_is_removed_is_bound_anew() {
    // Who has no right over files but in the directory that was given to it at the start.
    let mut scene = Scene::with("10m", |builder| builder.env("PACKETWATCH_USER", "nobody"));
    let socket = scene.daemon.socket();
    let like = || {
        let found = fs::symlink_metadata(&socket).ok()?;
        Some((found.mode(), found.uid(), found.gid()))
    };
    let before = like().expect("it is there");
    let mut open = UnixStream::connect(&socket).expect("it listens");
    open.set_read_timeout(Some(PROMPT)).expect("set a limit");
    assert!(is_healthy(&mut open));

    for _ in 0..2 {
        let from = scene.daemon.log().len();
        fs::remove_file(&socket).expect("remove the socket");
        let listening = has_action("listening");
        let line = scene.daemon.log().wait_from(from, listening, PROMPT);
        assert_eq!(line["packetwatch.api"], socket.display().to_string());
        let status = scene.daemon.cli(&["status"]);
        assert!(status.status.success(), "{status:?}");
        assert_eq!(like(), Some(before));
        assert!(is_healthy(&mut open), "an open connection was cut");
    }
    scene.daemon.terminate();
    assert_eq!(like(), None, "its own socket stays");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_replaces_the_socket_stays_and_is_told() {
    let scene = Scene::new("10m");
    let socket = scene.daemon.socket();
    let mut open = UnixStream::connect(&socket).expect("it listens");
    open.set_read_timeout(Some(PROMPT)).expect("set a limit");
    let beside = socket.with_file_name("beside");
    let ready = || {
        let connect = || UnixStream::connect(&socket).ok();
        let stream = until(PROMPT, connect).expect("it listens");
        stream.set_read_timeout(Some(PROMPT)).expect("set a limit");
        let request = Request::new("GET", "/readyz").exchange(stream);
        request.expect("an answer").status
    };
    for (is_live, why) in [(false, "is no socket"), (true, "already answers")] {
        let theirs = is_live.then(|| UnixListener::bind(&beside).expect("bind another"));
        if !is_live {
            fs::write(&beside, "precious").expect("write a file");
        }
        let inode = fs::symlink_metadata(&beside).expect("it is there").ino();
        let from = scene.daemon.log().len();
        fs::rename(&beside, &socket).expect("replace the socket");
        let failed = has_action("listen-failed");
        let line = scene.daemon.log().wait_from(from, failed, PROMPT);
        assert_eq!(line["packetwatch.api"], socket.display().to_string());
        let told = line["error.message"].as_str().unwrap_or_default();
        assert!(told.contains(why), "{line}");
        let lack = ask_on(&mut open, "/readyz", "}").expect("it stays open");
        assert!(
            lack.starts_with("HTTP/1.1 503 ") && lack.contains(why),
            "{lack}"
        );
        let found = fs::symlink_metadata(&socket).expect("it stays");
        assert_eq!(found.ino(), inode, "it was replaced");

        fs::remove_file(&socket).expect("make way");
        drop(theirs);
        let listening = has_action("listening");
        scene.daemon.log().wait_from(from, listening, PROMPT);
        assert_eq!(ready(), 200);
    }
}
