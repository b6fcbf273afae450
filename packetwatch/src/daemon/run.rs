//! A daemon's life: assemble, serve, reload, let go.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use super::{
    Readiness, RulesControl,
    before::Before,
    calls::CallLog,
    chain,
    enforce::Enforcer,
    flood::FloodWatch,
    interfaces,
    judged::Judged,
    peers as seen,
    population::Population,
    protecting::Protecting,
    pulse::Pulse,
    reconcile::Reconciler,
    refusals::Refusals,
    service::{self, Service},
    tasks::Tasks,
    trials::Trials,
    watch::Watch,
};
use crate::{
    api::{self, App, Listeners, Peers},
    clock::Clock,
    config::{Config, Flags, Sources, Word as _},
    dataplane::Dataplane,
    lists::{Capacity, JOURNAL_FILE, Lists},
    log::{EVENT, LogHandle},
    metrics::Counters,
    netlink::Netlink,
    privileges::confine,
    protect::{Protector, Sessions, Settings},
    tokens::Tokens,
};

pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What a task has for the step that it is at when the order to stop comes; more than the API has
/// for the answers under way.
const LAST_STEPS: Duration = Duration::from_secs(3);

pub(super) const GIT: &str = env!("PACKETWATCH_GIT");

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// What kept it from starting, each with its remedy; the task that was lost.
pub(super) async fn run(
    config: Config,
    flags: Flags,
    before: Before,
    log: LogHandle,
) -> Result<()> {
    let Before {
        dataplane,
        events,
        starting_shell,
        ..
    } = before;
    for note in config.notes() {
        tracing::warn!("{note}");
    }
    let mut signals = Signals::new()?;
    let started = Instant::now();
    let clock = Clock::new();
    let shutdown = CancellationToken::new();
    let netlink = Netlink::connect().context("open a netlink socket")?;
    let names = interfaces::chosen(&config, &netlink).await?;

    // Nobody is listened to before this.
    if let Err(error) = confine() {
        tracing::warn!("the daemon may make every system call: {error}");
    }
    let capacity = Capacity {
        lists: config.capacity.lists,
        bans: config.capacity.bans,
    };
    if Tokens::are_in(&config.state_dir) && Lists::are_lost(&config.state_dir) {
        tracing::warn!(
            "{} is missing, though the tokens beside it are a daemon's that ran here before: lists, bans \
             and offences begin with what a filter says that is still in place, if there is one; \
             `packetwatch restore FILE` puts a backup back",
            config.state_dir.join(JOURNAL_FILE).display()
        );
    }
    // Everything that judges is in the maps before the first packet is.
    let lists = Lists::open_or_salvage(&config.state_dir, dataplane.clone(), capacity, clock)?;
    let tokens = Tokens::open(&config.state_dir, clock)?;
    let readiness = Readiness::starting();
    let protecting = Protecting::new(lists.clone(), readiness.clone());
    let (protect, settings) = watch::channel(protected(&config, &names));
    let sessions = Sessions::of_host(starting_shell);
    let peers = Peers::new(sessions.clone(), tokens.clone(), settings.clone());
    let protector = protector(
        netlink.clone(),
        settings,
        sessions,
        tokens.clone(),
        dataplane.clone(),
    )
    .telling({
        let protecting = protecting.clone();
        move |left_out| protecting.left_out(left_out)
    });
    let followed = protector.followed();
    let established = protector.current().await?;
    let protected_now = protecting.apply(established);
    protected_now.context("protect the host's own addresses")?;
    let rules = Arc::new(RulesControl::new(
        dataplane.clone(),
        lists.clone(),
        &config,
        clock,
    )?);
    // A daemon that answers on it ends the start here, with nothing attached.
    let mut listeners = Listeners::bind_unix(&config.api, &readiness).await?;
    let certificate = Arc::clone(&listeners.certificate);
    interfaces::attach(&dataplane, &netlink, &names, &config).await?;
    if let Some(chained) = dataplane.chain() {
        chain::begin(&chained, &readiness);
    }
    // From here on the filter is in place: whatever fails now lets go of it.
    let serving = async {
        rules.refresh()?;
        let mut tasks = Tasks::new(readiness.clone());
        let keeping = protector.run(
            {
                let lists = lists.clone();
                move || lists.protected()
            },
            {
                let (lists, protecting, peers) = (lists.clone(), protecting.clone(), peers.clone());
                move |set| {
                    let protected = protecting.apply(set);
                    // Whom a change has protected since the look is not cut off before the next.
                    peers.protect(&lists);
                    protected
                }
            },
            shutdown.clone(),
        );
        tasks.spawn("the keeper of protected addresses", keeping);
        let keeping = seen::keep(tokens.clone(), shutdown.clone());
        tasks.spawn("the keeper of API clients", keeping);
        let pulse = Pulse::new();
        let counters = Counters::default();
        let population = Population::default();
        let enforcer = Enforcer {
            counters: counters.clone(),
            judged: Judged::default(),
            population: population.clone(),
            refusals: Refusals::default(),
            pulse: pulse.clone(),
            readiness: readiness.clone(),
            lists: lists.clone(),
            dataplane: dataplane.clone(),
            rules: Arc::clone(&rules),
            clock,
            capacity: config.capacity.callers,
        };
        tasks.spawn("the sweep", enforcer.clone().sweep(shutdown.clone()));
        let judging = enforcer.run(events.offences, shutdown.clone());
        tasks.spawn("the rule loop", judging);
        let flood = FloodWatch {
            dataplane: dataplane.clone(),
            population,
            clock,
            capacity: config.capacity.callers,
        };
        tasks.spawn("the watch for floods", flood.run(shutdown.clone()));
        let calls = CallLog {
            dataplane: dataplane.clone(),
            rules: Arc::clone(&rules),
            clock,
            over_budget: Arc::default(),
        };
        let reporting = calls.clone().report_left_out(shutdown.clone());
        tasks.spawn("the count of calls without a line", reporting);
        tasks.spawn("the call log", calls.run(events.calls, shutdown.clone()));
        let watch = Watch {
            dataplane: dataplane.clone(),
            netlink: Netlink::connect().context("open a netlink socket")?,
            rules: Arc::clone(&rules),
            readiness: readiness.clone(),
            counters: counters.clone(),
            mode: interfaces::asked(config.xdp_mode),
        };
        tasks.spawn("the watch over interfaces", watch.run(shutdown.clone()));
        let reconciler = Reconciler {
            lists: lists.clone(),
            dataplane: dataplane.clone(),
            rules: Arc::clone(&rules),
            counters: counters.clone(),
            readiness: readiness.clone(),
        };
        tasks.spawn("the reconciler", reconciler.run(shutdown.clone()));
        let trials = Trials::new(Arc::clone(&rules), lists.clone());
        let settling = trials.clone().run(shutdown.clone());
        tasks.spawn("the keeper of changes on trial", settling);
        if let Some(debug) = events.debug {
            let shutdown = shutdown.clone();
            tasks.spawn("the XDP program's log", async move {
                tokio::select! {
                    forwarded = debug.forward() => forwarded,
                    () = shutdown.cancelled() => Ok(()),
                }
            });
        }
        listeners.bind_tcp(&config.api, &readiness).await;
        let address = listeners.tcp_address();
        let app = App {
            lists: lists.clone(),
            dataplane: dataplane.clone(),
            rules: Arc::clone(&rules),
            trials,
            peers,
            readiness: readiness.clone(),
            tokens,
            certificate: Arc::clone(&certificate),
            log,
            counters,
            refusals: Refusals::default(),
            clock,
            started,
            version: VERSION,
            git: GIT,
        };
        tasks.spawn("the API", api::serve(app, listeners, shutdown.clone()));
        let service = Service {
            readiness: readiness.clone(),
            dataplane: dataplane.clone(),
            pulse,
        };
        readiness.set(Ok(()));
        let filtered = service::names(&dataplane.interfaces());
        service.ready();
        let watched = service.clone().run(shutdown.clone());
        tasks.spawn("the watchdog's feeder", watched);
        tracing::info!(
            target: EVENT,
            {
                event.action = "started",
                service.version = VERSION,
                packetwatch.mode = config.mode.word(),
                packetwatch.interfaces = filtered.replace(", ", ","),
                packetwatch.api = address.map(tracing::field::display),
            },
            "packetwatch {VERSION} filters {filtered}"
        );
        let changed = async |new: &Config| {
            if let Some(shown) = certificate.get().cloned() {
                // It tells what comes of it.
                let _ = spawn_blocking(move || shown.reload()).await;
            }
            let settings = protected(new, &names);
            protect.send_replace(settings.clone());
            protecting.follow(&settings, followed.clone()).await
        };
        let reload = async || {
            service.reloading();
            super::reload::reload(&config, &flags, &rules, changed).await;
            service.ready();
        };
        let ended = signals.serve(reload, &mut tasks).await;
        service.stopping();
        if ended.is_ok() {
            readiness.set(Err("stopping".to_owned()));
        }
        shutdown.cancel();
        // What the watch is attaching to is let go of below.
        tasks.end(LAST_STEPS).await;
        ended
    };
    let ended = serving.await;
    interfaces::release(&dataplane, config.on_exit);
    // The last bans are on disk before the word that it has stopped.
    let _ = spawn_blocking(move || lists.flush()).await;
    tracing::info!(target: EVENT, { event.action = "stopped" }, "packetwatch has stopped");
    ended
}

/// What the configuration says of protected addresses.
fn protected(config: &Config, interfaces: &[String]) -> Settings {
    let extra = config.protect.extra.iter();
    Settings {
        interfaces: interfaces.to_vec(),
        own: config.protect.own,
        gateway: config.protect.gateway,
        sessions: config.protect.sessions,
        extra: extra.map(|parsed| parsed.prefix).collect(),
    }
}

fn protector(
    netlink: Netlink,
    settings: watch::Receiver<Settings>,
    sessions: Sessions,
    tokens: Tokens,
    dataplane: Dataplane,
) -> Protector {
    let api_peers = move || tokens.seen();
    Protector::new(netlink, settings, sessions, api_peers).following(move || {
        let interfaces = dataplane.interfaces().into_iter();
        interfaces.map(|interface| interface.ifindex).collect()
    })
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
    ///
    /// # Errors
    /// The task that was lost.
    async fn serve(&mut self, reload: impl AsyncFn(), tasks: &mut Tasks) -> Result<()> {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return Ok(()),
                _ = self.terminate.recv() => return Ok(()),
                _ = self.hangup.recv() => reload().await,
                lost = tasks.lost() => return Err(lost.into()),
            }
        }
    }
}

/// The configuration as the process's flags, environment and file say now.
pub(super) fn load(flags: Flags) -> Result<Config, crate::config::ConfigError> {
    Config::load(Sources::of_process(flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lost_task_ends_the_daemon_with_an_error() {
        let readiness = Readiness::starting();
        readiness.set(Ok(()));
        let mut tasks = Tasks::new(readiness.clone());
        tasks.spawn("the rule loop", async { panic!("planted") });
        let mut signals = Signals::new().unwrap();
        let serving = signals.serve(async || {}, &mut tasks);
        let ended = tokio::time::timeout(LAST_STEPS, serving).await.unwrap();
        let error = ended.unwrap_err().to_string();
        assert!(
            error.starts_with("the rule loop has ended (panicked: planted)"),
            "{error}"
        );
        assert_eq!(
            readiness.is_ready(),
            Err("the rule loop has ended".to_owned())
        );
    }
}
