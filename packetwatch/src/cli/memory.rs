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
    let bytes = size(*bytes);
    match entries {
        Some(entries) if entries >= capacity => Err(format!(
            "full with {capacity} entries, {bytes}: raise capacity.{name} in the configuration"
        )),
        Some(entries) => Ok(format!("{entries} of {capacity} entries, {bytes}")),
        None => Ok(bytes),
    }
}
