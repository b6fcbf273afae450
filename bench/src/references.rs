//! What most filters do, as small as it can be: the kernel's longest-match trie for prefixes, and an
//! LRU hash that counts each source.
//!
//! Neither parses more than it is asked about, counts outcomes or has rules: what they cost is the
//! least that such a design costs.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Result;
use ipnet::IpNet;
use packetwatch_abi::{Caller, capacity};

use crate::{
    assembly::{
        ADD_K, CALL, Instruction, JUMP, JUMP_IS_K, LOAD32, LOAD64, MAP_UPDATE, MOV, MOV_K, STORE32,
        STORE32_K, STORE64, XDP_DROP, XDP_PASS, answer, look_up, map, on_packet, op,
    },
    bpf,
    family::Family,
};

/// Passes everything: what a reel and the kernel's harness cost.
pub(crate) fn nothing() -> Result<OwnedFd> {
    bpf::load_xdp_frags(&answer(XDP_PASS))
}

/// Copies the source of the packet to `at` bytes from the end of the stack, in words.
fn copy_source(family: Family, words: i16, at: i16) -> Vec<Instruction> {
    (0..words)
        .flat_map(|word| {
            [
                op(LOAD32, 1, 7, family.source_at() + 4 * word, 0),
                op(STORE32, 10, 1, at + 4 * word, 0),
            ]
        })
        .collect()
}

/// Drops what the trie holds, made as its manual page says: entries come as they are needed.
pub(crate) struct Trie {
    pub(crate) program: OwnedFd,
    _trie: OwnedFd,
}

impl Trie {
    pub(crate) fn of(family: Family, prefixes: &[IpNet]) -> Result<Self> {
        const LENGTH: usize = size_of::<u32>();
        let key = LENGTH + family.width();
        let trie = bpf::trie(key as u32, 1, prefixes.len().max(1) as u32)?;
        let mut keys = Vec::with_capacity(prefixes.len() * key);
        for prefix in prefixes {
            keys.extend(u32::from(prefix.prefix_len()).to_ne_bytes());
            match prefix {
                IpNet::V4(prefix) => keys.extend(prefix.network().octets()),
                IpNet::V6(prefix) => keys.extend(prefix.network().octets()),
            }
        }
        bpf::fill(trie.as_fd(), &keys, key, &vec![1; prefixes.len()], 1)?;

        let words = (family.width() / 4) as i16;
        let at = -4 * (words + 1);
        let bits = 8 * family.width() as i32;
        let search = [
            &[op(STORE32_K, 10, 0, at, bits)][..],
            &copy_source(family, words, at + 4),
            &look_up(trie.as_fd(), at),
            &[op(JUMP_IS_K, 0, 0, 2, 0)],
            &answer(XDP_DROP),
        ]
        .concat();
        Ok(Self {
            program: bpf::load_xdp_frags(&on_packet(family.headers(), &search))?,
            _trie: trie,
        })
    }
}

/// Counts each source in an LRU hash; a new one takes the place of one that was not seen of late.
/// It holds as many as our table of callers, in as much room each.
pub(crate) struct Lru {
    pub(crate) program: OwnedFd,
    _maps: [OwnedFd; 2],
}

impl Lru {
    /// By single IPv4 address or IPv6 /64, as we do.
    pub(crate) fn of(family: Family) -> Result<Self> {
        const ENTRY: u32 = size_of::<Caller>() as u32;
        let words: i16 = match family {
            Family::V4 => 1,
            Family::V6 => 2,
        };
        let (key, zero) = (-4 * words, -12);
        let table = bpf::lru_hash(4 * words as u32, ENTRY, capacity::CALLERS)?;
        // What a new source begins with is too large for the stack.
        let new = bpf::array(ENTRY, 1)?;

        let count = [
            op(LOAD64, 1, 0, 0, 0),
            op(ADD_K, 1, 0, 0, 1),
            op(STORE64, 0, 1, 0, 0),
        ];
        let [low, high] = map(1, table.as_fd());
        let put = [
            op(MOV, 3, 0, 0, 0),
            low,
            high,
            op(MOV, 2, 10, 0, 0),
            op(ADD_K, 2, 0, 0, key.into()),
            op(MOV_K, 4, 0, 0, 0),
            op(CALL, 0, 0, 0, MAP_UPDATE),
        ];
        let make = [
            &look_up(new.as_fd(), zero)[..],
            &[op(JUMP_IS_K, 0, 0, put.len() as i16, 0)],
            &put,
        ]
        .concat();
        let meet = [
            &[op(STORE32_K, 10, 0, zero, 0)][..],
            &copy_source(family, words, key),
            &look_up(table.as_fd(), key),
            &[op(JUMP_IS_K, 0, 0, count.len() as i16 + 1, 0)],
            &count,
            &[op(JUMP, 0, 0, make.len() as i16, 0)],
            &make,
        ]
        .concat();
        Ok(Self {
            program: bpf::load_xdp_frags(&on_packet(family.headers(), &meet))?,
            _maps: [table, new],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use aya::{
        Pod,
        maps::{HashMap, Map, MapData},
    };

    use super::*;
    use crate::{family::call, reel::Reel};

    const DROP: u32 = XDP_DROP as u32;
    const PASS: u32 = XDP_PASS as u32;

    fn answer_to(source: &str, program: &OwnedFd) -> u32 {
        let source: IpAddr = source.parse().unwrap();
        let family = Family::of(source);
        let reel = Reel::new(family, [source].into_iter()).unwrap();
        let front = reel.in_front_of(program.as_fd()).unwrap();
        bpf::run(front.program(), &call(family), 1).unwrap().0
    }

    #[test]
    #[ignore = "needs root: loads XDP programs"]
    fn the_trie_drops_what_it_holds_and_nothing_else() {
        let v4: [IpNet; 2] = ["198.51.100.0/24", "203.0.113.7/32"].map(|p| p.parse().unwrap());
        let trie = Trie::of(Family::V4, &v4).unwrap();
        for (source, expected) in [
            ("198.51.100.255", DROP),
            ("198.51.101.0", PASS),
            ("203.0.113.7", DROP),
            ("203.0.113.6", PASS),
        ] {
            assert_eq!(answer_to(source, &trie.program), expected, "{source}");
        }
        let v6: [IpNet; 2] = ["2001:db8:1::/48", "2001:db8:2::3/128"].map(|p| p.parse().unwrap());
        let trie = Trie::of(Family::V6, &v6).unwrap();
        for (source, expected) in [
            ("2001:db8:1:ffff::1", DROP),
            ("2001:db8:2::3", DROP),
            ("2001:db8:2::4", PASS),
        ] {
            assert_eq!(answer_to(source, &trie.program), expected, "{source}");
        }
        let empty = Trie::of(Family::V4, &[]).unwrap();
        assert_eq!(answer_to("198.51.100.1", &empty.program), PASS);
    }

    fn counts(table: Map, family: Family) -> Vec<u64> {
        type Entry = [u64; size_of::<Caller>() / 8];
        fn first<K: Pod>(table: Map) -> Vec<u64> {
            let table: HashMap<_, K, Entry> = table.try_into().unwrap();
            table.iter().map(|entry| entry.unwrap().1[0]).collect()
        }
        match family {
            Family::V4 => first::<[u32; 1]>(table),
            Family::V6 => first::<[u32; 2]>(table),
        }
    }

    #[test]
    #[ignore = "needs root: loads XDP programs"]
    fn the_lru_hash_counts_each_source() {
        for (family, sources) in [
            (Family::V4, ["198.51.100.1", "198.51.100.2"]),
            (Family::V6, ["2001:db8:1::1", "2001:db8:2::1"]),
        ] {
            let lru = Lru::of(family).unwrap();
            let sources = sources.map(|source| source.parse().unwrap());
            let reel = Reel::new(family, sources.into_iter()).unwrap();
            let front = reel.in_front_of(lru.program.as_fd()).unwrap();
            bpf::run(front.program(), &call(family), 8).unwrap();
            let [table, _] = lru._maps;
            let table = Map::from_map_data(MapData::from_fd(table).unwrap()).unwrap();
            // The first packet of a source makes its entry, the other three count.
            assert_eq!(counts(table, family), [3, 3], "{family}");
        }
    }
}
