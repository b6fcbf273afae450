//! SIGHUP: the configuration read again. A bad one is refused and the old one kept.

use std::sync::Arc;

use super::{RulesControl, run};
use crate::{
    config::{Config, Flags},
    log::EVENT,
};

/// Keys that take effect without a restart.
const LIVE: [&str; 7] = [
    "mode",
    "rules",
    "log.connections_per_second",
    "protect.self",
    "protect.gateway",
    "protect.sessions",
    "protect.extra",
];

pub(super) async fn reload(
    started_with: &Config,
    flags: &Flags,
    rules: &Arc<RulesControl>,
    protect: impl AsyncFnOnce(&Config) -> Result<(), String>,
) {
    let config = match run::load(flags.clone()) {
        Ok(config) => config,
        Err(error) => return refuse(&error.to_string()),
    };
    let applied = {
        let (rules, config) = (Arc::clone(rules), config.clone());
        tokio::task::spawn_blocking(move || rules.reload(&config)).await
    };
    match applied {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return refuse(&error.to_string()),
        Err(error) => return refuse(&error.to_string()),
    }
    let protecting = protect(&config).await;
    let waiting = waiting(started_with, &config);
    if !waiting.is_empty() {
        tracing::warn!("changed, but not before a restart: {}", waiting.join(", "));
    }
    match protecting {
        Ok(()) => tracing::info!(
            target: EVENT,
            { event.action = "reloaded" },
            "configuration read again"
        ),
        Err(lacking) => tracing::warn!(
            target: EVENT,
            { event.action = "reloaded", error.message = lacking.as_str() },
            "configuration read again, but not all that is to be protected is: {lacking}"
        ),
    }
}

fn refuse(error: &str) {
    tracing::error!(
        target: EVENT,
        { event.action = "reload-failed", error.message = error },
        "the configuration stays as it was: {error}"
    );
}

/// Keys whose new value needs a restart.
fn waiting(old: &Config, new: &Config) -> Vec<&'static str> {
    old.settings()
        .zip(new.settings())
        .filter(|(old, new)| old.value != new.value && !LIVE.contains(&old.key))
        .map(|(old, _)| old.key)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_live_key_is_a_key() {
        let config = Config::default();
        let keys: Vec<_> = config.settings().map(|setting| setting.key).collect();
        for key in LIVE {
            assert!(keys.contains(&key), "{key}");
        }
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = Config::default();
        let mut new = old.clone();
        new.state_dir = "/elsewhere".into();
        new.mode = crate::config::Mode::Observe;
        assert_eq!(waiting(&old, &new), ["state_dir"]);
    }
}
