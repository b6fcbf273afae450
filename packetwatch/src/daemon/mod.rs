//! The daemon: puts the rooms together and keeps them running.

mod calls;
mod control;
mod enforce;

pub use control::{RulesControl, RulesError, RulesFrom};
