//! A daemon's life: assemble, serve, reload, let go.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Readiness, RulesControl, calls::CallLog, enforce::Enforcer, flood::FloodWatch, interfaces,
    judged::Judged, population::Population, reconcile::Reconciler, refusals::Refusals,
    watch::Watch,
};
use crate::{
    api::{self, App, Listeners, Tokens},
    clock::Clock,
    config::{Config, Flags, OnExit, Sources, Word as _},
    dataplane::{Capacities, Dataplane, Options, Pins},
    lists::{Capacity, Lists},
    log::{EVENT, LogHandle},
    metrics::Counters,
    netlink::Netlink,
    protect::{Protector, Sessions, Settings, starting_shell},
};

pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What a part of the daemon has for the step that it is at when the order to stop comes.
const LAST_STEPS: Duration = Duration::from_secs(2);

pub(super) const GIT: &str = env!("PACKETWATCH_GIT");

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// What kept it from starting, each with its remedy.
pub(super) async fn run(config: Config, flags: Flags, log: LogHandle) -> Result<()> {
    for note in config.notes() {
        tracing::warn!("{note}");
    }
    let mut signals = Signals::new()?;
    let started = Instant::now();
    let clock = Clock::new();
    let shutdown = CancellationToken::new();
    let netlink = Netlink::connect().context("open a netlink socket")?;
    let names = interfaces::chosen(&config, &netlink).await?;

    let (dataplane, events) = Dataplane::load(Options {
        capacities: Capacities {
            lists: config.capacity.lists,
            bans: config.capacity.bans,
            callers: config.capacity.callers,
        },
        pins: pins(&config.bpffs, config.on_exit)?,
        clock_from_map: false,
        debug: tracing::enabled!(target: "packetwatch", tracing::Level::DEBUG),
    })?;
    let capacity = Capacity {
        lists: config.capacity.lists,
        bans: config.capacity.bans,
    };
    // Everything that judges is in the maps before the first packet is.
    let lists = Lists::open(&config.state_dir, dataplane.clone(), capacity, clock)?;
    let tokens = Tokens::open(&config.state_dir)?;
    let mut protector = Protection {
        netlink: netlink.clone(),
        names: names.clone(),
        sessions_from: starting_shell(),
        tokens: tokens.clone(),
        lists: lists.clone(),
        dataplane: dataplane.clone(),
        stop: CancellationToken::new(),
    };
    protector.establish(&config).await?;
    let rules = Arc::new(RulesControl::new(dataplane.clone(), &config)?);
    let listeners = Listeners::bind(config.api.listen, config.api.socket.as_deref()).await?;
    interfaces::attach(&dataplane, &netlink, &names, &config).await?;
    // From here on the filter is in place: whatever fails now lets go of it.
    let serving = async {
        rules.refresh()?;
        let readiness = Readiness::starting();
        let mut tasks = JoinSet::new();
        protector.keep(&config);
        let counters = Counters::default();
        let population = Population::default();
        let enforcer = Enforcer {
            counters: counters.clone(),
            judged: Judged::default(),
            population: population.clone(),
            refusals: Refusals::default(),
            lists: lists.clone(),
            dataplane: dataplane.clone(),
            rules: Arc::clone(&rules),
            clock,
            capacity: config.capacity.callers,
        };
        tasks.spawn(enforcer.run(events.offences, shutdown.clone()));
        let flood = FloodWatch {
            dataplane: dataplane.clone(),
            population,
            clock,
            capacity: config.capacity.callers,
        };
        tasks.spawn(flood.run(shutdown.clone()));
        let calls = CallLog {
            dataplane: dataplane.clone(),
            rules: Arc::clone(&rules),
            clock,
        };
        tasks.spawn(calls.run(events.calls, shutdown.clone()));
        let watch = Watch {
            dataplane: dataplane.clone(),
            netlink: Netlink::connect().context("open a netlink socket")?,
            rules: Arc::clone(&rules),
            readiness: readiness.clone(),
            counters: counters.clone(),
            mode: interfaces::asked(config.xdp_mode),
        };
        tasks.spawn(watch.run(shutdown.clone()));
        let reconciler = Reconciler {
            lists: lists.clone(),
            rules: Arc::clone(&rules),
            counters: counters.clone(),
        };
        tasks.spawn(reconciler.run(shutdown.clone()));
        if let Some(debug) = events.debug {
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                tokio::select! {
                    forwarded = debug.forward() => forwarded,
                    () = shutdown.cancelled() => Ok(()),
                }
            });
        }
        let address = listeners.tcp_address();
        let app = App {
            lists: lists.clone(),
            dataplane: dataplane.clone(),
            rules: Arc::clone(&rules),
            readiness: readiness.clone(),
            tokens,
            log,
            counters,
            clock,
            started,
            version: VERSION,
            git: GIT,
        };
        let api = tokio::spawn(api::serve(app, listeners, shutdown.clone()));
        readiness.set(Ok(()));
        tracing::info!(
            target: EVENT,
            {
                event.action = "started",
                service.version = VERSION,
                packetwatch.mode = config.mode.word(),
                packetwatch.interfaces = names.join(","),
                packetwatch.api = address.map(tracing::field::display),
            },
            "packetwatch {VERSION} filters {}", names.join(", ")
        );
        let ended = signals
            .serve(&config, &flags, &rules, &mut protector, &mut tasks)
            .await;
        readiness.set(Err("stopping".to_owned()));
        shutdown.cancel();
        protector.stop.cancel();
        let _ = api.await;
        // They end by themselves: what the watch is attaching to is let go of below.
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = timeout(LAST_STEPS, all).await;
        tasks.shutdown().await;
        ended
    };
    let ended = serving.await;
    interfaces::release(&dataplane, config.on_exit);
    // The last bans are on disk before the word that it has stopped.
    let _ = spawn_blocking(move || lists.flush()).await;
    tracing::info!(target: EVENT, { event.action = "stopped" }, "packetwatch has stopped");
    ended
}

/// Pins keep the filter when the process dies. Without a bpffs it works all the same, and ends
/// with the process.
fn pins(bpffs: &Path, on_exit: OnExit) -> Result<Option<Pins>> {
    match Pins::prepare(bpffs) {
        Ok(pins) => Ok(Some(pins)),
        Err(error) if on_exit == OnExit::Keep => Err(error).context(
            "on_exit = \"keep\" needs a bpffs to pin the filter to; `mount -t bpf bpf \
             /sys/fs/bpf`, or choose --on-exit detach",
        ),
        Err(error) => {
            tracing::warn!(
                "the filter ends with this process, however it ends: {error}; `mount -t bpf bpf \
                 /sys/fs/bpf` mends it"
            );
            Ok(None)
        }
    }
}

/// The protected addresses, established before the first packet and kept up to date.
struct Protection {
    netlink: Netlink,
    names: Vec<String>,
    sessions_from: Option<std::net::IpAddr>,
    tokens: Tokens,
    lists: Lists,
    dataplane: Dataplane,
    stop: CancellationToken,
}

impl Protection {
    fn protector(&self, config: &Config) -> Protector {
        let tokens = self.tokens.clone();
        let dataplane = self.dataplane.clone();
        let settings = Settings {
            interfaces: self.names.clone(),
            own: config.protect.own,
            gateway: config.protect.gateway,
            sessions: config.protect.sessions,
            extra: config
                .protect
                .extra
                .iter()
                .map(|parsed| parsed.prefix)
                .collect(),
        };
        let sessions = Sessions::of_host(self.sessions_from);
        Protector::new(self.netlink.clone(), settings, sessions, move || {
            tokens
                .seen()
                .into_iter()
                .map(|(address, _)| address)
                .collect()
        })
        .following(move || {
            let interfaces = dataplane.interfaces().into_iter();
            interfaces.map(|interface| interface.ifindex).collect()
        })
    }

    async fn establish(&self, config: &Config) -> Result<()> {
        let set = self.protector(config).current().await?;
        self.lists
            .protect(set)
            .context("protect the host's own addresses")
    }

    /// Starts anew with another configuration, if it ran before.
    fn keep(&mut self, config: &Config) {
        self.stop.cancel();
        self.stop = CancellationToken::new();
        let lists = self.lists.clone();
        let run = self.protector(config);
        tokio::spawn(run.run(move |set| lists.protect(set), self.stop.clone()));
    }
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let of = |kind| signal(kind).context("install a signal handler");
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
            hangup: of(SignalKind::hangup())?,
        })
    }

    /// Until the order to stop. SIGHUP reads the configuration again.
    async fn serve(
        &mut self,
        config: &Config,
        flags: &Flags,
        rules: &Arc<RulesControl>,
        protection: &mut Protection,
        tasks: &mut JoinSet<std::io::Result<()>>,
    ) -> Result<()> {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return Ok(()),
                _ = self.terminate.recv() => return Ok(()),
                _ = self.hangup.recv() => {
                    super::reload::reload(config, flags, rules, |new| protection.keep(new)).await;
                }
                Some(ended) = tasks.join_next() => {
                    ended.context("a part of the daemon panicked")?.context("a part of the daemon ended")?;
                }
            }
        }
    }
}

/// The configuration as the process's flags, environment and file say now.
pub(super) fn load(flags: Flags) -> Result<Config, crate::config::ConfigError> {
    Config::load(Sources::of_process(flags))
}
