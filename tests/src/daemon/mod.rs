//! The real daemon, started in a namespace and watched from outside.

mod builder;
mod log;
mod process;
mod refused;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Request, Response};
use crate::netns::Netns;
use crate::patience::stretched;

pub use builder::Builder;
pub use log::{Log, validate};
pub use process::{PinDirectory, Process, binary};
pub use refused::refused;

use builder::{config_path, socket_path};

/// Until the first `200` of `/readyz`. Building maps and attaching takes well under a second; putting
/// 65 536 bans in force takes some, in an unoptimised build beside others.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// An answer over the socket that takes longer is a failure.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// A running daemon with its own state, socket and pins. Dropping it stops it; if the test is failing
/// then, its last log lines are printed, and if not, an invalid log line fails the test.
#[derive(Debug)]
pub struct Daemon {
    // The order of the fields is the order of their end: the process first, its directories after it.
    process: Option<Process>,
    netns: Netns,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    binary: PathBuf,
    pins: PinDirectory,
    home: TempDir,
}

impl Daemon {
    /// A daemon in this namespace, on the interface of its default route, with the default rules.
    pub fn builder(netns: &Netns) -> Builder {
        Builder::new(netns.clone())
    }

    /// What the running daemon, or the last one, has logged since it started.
    pub fn log(&self) -> &Log {
        &self.running().log
    }

    /// All log lines so far.
    pub fn lines(&self) -> Vec<Value> {
        self.log().lines()
    }

    /// The first log line, from the start on, that `matches`; panics with the log's tail when there is
    /// none within `limit`.
    pub fn wait_for(&self, matches: impl Fn(&Value) -> bool, limit: Duration) -> Value {
        self.log().wait_from(0, matches, limit)
    }

    /// Calls the API over the unix socket. A body is sent as JSON.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let mut request = Request::new(method, path);
        if let Some(body) = body {
            request.headers.push(("Content-Type", "application/json"));
            request.body = body.to_string().into_bytes();
        }
        self.request(&request)
    }

    /// Sends any request over the unix socket.
    pub fn request(&self, request: &Request) -> Response {
        self.try_request(request).unwrap_or_else(|error| {
            panic!("{} {}: {error}", request.method, request.path);
        })
    }

    fn try_request(&self, request: &Request) -> std::io::Result<Response> {
        let stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(stretched(ANSWER_LIMIT)))?;
        stream.set_write_timeout(Some(stretched(ANSWER_LIMIT)))?;
        request.exchange(stream)
    }

    /// Runs a client command of the same binary against this daemon, such as `["bans", "list"]`.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.netns
            .command(binary())
            .args(arguments)
            .arg("--socket")
            .arg(self.socket())
            .output()
            .expect("run nsenter (package util-linux)")
    }

    /// The command that this daemon is started by: `packetwatch run` on its configuration and pins. Flags
    /// that are added outrank the configuration.
    pub fn command(&self) -> Command {
        let mut command = self.netns.command(&self.binary);
        command.args(&self.arguments);
        command.envs(self.environment.clone());
        command
    }

    /// The unix socket of the API.
    pub fn socket(&self) -> PathBuf {
        socket_path(self.home.path())
    }

    /// Where it keeps its journal, token and rules.
    pub fn state_dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// Where it pins its filter.
    pub fn bpffs(&self) -> &Path {
        self.pins.path()
    }

    /// The process id, as long as it runs.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// SIGTERM, and the exit status it leads to.
    pub fn terminate(&mut self) -> ExitStatus {
        self.running_mut().stop(Signal::SIGTERM)
    }

    /// SIGKILL: no chance to tidy up.
    pub fn kill(&mut self) -> ExitStatus {
        self.running_mut().stop(Signal::SIGKILL)
    }

    /// Sends a signal that does not end it, such as SIGHUP.
    pub fn signal(&self, signal: Signal) {
        self.running().signal(signal);
    }

    /// Starts it again, on the same configuration, state and pins, with an empty log. Stops it first, by
    /// SIGTERM, if it still runs.
    pub fn restart(&mut self) {
        // Dropping the old process stops it and checks its log.
        drop(self.process.take());
        self.start();
    }

    /// As [`Daemon::restart`], and waits only until it answers: it is not to be ready yet.
    pub fn restart_lacking(&mut self) {
        drop(self.process.take());
        self.start_until(|daemon| daemon.try_request(&Request::new("GET", "/healthz")).ok());
    }

    /// As [`Daemon::restart_lacking`], where it cannot be asked over its socket: waits until it answers
    /// on this address of its namespace.
    pub fn restart_over_tcp(&mut self, address: SocketAddr) {
        drop(self.process.take());
        let netns = self.netns.clone();
        self.start_until(move |_| {
            let stream = netns.run(|| TcpStream::connect(address)).ok()?;
            stream
                .set_read_timeout(Some(stretched(ANSWER_LIMIT)))
                .ok()?;
            Request::new("GET", "/healthz").exchange(stream).ok()
        });
    }

    /// Rewrites the configuration file's text; SIGHUP or [`Daemon::restart`] makes it count.
    pub fn edit_config(&self, edit: impl FnOnce(String) -> String) {
        let path = config_path(self.home.path());
        let text = fs::read_to_string(&path).expect("read the configuration");
        fs::write(path, edit(text)).expect("write the configuration");
    }

    /// Sets an environment variable for the next start.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(set, _)| set != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Another build for the next start.
    pub fn set_binary(&mut self, path: &Path) {
        self.binary = path.to_owned();
    }

    fn start(&mut self) {
        self.start_until(|daemon| daemon.try_request(&Request::new("GET", "/readyz")).ok());
    }

    /// Waits until what this asks is answered with 200.
    fn start_until(&mut self, ask: impl Fn(&Self) -> Option<Response>) {
        self.process = Some(Process::start(self.command()));
        let ready = crate::patience::until(READY_LIMIT, || {
            if let Some(status) = self.running_mut().exited() {
                panic!("the daemon ended with {status} before it was ready");
            }
            let answer = ask(self)?;
            (answer.status == 200).then_some(())
        });
        assert!(
            ready.is_some(),
            "the daemon was not ready in {READY_LIMIT:?}"
        );
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("a daemon has a process")
    }

    fn running_mut(&mut self) -> &mut Process {
        self.process.as_mut().expect("a daemon has a process")
    }
}
