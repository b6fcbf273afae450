//! The pins of the filter, as the daemon looks after them: they are its promise that the filter stays
//! when the process is killed.
//!
//! The daemon is ready without them, since every packet is judged; `status`, the log and
//! `packetwatch_interface_pinned` say that this ends with the process.

use crate::{
    dataplane::{Dataplane, Repinned},
    log::EVENT,
    metrics::Counters,
};

/// Makes anew what somebody has taken away, and tells of it.
pub(super) fn keep(dataplane: &Dataplane, counters: &Counters) {
    for repinned in dataplane.keep_pins() {
        if repinned.was_whole {
            counters.pins_lost();
        }
        tell(&repinned);
    }
}

pub(super) fn tell(repinned: &Repinned) {
    let Repinned {
        interface,
        path,
        missing,
        result,
        ..
    } = repinned;
    let file = path.display();
    let reason = match &**missing {
        [] => "they are there again".to_owned(),
        missing => format!("taken away were {}", missing.join(", ")),
    };
    match result {
        Ok(()) => tracing::warn!(
            target: EVENT,
            {
                event.action = "pins-restored",
                event.reason = reason,
                observer.ingress.interface.name = interface.as_str(),
                file.path = %file,
            },
            "the filter of {interface} is pinned again at {file}: somebody had taken pins away"
        ),
        Err(error) => tracing::error!(
            target: EVENT,
            {
                event.action = "pins-lost",
                error.message = %error,
                observer.ingress.interface.name = interface.as_str(),
                file.path = %file,
            },
            "{interface} is filtered until the daemon ends, and no longer: the pins of its filter were \
             taken away: {error}"
        ),
    }
}
