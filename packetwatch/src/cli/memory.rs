//! What the daemon takes of the host, for people.

use super::output::size;
use crate::api::{MapStatus, Memory};

/// The process and all maps.
pub(super) fn whole(memory: &Memory) -> String {
    let maps = size(memory.maps_bytes);
    match memory.resident_bytes {
        Some(bytes) => format!("daemon {}, maps {maps}", size(bytes)),
        None => format!("maps {maps}"),
    }
}

/// One map.
///
/// # Errors
/// It is full; the text is the remedy.
pub(super) fn used(map: &MapStatus) -> Result<String, String> {
    let MapStatus {
        map: name,
        entries,
        capacity,
        bytes,
    } = map;
    match entries {
        Some(entries) if entries >= capacity => {
            let full = format!("full with {}", taken(*capacity, *bytes));
            Err(match name.as_str() {
                "protected" => format!(
                    "{full}: take some out of protect.extra, or switch protect.self, protect.gateway or protect.sessions off"
                ),
                _ => format!("{full}: raise capacity.{name} in the configuration"),
            })
        }
        Some(entries) => Ok(format!("{entries} of {}", taken(*capacity, *bytes))),
        None => Ok(size(*bytes)),
    }
}

/// What lies in the maps of another row has no bytes.
fn taken(entries: u64, bytes: u64) -> String {
    match bytes {
        0 => format!("{entries} entries"),
        bytes => format!("{entries} entries, {}", size(bytes)),
    }
}
