//! Whether the daemon does its work: for `/readyz` and the service manager.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Cheap to clone; all clones tell the same.
#[derive(Clone)]
pub struct Readiness(Arc<Mutex<State>>);

struct State {
    /// why not yet, or no longer
    life: Result<(), String>,
    /// why not although it runs: what is configured and not filtered
    unfiltered: Option<String>,
}

impl Readiness {
    /// Not ready, for the reason that it is starting.
    pub fn starting() -> Self {
        Self(Arc::new(Mutex::new(State {
            life: Err("starting".to_owned()),
            unfiltered: None,
        })))
    }

    /// # Errors
    /// Why not, in words.
    pub fn is_ready(&self) -> Result<(), String> {
        let state = self.state();
        state.life.clone()?;
        state.unfiltered.clone().map_or(Ok(()), Err)
    }

    pub(super) fn set(&self, ready: Result<(), String>) {
        self.state().life = ready;
    }

    /// Which interfaces are configured and not filtered, in words.
    pub(super) fn set_unfiltered(&self, why: Option<String>) {
        self.state().unfiltered = why;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_who_runs_and_filters_everything() {
        let readiness = Readiness::starting();
        assert_eq!(readiness.is_ready(), Err("starting".to_owned()));
        readiness.set(Ok(()));
        assert_eq!(readiness.is_ready(), Ok(()));
        readiness.set_unfiltered(Some("eth0 is missing".to_owned()));
        assert_eq!(readiness.is_ready(), Err("eth0 is missing".to_owned()));
        readiness.set(Err("stopping".to_owned()));
        readiness.set_unfiltered(None);
        assert_eq!(readiness.is_ready(), Err("stopping".to_owned()));
    }
}
