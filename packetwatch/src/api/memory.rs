//! What the daemon takes: its process, and the kernel's maps.

use std::fs;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{App, callers::unreadable, problem::Problem};

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Memory {
    /// Of the daemon in user space, if the kernel tells. What it maps of the kernel's maps is counted
    /// there.
    pub resident_bytes: Option<u64>,
    /// Of all maps in the kernel.
    pub maps_bytes: u64,
    pub maps: Vec<MapStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MapStatus {
    /// Of `protected`, the host's own prefixes: they lie in the maps of `lists`, which tell their bytes.
    pub map: String,
    /// Null where counting them costs a walk.
    pub entries: Option<u64>,
    /// Entries; bytes of the rings `calls` and `offences`; of `others`, how many maps they are.
    pub capacity: u64,
    pub bytes: u64,
}

impl Memory {
    pub(super) fn of(app: &App) -> Result<Self, Problem> {
        let maps = app.dataplane.capacities(app.lists.usage());
        let maps = maps.map_err(unreadable)?;
        let maps = maps.into_iter().map(|used| MapStatus {
            map: used.map.to_owned(),
            entries: used.entries,
            capacity: used.capacity,
            bytes: used.bytes,
        });
        let maps: Vec<MapStatus> = maps.collect();
        Ok(Self {
            resident_bytes: resident_bytes(),
            maps_bytes: maps.iter().map(|map| map.bytes).sum(),
            maps,
        })
    }
}

fn resident_bytes() -> Option<u64> {
    let mappings = fs::read_to_string("/proc/self/smaps").ok()?;
    resident_in(&mappings)
}

/// Sums up proc_pid_smaps(5), without the maps of BPF; `None` if that is not what it is.
fn resident_in(mappings: &str) -> Option<u64> {
    let mut kib = None;
    let mut is_map = false;
    for line in mappings.lines() {
        let (first, rest) = line.split_once(' ')?;
        match first.strip_suffix(':') {
            // The head of the next mapping: addresses, and what is mapped at the end.
            None => is_map = rest.ends_with("anon_inode:bpf-map"),
            Some("Rss") if !is_map => {
                let resident: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
                *kib.get_or_insert(0) += resident;
            }
            Some(_) => {}
        }
    }
    Some(kib? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory() {
        assert!(resident_bytes() > Some(100_000));
    }

    #[test]
    fn maps_of_the_kernel_are_not_counted_twice() {
        let mappings = "\
            5581b2c00000-5581b2e00000 r-xp 00000000 fe:00 1321 /usr/bin/packetwatch\n\
            Size:               2048 kB\n\
            Rss:                1024 kB\n\
            VmFlags: rd ex mr mw me\n\
            7f0000000000-7f0000300000 rw-s 00000000 00:0e 1057  anon_inode:bpf-map\n\
            Rss:                3072 kB\n\
            7f1000000000-7f1000001000 rw-p 00000000 00:00 0\n\
            Rss:                   4 kB\n";
        assert_eq!(resident_in(mappings), Some(1028 * 1024));
        assert_eq!(resident_in(""), None);
        assert_eq!(resident_in("no mappings\nRss: many kB\n"), None);
    }
}
