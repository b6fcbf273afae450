//! The user's own program behind the filter, as the daemon tells of it.
//!
//! Its pin is somebody else's: it may be taken away, and another program may be pinned in its place.
//! The kernel tells nobody, so it is looked at once a second, in the round of the interfaces. What is
//! pinned and cannot be chained is a lack, since it is there to be run; a pin that is not there is none. At
//! a start it is the same: a pin's owner is not to decide whether the host is filtered.

use super::{Readiness, readiness::Lack, reconcile};
use crate::{
    dataplane::{ChainState, ChainStatus, Dataplane},
    log::EVENT,
    metrics::Counters,
};

/// Follows the pin, and tells what has changed: at the pin, and in the array, where nobody else has any
/// business.
pub(super) fn follow(dataplane: &Dataplane, readiness: &Readiness, counters: &Counters) {
    // An error is told below, where it comes again.
    let differences = dataplane.compare_chain().unwrap_or_default();
    match dataplane.follow_chain() {
        Ok(changed) => {
            if !differences.is_empty() {
                reconcile::tell(counters, "chain", &differences);
            }
            let Some(chain) = changed else {
                return;
            };
            tell(&chain, readiness);
        }
        Err(error) => tracing::error!(
            error.message = %error,
            "the chain cannot be looked at; tried again in a second"
        ),
    }
}

/// What a start finds.
pub(super) fn begin(chain: &ChainStatus, readiness: &Readiness) {
    let path = chain.path.display();
    match chain.state {
        ChainState::Gone => tracing::warn!(
            target: EVENT,
            {
                event.action = "chain-ended",
                event.reason = "nothing is pinned there yet",
                file.path = %path,
            },
            "what passes goes to the kernel until an XDP program is pinned at {path} (`bpftool prog \
             load FILE.o {path}`)"
        ),
        ChainState::Up { .. } | ChainState::Refused(_) => tell(chain, readiness),
    }
}

/// In the log, and as a lack.
fn tell(chain: &ChainStatus, readiness: &Readiness) {
    // First: who has read the line finds it so.
    let lack = match &chain.state {
        ChainState::Refused(why) => Some(format!("the chained program does not run: {why}")),
        ChainState::Up { .. } | ChainState::Gone => None,
    };
    readiness.set_lack(Lack::Chain, lack);
    let path = chain.path.display();
    match &chain.state {
        ChainState::Up { program_id, name } => tracing::info!(
            target: EVENT,
            {
                event.action = "chain-began",
                file.path = %path,
                packetwatch.program_id = program_id,
                packetwatch.program = name.as_str(),
            },
            "what passes goes to {name} (program {program_id}), pinned at {path}"
        ),
        ChainState::Gone => ended(chain, "nothing is pinned there any more"),
        ChainState::Refused(reason) => ended(chain, reason),
    }
}

fn ended(chain: &ChainStatus, reason: &str) {
    let path = chain.path.display();
    tracing::warn!(
        target: EVENT,
        { event.action = "chain-ended", event.reason = reason, file.path = %path },
        "what passes goes to no program any more, but to the kernel: {path}: {reason}"
    );
}
