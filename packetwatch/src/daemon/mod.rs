//! The daemon: puts the rooms together and keeps them running.
//!
//! `before` loads the program and gives root's rights up; `run` assembles and serves; `enforce` is
//! the rule loop, `sweep` what it does each second, `evict` whom that forgets and `crowd` whether it had
//! to, `flood` the admission threshold; `protecting` tells of what is to be protected and is not; `calls` the call
//! log; `control` the rules and the mode in force, `trials` the change of them or of a list that waits
//! to be confirmed; `interfaces` attaches, `watch` sees to it that it stays so, and `reconcile` to it
//! that the maps do; `chain` follows the program behind the filter; `reload` is SIGHUP; `process` is what
//! it asks for itself; `tasks` misses what ends among them, `service` tells the service manager, and
//! `pulse` whether the rule loop goes round.

mod before;
mod calls;
mod chain;
mod control;
mod crowd;
mod enforce;
mod evict;
mod flood;
mod interfaces;
mod judged;
mod peers;
mod pins;
mod population;
mod process;
mod protecting;
mod pulse;
mod readiness;
mod reconcile;
mod refusals;
mod reload;
mod run;
mod service;
mod sweep;
mod tasks;
mod trials;
mod watch;

use std::time::Duration;

use anyhow::{Context as _, Result};

pub use control::{BYPASS, InForce, RestoreError, RulesControl, RulesError, SetBy};
pub use readiness::{Lack, Readiness};
pub use refusals::Refusals;
pub use trials::{TrialError, Trials};

use before::Before;

use crate::{
    cli::DetachArgs,
    config::{Flags, Sources},
    dataplane::{self, Detached, Was},
    log, memory,
};

/// `packetwatch run`: the daemon, in the foreground, until SIGINT or SIGTERM.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(flags: Flags) -> Result<()> {
    memory::bound_arenas();
    let config = run::load(flags.clone())?;
    // `debug` turns the XDP program's own messages on.
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let before = Before::of(&config, log::is_debug(&filter))?;
    let log = log::init(config.log.format, &filter)?;
    before.tell(&Sources::file_of(&flags));
    process::settle();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the event loop")?;
    let ended = runtime.block_on(run::run(config, flags, before, log.clone()));
    runtime.shutdown_timeout(Duration::from_secs(5));
    log.flush(Duration::from_secs(2));
    ended
}

/// `packetwatch detach`: takes off what a process left behind, and says so one by one.
///
/// # Errors
/// There is nothing to take off, or a living process holds it; the other interfaces are seen to
/// all the same.
pub fn detach(args: DetachArgs) -> Result<()> {
    let DetachArgs { interfaces, bpffs } = args;
    let (mut failed, mut all) = (0, 0);
    let mut tell = |detached: Detached| {
        let Detached {
            interface,
            abi,
            result,
        } = detached;
        all += 1;
        match result {
            Ok(Was::Filtered) => println!("detached from {interface} ({abi})"),
            Ok(Was::Dead) => println!("{interface} was not filtered; its pin is removed ({abi})"),
            Err(error) => {
                eprintln!("{interface} ({abi}): {:#}", anyhow::Error::from(error));
                failed += 1;
            }
        }
    };
    let mut nothing = Vec::new();
    if interfaces.is_empty() {
        dataplane::detach(&bpffs, None)?
            .into_iter()
            .for_each(&mut tell);
    }
    for interface in interfaces {
        let detached = dataplane::detach(&bpffs, Some(&interface))?;
        if detached.is_empty() {
            nothing.push(interface);
        }
        detached.into_iter().for_each(&mut tell);
    }
    for interface in &nothing {
        eprintln!(
            "{interface}: no filter of it was left behind on {}; `packetwatch detach` without \
             --interface takes off all that were",
            bpffs.display()
        );
    }
    let (failed, all) = (failed + nothing.len(), all + nothing.len());
    anyhow::ensure!(
        all > 0,
        "no interface here has a filter that was left behind on {}",
        bpffs.display()
    );
    anyhow::ensure!(
        failed == 0,
        "not detached: {failed} of {all} interfaces, see above"
    );
    Ok(())
}
