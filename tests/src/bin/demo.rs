//! Two namespaces, three web servers, four callers: what Packetwatch does, on one page.

use std::net::{IpAddr, SocketAddr};
use std::panic;
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Uid;
use packetwatch_tests::daemon::binary;
use packetwatch_tests::{Daemon, Family, Lan, Server, answered, serve_http};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

const PORTS: [u16; 3] = [8086, 8087, 8088];

/// The rule of the demo. The default rule waits for ten ports in a minute and bans for ten.
const RULE: &str =
    "[[rules]]\nname = \"port-scan\"\ndistinct_ports = 3\nwithin = \"2s\"\nban = \"6s\"\n";

/// Between two ports of the slow scanner: never three of them in two seconds.
const SLOW: Duration = Duration::from_millis(1500);

/// No answer for this long is no answer; within it TCP would not try again.
const SILENCE: Duration = Duration::from_millis(800);

/// For an answer that must come.
const PROMPT: Duration = Duration::from_secs(5);

/// Set by Ctrl-C or SIGTERM. The story looks at it at every step, so that it ends by returning, and
/// takes its namespaces and its daemon with it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    if !Uid::effective().is_root() {
        eprintln!(
            "the demo needs root: it makes network namespaces and attaches an XDP program in one of \
             them. Run `sudo make demo`."
        );
        return ExitCode::FAILURE;
    }
    thread::spawn(watch_signals);
    // The harness panics where a test would; here that is one more way to fail, with one line about it.
    panic::set_hook(Box::new(|panic| {
        if !INTERRUPTED.load(Ordering::Relaxed) {
            eprintln!("{}", panic.payload_as_str().unwrap_or("the demo broke off"));
        }
    }));
    let told = panic::catch_unwind(|| {
        binary();
        let started = Instant::now();
        let story = Story::begin()?;
        story.tell()?;
        let names = [story.lan.host.path(), story.lan.segment().client.path()];
        drop(story);
        ensure!(
            !names.iter().any(|name| name.exists()),
            "a namespace is left behind"
        );
        println!(
            "\nDone in {} seconds. Filter, daemon and namespaces are gone again.",
            started.elapsed().as_secs()
        );
        Ok(())
    });
    match told {
        _ if INTERRUPTED.load(Ordering::Relaxed) => {
            eprintln!("\ninterrupted; everything is taken down again");
            ExitCode::from(130)
        }
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("\nThis is not how the story goes: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// The stage. Its fields end in this order: the daemon before the network it watches.
struct Story {
    daemon: Daemon,
    _servers: Vec<Server>,
    lan: Lan,
}

impl Story {
    fn begin() -> Result<Self> {
        let lan = Lan::new();
        let host = lan.segment().host(Family::V4);
        let servers = PORTS.map(|port| serve_http(&lan.host, host, port)).into();
        proceed()?;
        let interface = &lan.segment().interface;
        println!("Packetwatch in front of three web servers\n");
        println!("  a host      {host}, HTTP on ports 8086, 8087 and 8088");
        println!("  a network   of callers at the other end of {interface}");
        println!("  the rule    3 different ports within 2 seconds: banned for 6 seconds");
        let daemon = Daemon::builder(&lan.host)
            .interface(interface)
            .rules_toml(RULE)
            .start();
        Ok(Self {
            daemon,
            _servers: servers,
            lan,
        })
    }

    fn tell(&self) -> Result<()> {
        let segment = self.lan.segment();
        let [normal, slow, fast, allowed] = [0, 1, 2, 3].map(|n| segment.client(Family::V4, n));

        chapter("1. A normal client", "reads one site again and again.");
        self.expect(normal, 8086, 5, true)?;

        chapter("2. A slow scanner", "tries one port every 1.5 seconds.");
        for port in PORTS {
            self.expect(slow, port, 1, true)?;
            pause(SLOW)?;
        }

        chapter(
            "3. An allowed scanner",
            "is our own monitoring, so we tell Packetwatch first.",
        );
        let prefix = format!("{allowed}/32");
        self.command(&["allow", "add", &prefix, "--reason", "our own monitoring"])?;
        for port in PORTS.into_iter().chain(PORTS) {
            self.expect(allowed, port, 1, true)?;
        }
        self.expect_free(&[normal, slow, allowed])?;

        chapter(
            "4. A fast scanner",
            "tries all three ports at once. The third call still passes,",
        );
        println!("   the fourth is dropped in the kernel, and the ban follows.");
        for port in PORTS {
            self.expect(fast, port, 1, true)?;
        }
        self.expect(fast, 8086, 1, false)?;
        let source = fast.to_string();
        let ban = self.daemon.wait_for(
            |line| line["event.action"] == "ban" && line["source.ip"] == source.as_str(),
            PROMPT,
        );
        println!("\n   The daemon's log says:\n   {ban}");
        self.command(&["bans", "list", "--output", "table"])?;
        self.command(&["explain", &source, "--output", "table"])?;
        println!();
        self.expect(normal, 8086, 1, true)?;

        chapter("5. The ban ends", "by itself.");
        self.wait_for_end_of_ban(&source)?;
        self.expect(fast, 8086, 1, true)
    }

    /// Makes `times` calls and says what the caller saw; fails when it is not what was to come.
    fn expect(&self, source: IpAddr, port: u16, times: u32, expected: bool) -> Result<()> {
        proceed()?;
        let segment = self.lan.segment();
        let server = SocketAddr::new(segment.host(Family::V4), port);
        let limit = if expected { PROMPT } else { SILENCE };
        let mut calls = (0..times).map(|_| answered(&segment.client, Some(source), server, limit));
        let as_told = calls.all(|answer| answer == expected);
        let saw = match (as_told == expected, times) {
            (false, _) => "no answer".to_owned(),
            (true, 1) => "200 pong".to_owned(),
            (true, _) => format!("200 pong, {times} times"),
        };
        println!("   {source} calls port {port}: {saw}");
        proceed()?;
        ensure!(as_told, "the call to port {port} went otherwise");
        Ok(())
    }

    /// Fails when one of the callers has been banned.
    fn expect_free(&self, callers: &[IpAddr]) -> Result<()> {
        let bans = self.daemon.api("GET", "/v1/bans", None).json();
        let entries = bans["entries"].as_array().context("/v1/bans has entries")?;
        for caller in callers {
            let prefix = format!("{caller}/32");
            ensure!(
                !entries.iter().any(|ban| ban["prefix"] == prefix.as_str()),
                "{caller} is banned"
            );
        }
        println!("   Nobody is banned so far.");
        Ok(())
    }

    /// Shows a command of the operator and what it prints.
    fn command(&self, arguments: &[&str]) -> Result<()> {
        proceed()?;
        let shown: Vec<_> = arguments
            .iter()
            .map(|argument| match argument.contains(' ') {
                true => format!("'{argument}'"),
                false => (*argument).to_owned(),
            })
            .collect();
        println!("\n   $ packetwatch {}", shown.join(" "));
        let output = self.daemon.cli(arguments);
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            println!("   {line}");
        }
        if !output.status.success() {
            bail!(
                "packetwatch {} failed: {}",
                shown.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    fn wait_for_end_of_ban(&self, source: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(12);
        let ended = |line: &serde_json::Value| {
            line["event.action"] == "ban-expired" && line["source.ip"] == source
        };
        loop {
            if let Some(line) = self.daemon.lines().into_iter().find(ended) {
                println!("   {line}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the ban of {source} did not end");
            pause(Duration::from_millis(100))?;
        }
    }
}

fn chapter(who: &str, what: &str) {
    println!("\n{who} {what}");
}

/// Sleeps, but not through an interruption.
fn pause(length: Duration) -> Result<()> {
    let end = Instant::now() + length;
    while Instant::now() < end {
        proceed()?;
        thread::sleep(Duration::from_millis(50));
    }
    proceed()
}

fn proceed() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Notes the first signal; a second one does not wait for the story to take itself down.
fn watch_signals() {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("start a runtime");
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).expect("watch SIGINT");
        let mut terminate = signal(SignalKind::terminate()).expect("watch SIGTERM");
        for _ in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if INTERRUPTED.swap(true, Ordering::Relaxed) {
                exit(130);
            }
        }
    });
}
