//! Pins: what keeps a filter in place when its process is gone.
//!
//! One link an interface, at `BPFFS/packetwatch/abi-N/netns-INODE/INTERFACE`, and beside it a
//! directory `INTERFACE:maps`. The ABI version tells builds apart that disagree about the maps; the
//! namespace keeps apart interfaces of one name in different network namespaces, which share the
//! host's bpffs.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    AttachError, bpffs,
    hold::{self, Hold},
    link::{LinkInfo, XdpLink},
};

/// Where the pins of this network namespace are.
#[derive(Clone, Debug)]
pub struct Pins {
    bpffs: PathBuf,
    namespace: u64,
}

/// A link that is pinned for this namespace, by a build of whatever ABI version.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    /// The interface that the pin is named after, which may be called otherwise now.
    pub(super) pinned_as: String,
    pub(super) link: XdpLink,
    pub(super) info: LinkInfo,
}

impl Pins {
    /// Prepares the pin directory below `bpffs`; mounts bpffs there if nothing is.
    ///
    /// # Errors
    /// `bpffs` is neither a bpffs nor can one be mounted on it.
    pub fn prepare(bpffs: &Path) -> Result<Self, AttachError> {
        let pins = Self::below(bpffs)?;
        // A process that is not root may see of the BPF file system its own directory alone.
        if !bpffs::is_bpffs(&pins.root()) {
            bpffs::ensure(bpffs)?;
        }
        pins.make_dir()?;
        Ok(pins)
    }

    /// Takes back what [`Pins::prepare`] has made and nothing was pinned in.
    pub fn leave(bpffs: &Path) {
        if let Ok(pins) = Self::below(bpffs) {
            pins.remove_empty();
        }
    }

    /// Without making anything.
    pub(super) fn below(bpffs: &Path) -> Result<Self, AttachError> {
        let namespace = hold::namespace().map_err(|source| AttachError::Pin {
            operation: "name the network namespace of the pins in",
            path: bpffs.to_owned(),
            source,
        })?;
        Ok(Self {
            bpffs: bpffs.to_owned(),
            namespace,
        })
    }

    /// As the configuration names it.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    pub(super) fn namespace(&self) -> u64 {
        self.namespace
    }

    /// Of all ABI versions and namespaces.
    pub fn root(&self) -> PathBuf {
        self.bpffs.join("packetwatch")
    }

    /// Of this ABI version and namespace.
    pub fn dir(&self) -> PathBuf {
        let version = packetwatch_abi::VERSION;
        self.dir_in(&self.root().join(format!("abi-{version}")))
    }

    /// The directories of all ABI versions; what else lies beside them is the user's.
    pub(super) fn versions(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let is_ours = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("abi-"))
        };
        entries(&self.root()).filter(is_ours)
    }

    fn dir_in(&self, version: &Path) -> PathBuf {
        version.join(format!("netns-{}", self.namespace))
    }

    pub(super) fn path(&self, interface: &str) -> PathBuf {
        self.dir().join(file_name(interface))
    }

    /// Where the maps of the filter on an interface are.
    pub(super) fn maps_dir(&self, interface: &str) -> PathBuf {
        maps_of(&self.path(interface))
    }

    /// Whether this process may see what is pinned; what is not there at all it may.
    ///
    /// # Errors
    /// The kernel's refusal: bpffs lets its owner alone search it, and pins have permissions as files do.
    pub(super) fn may_be_seen(&self) -> Result<(), AttachError> {
        let refused = |path: PathBuf, source| AttachError::Pin {
            operation: "see",
            path,
            source,
        };
        let seen = |path: &Path| match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        };
        seen(&self.root()).map_err(|error| refused(self.root(), error))?;
        for directory in self.versions().map(|version| self.dir_in(&version)) {
            seen(&directory).map_err(|error| refused(directory.clone(), error))?;
            for pin in entries(&directory).filter(|path| !path.is_dir()) {
                match XdpLink::open(&pin) {
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        return Err(refused(pin, error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What is pinned for this namespace, of every ABI version.
    pub(super) fn kept(&self) -> Vec<Kept> {
        self.versions()
            .flat_map(|version| entries(&self.dir_in(&version)))
            .filter_map(Kept::open)
            .collect()
    }

    fn make_dir(&self) -> Result<(), AttachError> {
        let dir = self.dir();
        fs::create_dir_all(&dir).map_err(|source| AttachError::Pin {
            operation: "create",
            path: dir,
            source,
        })
    }

    /// Whether the pins of this namespace lie, or can be made, on a BPF file system.
    pub(super) fn are_on_bpffs(&self) -> bool {
        // In a view of the daemon's own the directory above is of another file system.
        bpffs::is_bpffs(&self.root()) || bpffs::is_bpffs(&self.bpffs)
    }

    /// Whether it is this link that is pinned for an interface.
    ///
    /// # Errors
    /// See [`not_there`].
    pub(super) fn is_pinned(&self, interface: &str, link: &XdpLink) -> io::Result<bool> {
        let there = XdpLink::open(&self.path(interface)).and_then(|there| there.info());
        let there = match there {
            Ok(there) => there,
            Err(error) => return not_there(error),
        };
        Ok(link.info()?.id == there.id)
    }

    /// A pin of that name whose link is dead gives way, and one of something else, which is told.
    pub(super) fn pin(&self, interface: &str, link: &XdpLink) -> Result<(), AttachError> {
        // Whoever detached last took the empty directory away.
        self.make_dir()?;
        let path = self.path(interface);
        let pinned = link.pin(&path).or_else(|error| {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
            let kept = Kept::open(path.clone());
            if kept.as_ref().is_some_and(|kept| !kept.is_dead()) {
                return Err(error);
            }
            remove(&path)?;
            if kept.is_none() {
                tracing::warn!(
                    "{} was a pin of no XDP link, which packetwatch does not put there: removed",
                    path.display()
                );
            }
            link.pin(&path)
        });
        pinned.map_err(|source| AttachError::Pin {
            operation: "pin",
            path,
            source,
        })
    }

    /// Removes the directories of this namespace that hold no pin, and those around them: but for the
    /// one that is another user's, for whom root has made it.
    pub(super) fn remove_empty(&self) {
        for version in self.versions() {
            let _ = fs::remove_dir(self.dir_in(&version));
            let _ = fs::remove_dir(version);
        }
        let root = self.root();
        if fs::metadata(&root).is_ok_and(|found| found.uid() == 0) {
            let _ = fs::remove_dir(root);
        }
    }
}

impl Kept {
    /// `None` for what is no pin of a link.
    pub(super) fn open(path: PathBuf) -> Option<Self> {
        let link = XdpLink::open(&path).ok()?;
        let info = link.info().ok()?;
        let pinned_as = interface_of(&path)?;
        Some(Self {
            path,
            pinned_as,
            link,
            info,
        })
    }

    pub(super) fn is_dead(&self) -> bool {
        self.info.ifindex == 0
    }

    /// What the interface that it is on is called now; `None` when there is none here.
    pub(super) fn interface(&self) -> Option<String> {
        if self.is_dead() {
            return None;
        }
        let name = nix::net::if_::if_indextoname(self.info.ifindex).ok()?;
        // nix takes the kernel's refusal for an empty name.
        name.into_string().ok().filter(|name| !name.is_empty())
    }

    /// The locks of all names that a process which filters it may have.
    pub(super) fn hold(&self, namespace: u64) -> Result<Vec<Hold>, AttachError> {
        let mut names = vec![self.pinned_as.clone()];
        names.extend(self.interface().filter(|name| *name != self.pinned_as));
        let holds = names.iter().map(|name| hold::hold(name, namespace));
        holds.collect()
    }

    /// Removes the pin; with the last one the kernel detaches the program.
    pub(super) fn remove(self) -> Result<(), AttachError> {
        let Self { path, link, .. } = self;
        remove(&path).map_err(|source| AttachError::Pin {
            operation: "remove",
            path,
            source,
        })?;
        drop(link);
        Ok(())
    }
}

/// bpffs refuses names with a dot (reserved); an interface may have one (eth0.5).
pub(super) fn file_name(interface: &str) -> String {
    interface.replace('.', "+")
}

/// The interface that a pin is named after.
pub(super) fn interface_of(link: &Path) -> Option<String> {
    Some(link.file_name()?.to_str()?.replace('+', "."))
}

/// What ends the name of a directory of maps. No interface has a colon in its name (`dev_valid_name`).
const MAPS: &str = ":maps";

/// Where the maps are whose link is pinned at `link`.
pub(super) fn maps_of(link: &Path) -> PathBuf {
    let mut name = OsString::from(link);
    name.push(MAPS);
    name.into()
}

/// The pin of the link whose maps are in this directory; `None` if it is none of maps.
pub(super) fn link_of(maps: &Path) -> Option<PathBuf> {
    let name = maps.file_name()?.to_str()?.strip_suffix(MAPS)?;
    Some(maps.with_file_name(name))
}

/// What an attempt to open a pin says of it: that it is not there, or is another's.
///
/// # Errors
/// This process wants for descriptors or memory, which says nothing of the pin.
pub(super) fn not_there(error: io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Err(error),
        _ => Ok(false),
    }
}

/// Removes the pin of a link, if there is one, and those of its maps.
pub(super) fn remove(link: &Path) -> io::Result<()> {
    unlink(link)?;
    remove_maps(&maps_of(link))
}

/// Removes a directory of maps, if there is one.
pub(super) fn remove_maps(directory: &Path) -> io::Result<()> {
    for map in entries(directory) {
        unlink(&map)?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a pin alone, if there is one.
pub(super) fn unlink(pin: &Path) -> io::Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// None, if it is no directory.
pub(super) fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}
