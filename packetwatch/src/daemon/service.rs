//! What the service manager is told, by the notify protocol of systemd.
//!
//! `READY=1` when every interface is filtered and the lists, bans and rules are in force. From then on
//! the watchdog is fed only while both hold: each configured interface that is here, and not held by
//! another's program, is filtered, and there is one, and the rule loop goes round. So a manager that watches
//! (`WatchdogSec=`) restarts a daemon that no longer protects where that may help, and `systemctl status`
//! says why in words. Without a manager nothing of this does anything.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Readiness, pulse::Pulse};
use crate::dataplane::{Dataplane, Interface};

/// How often the status is looked at where no watchdog asks for more.
const EVERY: Duration = Duration::from_secs(1);

/// The service as its manager sees it.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) readiness: Readiness,
    pub(super) dataplane: Dataplane,
    pub(super) pulse: Pulse,
}

impl Service {
    /// Everything is in force, at the start or after a reload.
    pub(super) fn ready(&self) {
        let status = self.status(&self.readiness.protects());
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// The configuration is read again; [`Service::ready`] ends it.
    pub(super) fn reloading(&self) {
        // `Type=notify-reload` tells an answer from an earlier one by its time.
        let now = NotifyState::monotonic_usec_now().ok();
        let states: Vec<_> = std::iter::once(NotifyState::Reloading).chain(now).collect();
        notify(&states);
    }

    pub(super) fn stopping(&self) {
        notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Feeds the watchdog, twice in its period, and keeps the status up to date until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let period = sd_notify::watchdog_enabled();
        let every = period.map_or(EVERY, |period| EVERY.min(period / 2));
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let health = self.health(period);
            let status = self.status(&health);
            let mut states = Vec::new();
            if told.as_ref() != Some(&status) {
                states.push(NotifyState::Status(&status));
            }
            if period.is_some() && health.is_ok() {
                states.push(NotifyState::Watchdog);
            }
            if !states.is_empty() {
                notify(&states);
            }
            told = Some(status);
        }
    }

    fn health(&self, period: Option<Duration>) -> Result<(), String> {
        self.readiness.protects()?;
        period.map_or(Ok(()), |period| goes_round(self.pulse.age(), period))
    }

    fn status(&self, health: &Result<(), String>) -> String {
        match health {
            Ok(()) => {
                let filters = format!("filters {}", names(&self.dataplane.interfaces()));
                match self.readiness.is_ready() {
                    Ok(()) => filters,
                    Err(lack) => format!("{filters}, but {lack}"),
                }
            }
            Err(why) => format!("does not protect: {why}"),
        }
    }
}

/// # Errors
/// The rule loop has been stuck for as long as the watchdog waits.
fn goes_round(age: Duration, period: Duration) -> Result<(), String> {
    if age <= period {
        return Ok(());
    }
    Err(format!(
        "the rule loop has been stuck for {} s",
        age.as_secs()
    ))
}

/// Of those that are filtered.
pub(super) fn names(interfaces: &[Interface]) -> String {
    let filtered = interfaces.iter().filter(|known| known.state.is_filtered());
    let names: Vec<&str> = filtered.map(|known| &*known.name).collect();
    names.join(", ")
}

/// A manager that does not listen is no trouble of the filter's.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager is not told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_loop_that_is_stuck_for_a_period_is_told() {
        let period = Duration::from_secs(30);
        assert_eq!(goes_round(Duration::ZERO, period), Ok(()));
        assert_eq!(goes_round(period, period), Ok(()));
        let stuck = goes_round(period + Duration::from_millis(1), period);
        assert_eq!(
            stuck,
            Err("the rule loop has been stuck for 30 s".to_owned())
        );
    }
}
