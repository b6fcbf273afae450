//! Prefixes and addresses, ours and the kernel's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use packetwatch_abi::{Family, Prefix};

pub(super) fn key(prefix: IpNet) -> Prefix {
    let prefix = prefix.trunc();
    let full = match prefix.addr() {
        IpAddr::V4(addr) => Prefix::address_v4(u32::from_ne_bytes(addr.octets())),
        IpAddr::V6(addr) => Prefix::address_v6(words(addr)),
    };
    Prefix {
        len: prefix.prefix_len().into(),
        ..full
    }
}

/// The prefix that a map's key stands for, as [`key`] makes them. Of other keys, which somebody else has
/// written, the nearest: a length beyond the family's is cut, bits beyond the length are cleared.
pub fn prefix(key: &Prefix) -> IpNet {
    let len = key.len.min(key.full_len()) as u8;
    match address_of(key.family, key.addr) {
        IpAddr::V4(addr) => Ipv4Net::new_assert(addr, len).trunc().into(),
        IpAddr::V6(addr) => Ipv6Net::new_assert(addr, len).trunc().into(),
    }
}

/// As [`prefix`]; `None` of a key that [`key`] makes of no prefix, so that no look-up of ours finds it.
pub(super) fn canonical(raw: &Prefix) -> Option<IpNet> {
    let prefix = prefix(raw);
    (key(prefix) == *raw).then_some(prefix)
}

/// The address in a key or an event, in the family of `like`.
pub fn address(like: &Prefix, addr: [u32; 4]) -> IpAddr {
    address_of(like.family, addr)
}

fn address_of(family: u32, addr: [u32; 4]) -> IpAddr {
    if family == Family::V6 as u32 {
        let mut octets = [0; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(addr) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Ipv6Addr::from(octets).into()
    } else {
        Ipv4Addr::from(addr[0].to_ne_bytes()).into()
    }
}

fn words(addr: Ipv6Addr) -> [u32; 4] {
    let octets = addr.octets();
    std::array::from_fn(|word| {
        let at = word * 4;
        u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_prefixes_are_two_forms_of_one() {
        for text in [
            "198.51.100.7/32",
            "0.0.0.0/0",
            "2001:db8::/33",
            "::/0",
            "::ffff:1.2.3.4/128",
        ] {
            let net: IpNet = text.parse().unwrap();
            assert_eq!(prefix(&key(net)), net);
        }
    }

    #[test]
    fn a_key_is_canonical_if_it_is_made_of_a_prefix() {
        for text in ["0.0.0.0/0", "198.51.100.0/24", "::/0", "2001:db8::7/128"] {
            let net: IpNet = text.parse().unwrap();
            assert_eq!(canonical(&key(net)), Some(net));
        }
        let [v4, v6] = ["198.51.100.7/32", "2001:db8::7/128"].map(|net| key(net.parse().unwrap()));
        let of_len = |key, len| Prefix { len, ..key };
        for other in [
            of_len(v4, 33),
            of_len(v4, 255),
            of_len(v4, u32::MAX),
            of_len(v6, 129),
            of_len(v6, u32::MAX),
            // bits beyond the length
            of_len(v4, 24),
            of_len(v6, 127),
            // another family, and words that no address of its family has
            Prefix { family: 5, ..v4 },
            Prefix { family: 4, ..v6 },
        ] {
            assert_eq!(canonical(&other), None, "{other:?}");
        }
    }

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!(
            key("10.1.2.3/8".parse().unwrap()),
            key("10.0.0.0/8".parse().unwrap())
        );
    }
}
