//! The only door to the kernel: loads the XDP program, attaches it, reads and writes its maps.
//!
//! No aya type leaves this module. The rest of the daemon sees [`Dataplane`], whose methods are
//! verbs of the domain; a change of aya's API, or of a map's insides, ends here.
//!
//! Every method is a system call or a few, none of which sleeps: they may be called from async
//! code. What the kernel holds is the truth; nothing is cached here.

mod admission;
mod attach;
mod bans;
mod batch;
mod bpffs;
mod callers;
mod census;
mod chain;
mod chain_pin;
mod chain_place;
mod chained;
mod counters;
mod detach;
mod error;
mod events;
mod features;
mod follow;
mod hold;
mod holder;
mod index;
mod inherit;
mod interface;
mod key;
mod leftovers;
mod link;
mod links;
mod lists;
mod mapped;
mod mode;
mod object;
mod pinned;
mod pins;
mod policy;
mod probe;
mod repin;
mod takeover;
mod tidy;
mod variant;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use admission::AdmissionCounts;
pub use bans::Ban;
pub use chain::{ChainState, ChainStatus};
pub use chained::ChainError;
pub use counters::{ListUse, MapUse, Outcome};
pub use detach::{Detached, Was, detach};
pub use error::{AttachError, Error};
pub use events::{DebugLog, Events, Stream};
pub use features::{OLDEST_KERNEL, version};
pub use hold::DIRECTORY as LOCKS;
pub use holder::Holder;
pub use index::{Differences, Region};
pub use inherit::Inherited;
pub use interface::{Interface, State};
pub use key::{address, prefix};
pub use leftovers::Leftover;
pub use lists::Change;
pub use mode::{AttachMode, Present, XdpMode};
pub use object::{Capacities, Options};
pub use pins::Pins;
pub use probe::Probe;
pub use repin::Repinned;

use admission::Admissions;
use bans::Bans;
use callers::Callers;
use chain::Chain;
use counters::Counters;
use inherit::Inheritance;
use links::Links;
use lists::Standings;
use policy::Policies;
use variant::Programs;

/// The loaded program and its maps. Cheap to clone; dropping the last one detaches what is not
/// pinned.
#[derive(Clone)]
pub struct Dataplane(Arc<Rooms>);

struct Rooms {
    links: Mutex<Links>,
    standings: Mutex<Standings>,
    bans: Mutex<Bans>,
    callers: Callers,
    admissions: Admissions,
    counters: Counters,
    policies: Mutex<Policies>,
    inheritance: Mutex<Option<Inheritance>>,
    chain: Option<Mutex<Chain>>,
    /// Declared last, so that the links go first.
    programs: Mutex<Programs>,
}

impl Dataplane {
    /// Where the pins of attached interfaces are; `None` if there is no bpffs to pin to.
    pub fn pin_dir(&self) -> Option<PathBuf> {
        lock(&self.0.links).pin_dir()
    }
}

/// A panic while a lock was held left no half-written state behind: the kernel's maps change one
/// element at a time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
