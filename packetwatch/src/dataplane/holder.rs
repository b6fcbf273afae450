//! Who else has a program on an interface, and how to get it off.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use aya::programs::{loaded_links, loaded_programs};

use super::{
    Present, bpffs,
    link::{Pinned, XdpLink},
    pins::{self, Pins},
    variant::is_ours,
};

/// Files of BPF file systems that are looked at for a pin, and how deep: a host with Cilium has some
/// hundreds.
const MOST_PINS: usize = 4096;
const DEEPEST: usize = 8;

/// A program on an interface that is not this process's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub program_id: u32,
    /// Its function, cut to 15 characters by the kernel. Empty when that is not told.
    pub name: String,
    /// The link that holds it; without one it was attached over netlink, as by `ip link`.
    pub link_id: Option<u32>,
    /// where it or its link is pinned
    pub pin: Option<PathBuf>,
    /// Whether the kernel told. To a process without CAP_SYS_ADMIN it does not: name, link and pin are
    /// then unknown, and not absent.
    pub told: bool,
    remedy: String,
}

impl Holder {
    /// Asks the kernel, which tells programs and links of others only to CAP_SYS_ADMIN.
    pub fn find(interface: &str, ifindex: u32, present: Present, pins: Option<&Pins>) -> Self {
        let Present { program_id, mode } = present;
        if let Some(Err(_)) = loaded_programs().next() {
            return Self::untold(interface, program_id);
        }
        let mut programs = loaded_programs().filter_map(Result::ok);
        let name = programs
            .find(|program| program.id() == program_id)
            .and_then(|program| program.name_as_str().map(str::to_owned))
            .unwrap_or_default();
        let link_id = loaded_links()
            .filter_map(Result::ok)
            .filter(|link| link.program_id() == program_id)
            .find(|link| {
                let info = XdpLink::by_id(link.id()).and_then(|link| link.info());
                info.is_ok_and(|info| info.ifindex == ifindex)
            })
            .map(|link| link.id());
        let roots = [pins.map(Pins::bpffs), Some(Path::new(bpffs::USUAL))];
        let pin = roots
            .into_iter()
            .flatten()
            .find_map(|root| find_pin(root, program_id, link_id));
        let remedy = match (ours(&name, pin.as_deref()), link_id) {
            (Some(bpffs), _) => format!(
                "`packetwatch detach --interface {interface} --bpffs {}`",
                bpffs.display()
            ),
            (None, Some(id)) => format!("`bpftool link detach id {id}`"),
            (None, None) => format!(
                "`ip link set dev {interface} {} off`",
                match mode {
                    super::XdpMode::Native => "xdpdrv",
                    super::XdpMode::Generic => "xdpgeneric",
                }
            ),
        };
        Self {
            program_id,
            name,
            link_id,
            pin,
            told: true,
            remedy,
        }
    }

    fn untold(interface: &str, program_id: u32) -> Self {
        Self {
            program_id,
            name: String::new(),
            link_id: None,
            pin: None,
            told: false,
            remedy: format!(
                "`bpftool link detach id ID`, with the ID of the link that `bpftool link` shows for \
                 program {program_id}, or `ip link set dev {interface} xdp off` where it shows none"
            ),
        }
    }

    /// A command that takes it off.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program_id,
            name,
            link_id,
            pin,
            told,
            remedy: _,
        } = self;
        if !told {
            return write!(
                f,
                "program id {program_id}, of which the kernel tells a process without CAP_SYS_ADMIN \
                 no more"
            );
        }
        if !name.is_empty() {
            write!(f, "{name:?}, ")?;
        }
        write!(f, "program id {program_id}, ")?;
        match link_id {
            Some(id) => write!(f, "held by link id {id}, ")?,
            None => write!(f, "attached without a link, ")?,
        }
        match pin {
            Some(pin) => write!(f, "pinned at {}", pin.display()),
            None => write!(f, "not pinned"),
        }
    }
}

/// The BPF file system that a filter of ours is pinned on, if it can be reached from this network
/// namespace by `packetwatch detach`: below another `--bpffs`.
fn ours<'a>(name: &str, pin: Option<&'a Path>) -> Option<&'a Path> {
    let directory = pin?.ancestors().nth(4)?;
    let root = pin?.ancestors().nth(3)?;
    let here = Pins::below(directory).ok()?;
    let is_here = here.kept().iter().any(|kept| Some(&*kept.path) == pin);
    (is_ours(name) && root.ends_with("packetwatch") && is_here).then_some(directory)
}

fn find_pin(root: &Path, program_id: u32, link_id: Option<u32>) -> Option<PathBuf> {
    let mut left = MOST_PINS;
    let mut directories = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = directories.pop() {
        for path in pins::entries(&directory) {
            left = left.checked_sub(1)?;
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                if depth < DEEPEST {
                    directories.push((path, depth + 1));
                }
                continue;
            }
            let is_it = match Pinned::open(&path) {
                Ok(Pinned::Link(link)) => {
                    let id = link.info().ok().map(|info| info.id);
                    id.is_some() && id == link_id
                }
                Ok(Pinned::Program { id, .. }) => id == program_id,
                Ok(Pinned::Other) | Err(_) => false,
            };
            if is_it {
                return Some(path);
            }
        }
    }
    None
}
