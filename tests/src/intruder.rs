//! Somebody else with root, who meddles with what the daemon has in the kernel: by ids, as `bpftool`
//! would.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{Array, HashMap, Map, MapData, MapInfo, ProgramArray};
use aya::programs::{loaded_links, loaded_programs};
use ipnet::Ipv4Net;
use packetwatch_abi::index::{FRONT, Line, SLOTS, Slot};
use packetwatch_abi::{
    Admission, Ban, BanKeyV4, BanKeyV6, Caller, FOREVER, Policy, Prefix, SketchKeys,
};

use crate::programs::{Program, owned};

/// The commands and constants of `bpf(2)` that aya has no call for.
const MAP_FREEZE: libc::c_long = 22;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_GET_FD_BY_ID: libc::c_long = 30;
const LINK_DETACH: libc::c_long = 34;
const XDP_ATTACHMENT: u32 = 37;

pub type Lists = Array<MapData, Line>;

/// Keys that no ban has: lengths beyond the family's, bits beyond the length, and the length that ends the program's list.
pub const STRAYS: [(Ipv4Addr, u32); 5] = [
    (Ipv4Addr::new(198, 18, 77, 71), 33),
    (Ipv4Addr::new(198, 18, 77, 71), 255),
    (Ipv4Addr::new(198, 18, 77, 71), u32::MAX),
    (Ipv4Addr::new(198, 18, 77, 71), 24),
    (Ipv4Addr::UNSPECIFIED, 0),
];

/// The maps of one loaded program.
#[derive(Debug)]
pub struct Intruder {
    program_id: u32,
}

impl Intruder {
    /// Who knows the program's id, as the daemon's status and `ip link` show it.
    pub fn of(program_id: u32) -> Self {
        Self { program_id }
    }

    /// Bans of IPv4.
    pub fn bans(&self) -> HashMap<MapData, BanKeyV4, Ban> {
        Map::HashMap(self.map("BANS_V4"))
            .try_into()
            .expect("a hash")
    }

    /// Bans of IPv6.
    pub fn bans_v6(&self) -> HashMap<MapData, BanKeyV6, Ban> {
        Map::HashMap(self.map("BANS_V6"))
            .try_into()
            .expect("a hash")
    }

    /// Writes keys among the callers, with the entry of one that is there.
    pub fn enter_callers(&self, keys: impl IntoIterator<Item = Prefix>) {
        let mut callers = self.callers();
        let (_, entry) = callers.iter().next().expect("a caller").expect("read it");
        for key in keys {
            callers.insert(key, entry, 0).expect("write the callers");
        }
    }

    pub fn remove_callers(&self, keys: impl IntoIterator<Item = Prefix>) {
        let mut callers = self.callers();
        for key in keys {
            callers.remove(&key).expect("it was there");
        }
    }

    pub fn has_caller(&self, key: Prefix) -> bool {
        self.callers().get(&key, 0).is_ok()
    }

    /// Puts the entry of one caller under the key of another too.
    pub fn copy_caller(&self, from: Prefix, to: Prefix) {
        let mut callers = self.callers();
        let entry = callers.get(&from, 0).expect("a caller");
        callers.insert(to, entry, 0).expect("write the callers");
    }

    fn callers(&self) -> HashMap<MapData, Prefix, Caller> {
        let callers = Map::HashMap(self.map("CALLERS"));
        callers.try_into().expect("a hash")
    }

    /// Writes keys among the bans of IPv4, all with the same entry: for ever, in the first slot.
    pub fn ban(&self, keys: impl IntoIterator<Item = (Ipv4Addr, u32)>) {
        let mut bans = self.bans();
        let ban = Ban {
            until: FOREVER,
            ..Ban::default()
        };
        for (address, len) in keys {
            let addr = u32::from_ne_bytes(address.octets());
            let written = bans.insert(BanKeyV4 { addr, len }, ban, 0);
            written.unwrap_or_else(|error| panic!("{address}/{len}: {error:?}"));
        }
    }

    /// Lets the program look for no ban any more.
    pub fn blind_to_bans(&self) {
        let filter = Map::Array(self.map("BAN_FILTER"));
        let mut filter: Array<MapData, u64> = filter.try_into().expect("an array");
        for word in 0..filter.len() {
            filter.set(word, 0, 0).expect("write the filter");
        }
    }

    /// The lines of the lists in force.
    pub fn lists(&self) -> Lists {
        let lines = self.outer_lists().get(&self.active_half(), 0);
        lines.expect("lists are in force")
    }

    /// Which half of the index is in force, 0 or 1.
    fn active_half(&self) -> u32 {
        let active: Array<MapData, u32> = Map::Array(self.map("LISTS_ACTIVE"))
            .try_into()
            .expect("an array");
        active.get(&0, 0).expect("read LISTS_ACTIVE")
    }

    /// Lets nobody write a map from user space any more, the daemon included.
    pub fn freeze(&self, name: &str) {
        let map = self.map(name);
        let fd = map.fd().as_fd().as_raw_fd();
        bpf(MAP_FREEZE, &mut [fd as u32]).unwrap_or_else(|error| panic!("freeze {name}: {error}"));
    }

    /// Takes everything that is listed in the /16 of a network out of the lists in force, and
    /// returns what pointed to it.
    pub fn unlist(&self, network: Ipv4Net) -> Slot {
        let mut slots = self.list_fronts();
        let at = self.active_half() * FRONT + (network.addr().to_bits() >> 16);
        let before = slots.get(&at, 0).expect("read the slots");
        slots.set(at, 0, 0).expect("write the slots");
        Slot(before)
    }

    /// Sets a bit more in the filter of the lists in force: a source that is not listed may take the
    /// longer way, and no verdict is another.
    pub fn stray_filter_bit(&self) {
        let mut fronts = self.list_fronts();
        let at = self.active_half() * FRONT + SLOTS;
        let before = fronts.get(&at, 0).expect("read the filter");
        let stray = before | before.wrapping_add(1);
        assert_ne!(stray, before, "the word has a clear bit");
        fronts.set(at, stray, 0).expect("write the filter");
    }

    /// Slots and filter of both halves of the index.
    fn list_fronts(&self) -> Array<MapData, u64> {
        let fronts = Map::Array(self.map("LIST_FRONTS"));
        fronts.try_into().expect("an array")
    }

    /// Puts an empty index in the place of the lists.
    pub fn replace_lists(&self) {
        const FLAGS: u32 = 1 << 10 | 1 << 12;
        let empty = Lists::create(1024, FLAGS).expect("make an index");
        let replaced = self.outer_lists().set(self.active_half(), &empty, 0);
        replaced.expect("replace the lists");
    }

    /// Switches to the half of the lists that is not in force.
    pub fn switch_lists(&self) {
        let other = 1 - self.active_half();
        let active = Map::Array(self.map("LISTS_ACTIVE"));
        let mut active: Array<MapData, u32> = active.try_into().expect("an array");
        active.set(0, other, 0).expect("write LISTS_ACTIVE");
    }

    /// The policies, in pairs.
    pub fn policies(&self) -> Array<MapData, Policy> {
        Map::Array(self.map("POLICY")).try_into().expect("an array")
    }

    /// Switches to the pair of policies that is not in force, and returns to which.
    pub fn switch_policy(&self) -> u32 {
        let mut active = self.active_policy();
        let other = 2 - active.get(&0, 0).expect("read ACTIVE");
        active.set(0, other, 0).expect("write ACTIVE");
        other
    }

    /// Which pair of policies is in force, 0 or 2.
    pub fn active_policy(&self) -> Array<MapData, u32> {
        Map::Array(self.map("ACTIVE")).try_into().expect("an array")
    }

    /// How new sources are admitted.
    pub fn admission(&self) -> Array<MapData, Admission> {
        let admission = Map::Array(self.map("ADMISSION"));
        admission.try_into().expect("an array")
    }

    /// By which sources are hashed that have no entry.
    pub fn sketch_keys(&self) -> Array<MapData, SketchKeys> {
        let keys = Map::Array(self.map("SKETCH_KEYS"));
        keys.try_into().expect("an array")
    }

    /// Takes the chained program out of its place behind the filter.
    pub fn unchain(&self) {
        let chain = Map::ProgramArray(self.map("CHAIN"));
        let mut chain: ProgramArray<_> = chain.try_into().expect("a program array");
        chain.clear_index(&0).expect("there is a program");
    }

    /// Takes the program off its interface. The daemon's link stays, and holds nothing.
    pub fn detach(&self) {
        let link = self.link();
        bpf(LINK_DETACH, &mut [link.as_raw_fd() as u32]).expect("detach the link");
    }

    /// Puts a program that passes everything in the place of this one.
    pub fn replace(&self) {
        let (link, program) = (self.link(), Program::passing().load());
        let mut attributes = [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0];
        bpf(LINK_UPDATE, &mut attributes).expect("replace the program");
    }

    fn link(&self) -> OwnedFd {
        // What ends while it is listed is another test's.
        let link = loaded_links()
            .filter_map(Result::ok)
            .find(|link| link.program_id() == self.program_id)
            .expect("the program has a link");
        let fd = bpf(LINK_GET_FD_BY_ID, &mut [link.id(), 0, 0]).expect("open the link");
        owned(fd)
    }

    fn outer_lists(&self) -> ArrayOfMaps<MapData, Lists> {
        Map::ArrayOfMaps(self.map("LISTS"))
            .try_into()
            .expect("an array of tables")
    }

    fn map(&self, name: &str) -> MapData {
        let program = loaded_programs()
            .filter_map(Result::ok)
            .find(|program| program.id() == self.program_id)
            .expect("the program is loaded");
        let ids = program
            .map_ids()
            .expect("the kernel tells a program's maps");
        let is_it = |id: &u32| {
            let info = MapInfo::from_id(*id);
            info.is_ok_and(|info| info.name_as_str() == Some(name))
        };
        let id = ids.into_iter().flatten().find(is_it);
        let id = id.unwrap_or_else(|| panic!("the program has no map {name}"));
        MapData::from_id(id).expect("open the map")
    }
}

/// Attaches a program that passes everything, for as long as the value lives. To be called in the
/// interface's namespace.
///
/// # Errors
/// The kernel's: another program is there.
pub fn occupy(ifindex: u32) -> io::Result<OwnedFd> {
    attach(&Program::passing(), ifindex)
}

/// Attaches a program natively or generically, as the driver can, for as long as the value lives. To
/// be called in the interface's namespace.
///
/// # Errors
/// The kernel's: another program is there.
pub fn attach(program: &Program, ifindex: u32) -> io::Result<OwnedFd> {
    let program = program.load();
    let mut attributes = [program.as_raw_fd() as u32, ifindex, XDP_ATTACHMENT, 0];
    bpf(LINK_CREATE, &mut attributes).map(owned)
}

pub(crate) fn bpf(command: libc::c_long, attributes: &mut [u32]) -> io::Result<i32> {
    // SAFETY: the attributes are as long as is said, and what they point to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}
