//! A reel of source addresses, and the small program that plays it: it writes the next source into
//! the frame and calls the contestant.
//!
//! All contestants pay for it alike. The addresses lie one behind the other, so the processor has
//! fetched the next before it is asked for: cheaper than a random number, and any mix can be played.

use std::{
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Result, ensure};

use crate::{
    assembly::{
        ADD_K, CALL, JUMP_IS_K, JUMP_LESS_K, LOAD64, MOV, MOV_K, STORE32, STORE64, TAIL_CALL,
        look_up, map, on_packet, op, value,
    },
    bpf,
    family::Family,
};

/// Sources of one family, in the order in which they come.
pub(crate) struct Reel {
    family: Family,
    length: u32,
    sources: OwnedFd,
}

impl Reel {
    /// # Errors
    /// There is no source, or one of another family; the kernel has no memory for them.
    pub(crate) fn new(
        family: Family,
        sources: impl ExactSizeIterator<Item = IpAddr>,
    ) -> Result<Self> {
        let length = u32::try_from(sources.len())?;
        ensure!(length > 0, "a reel without sources");
        let width = family.reel_width();
        let mut values = Vec::with_capacity(length as usize * width);
        for source in sources {
            ensure!(
                Family::of(source) == family,
                "{source} in a reel of {family}"
            );
            match source {
                IpAddr::V4(source) => values.extend(source.octets()),
                IpAddr::V6(source) => values.extend(source.octets()),
            }
            values.resize(values.len().next_multiple_of(width), 0);
        }
        let map = bpf::array(width as u32, length)?;
        let keys: Vec<u8> = (0..length).flat_map(u32::to_ne_bytes).collect();
        bpf::fill(map.as_fd(), &keys, size_of::<u32>(), &values, width)?;
        Ok(Self {
            family,
            length,
            sources: map,
        })
    }

    /// The program that plays the reel to `contestant`. It answers what that one does, and passes
    /// what cannot be played.
    pub(crate) fn in_front_of(&self, contestant: BorrowedFd<'_>) -> Result<Front> {
        const KEY: i16 = -4;
        let position = bpf::array(size_of::<u64>() as u32, 1)?;
        let contestants = bpf::program_array(contestant)?;
        let to = self.family.source_at();
        let write = match self.family {
            Family::V4 => vec![op(LOAD64, 1, 0, 0, 0), op(STORE32, 7, 1, to, 0)],
            Family::V6 => vec![
                op(LOAD64, 1, 0, 0, 0),
                op(STORE64, 7, 1, to, 0),
                op(LOAD64, 1, 0, 8, 0),
                op(STORE64, 7, 1, to + 8, 0),
            ],
        };
        let call = [
            &[op(MOV, 1, 6, 0, 0)][..],
            &map(2, contestants.as_fd()),
            &[op(MOV_K, 3, 0, 0, 0), op(CALL, 0, 0, 0, TAIL_CALL)],
        ]
        .concat();
        let play = [
            &value(8, position.as_fd())[..],
            &[
                op(LOAD64, 1, 8, 0, 0),
                op(STORE32, 10, 1, KEY, 0),
                op(ADD_K, 1, 0, 0, 1),
                op(JUMP_LESS_K, 1, 0, 1, i32::try_from(self.length)?),
                op(MOV_K, 1, 0, 0, 0),
                op(STORE64, 8, 1, 0, 0),
            ],
            &look_up(self.sources.as_fd(), KEY),
            &[op(JUMP_IS_K, 0, 0, (write.len() + call.len()) as i16, 0)],
            &write,
            &call,
        ]
        .concat();
        Ok(Front {
            program: bpf::load_xdp_frags(&on_packet(self.family.headers(), &play))?,
            _contestants: contestants,
        })
    }
}

/// A contestant with a reel in front of it.
pub(crate) struct Front {
    program: OwnedFd,
    /// empties when its last descriptor goes
    _contestants: OwnedFd,
}

impl Front {
    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use packetwatch_tests::{Kernel, kernel::net};

    use super::*;
    use crate::family::call;

    #[test]
    #[ignore = "needs root: loads XDP programs"]
    fn every_source_comes_in_its_turn() {
        let v4 = (0..5u32).map(|n| IpAddr::from(Ipv4Addr::from_bits(0x0b00_0007 + (n << 8))));
        let v6 =
            (0..5u128).map(|n| IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8 << 96 | n << 64 | 9)));
        let reels: [(Family, Vec<IpAddr>); 2] =
            [(Family::V4, v4.collect()), (Family::V6, v6.collect())];
        for (family, sources) in reels {
            let kernel = Kernel::new();
            let reel = Reel::new(family, sources.iter().copied()).unwrap();
            let program = kernel.dataplane.program().unwrap();
            let front = reel.in_front_of(program.as_fd()).unwrap();
            bpf::run(front.program(), &call(family), 5 * 3 + 2).unwrap();
            let unit = match family {
                Family::V4 => 32,
                Family::V6 => 64,
            };
            let packets = sources.iter().map(|source| {
                let unit = ipnet::IpNet::new(*source, unit).unwrap().trunc();
                kernel.caller(&unit.to_string()).packets
            });
            assert_eq!(packets.collect::<Vec<_>>(), [4, 4, 3, 3, 3], "{family}");
            assert!(!kernel.is_counted(&net("198.19.3.1").to_string()));
        }
    }

    #[test]
    #[ignore = "needs root: loads XDP programs"]
    fn a_reel_is_of_one_family_and_not_empty() {
        let stranger = [IpAddr::from(Ipv4Addr::LOCALHOST)].into_iter();
        assert!(Reel::new(Family::V6, stranger).is_err());
        assert!(
            Reel::new(
                Family::V4,
                std::iter::empty::<IpAddr>().collect::<Vec<_>>().into_iter()
            )
            .is_err()
        );
    }
}
