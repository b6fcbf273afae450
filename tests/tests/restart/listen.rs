//! Places that the API cannot listen on when the daemon starts, which the filter does without.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use packetwatch_tests::http::Request;
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
    let again = until(PROMPT, || {
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
    assert!(again.is_some(), "the socket is not listened on");
    scene.expect(200, "GET", "/readyz", None);
}
