//! Whether the daemon does its work: for `/readyz` and the service manager.

use std::sync::{Arc, Mutex, PoisonError};

/// Cheap to clone; all clones tell the same.
#[derive(Clone)]
pub struct Readiness(Arc<Mutex<Result<(), String>>>);

impl Readiness {
    /// Not ready, for the reason that it is starting.
    pub fn starting() -> Self {
        Self(Arc::new(Mutex::new(Err("starting".to_owned()))))
    }

    /// # Errors
    /// Why not, in words.
    pub fn is_ready(&self) -> Result<(), String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set(&self, ready: Result<(), String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ready;
    }
}
