//! Whether the daemon does its work: for `/readyz` and the service manager.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Cheap to clone; all clones tell the same.
#[derive(Clone)]
pub struct Readiness(Arc<Mutex<State>>);

struct State {
    /// why not yet, or no longer
    life: Result<(), String>,
    /// why not although it runs
    lacks: BTreeMap<Lack, String>,
}

/// Something without which it does not do its work. Each is told and taken back by who looks after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// of several configured interfaces one that is not here, or that another's program holds
    Withheld,
    /// a configured interface that is not filtered, or none that is
    Interfaces,
    /// the kernel does not take the policy
    Policy,
    /// a map that can be neither compared nor mended, by its name
    Map(&'static str),
    /// the kernel does not take bans
    Bans,
    /// more prefixes are to be protected than there is room for
    Unprotected,
    /// the kernel does not take what is to be protected
    Protection,
    /// the address that the API is to listen on
    Tcp,
    /// the unix socket that the API is to listen on
    Socket,
    /// a program that is pinned behind the filter and does not run
    Chain,
}

impl Readiness {
    /// Not ready, for the reason that it is starting.
    pub fn starting() -> Self {
        Self(Arc::new(Mutex::new(State {
            life: Err("starting".to_owned()),
            lacks: BTreeMap::new(),
        })))
    }

    /// # Errors
    /// Why not, in words.
    pub fn is_ready(&self) -> Result<(), String> {
        let state = self.state();
        state.life.clone()?;
        if state.lacks.is_empty() {
            return Ok(());
        }
        let lacks: Vec<&str> = state.lacks.values().map(String::as_str).collect();
        Err(lacks.join("; "))
    }

    /// As [`Readiness::is_ready`], of what a process that is started anew may well have: it runs, and
    /// filters what there is to filter. What the kernel refuses one it refuses the next, and what another's
    /// program holds as well.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn protects(&self) -> Result<(), String> {
        let state = self.state();
        state.life.clone()?;
        let unfiltered = state.lacks.get(&Lack::Interfaces);
        unfiltered.map_or(Ok(()), |why| Err(why.clone()))
    }

    pub fn set(&self, ready: Result<(), String>) {
        self.state().life = ready;
    }

    /// What is lacking, in words, or with `None` no longer.
    pub fn set_lack(&self, lack: Lack, why: Option<String>) {
        let mut state = self.state();
        match why {
            Some(why) => state.lacks.insert(lack, why),
            None => state.lacks.remove(&lack),
        };
    }

    /// What of it is lacking, in words.
    pub(super) fn lack(&self, lack: Lack) -> Option<String> {
        self.state().lacks.get(&lack).cloned()
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
        let lack = |lack, why: Option<&str>| readiness.set_lack(lack, why.map(str::to_owned));
        lack(Lack::Bans, Some("no bans"));
        lack(Lack::Interfaces, Some("eth0 is missing"));
        assert_eq!(
            readiness.is_ready(),
            Err("eth0 is missing; no bans".to_owned())
        );
        assert_eq!(readiness.protects(), Err("eth0 is missing".to_owned()));
        lack(Lack::Bans, None);
        assert_eq!(readiness.is_ready(), Err("eth0 is missing".to_owned()));
        readiness.set(Err("stopping".to_owned()));
        lack(Lack::Interfaces, None);
        assert_eq!(readiness.is_ready(), Err("stopping".to_owned()));
        assert_eq!(readiness.protects(), Err("stopping".to_owned()));
        readiness.set(Ok(()));
        assert_eq!(readiness.is_ready(), Ok(()));
        lack(Lack::Bans, Some("no bans"));
        assert_eq!(readiness.protects(), Ok(()));
    }
}
