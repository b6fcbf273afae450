//! Addresses and prefixes as people write them, and the unit a source is counted by.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

/// The address families; each has units of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A prefix in canonical form, and whether the text said more than it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Truncated to its length; IPv4-mapped IPv6 has become IPv4.
    pub prefix: IpNet,
    /// The text had bits set beyond the length, as in `10.0.0.7/8`. Whoever asked is told.
    pub host_bits_cleared: bool,
}

impl fmt::Display for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.prefix.fmt(f)
    }
}

/// Why a text is not a prefix. Every message quotes the text, clipped to 64 characters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    #[error(
        "the prefix is empty: write an address such as 198.51.100.7 or a prefix such as 198.51.100.0/24"
    )]
    Empty,
    #[error("{0:?} has white space in it: write one prefix, without spaces")]
    Space(String),
    #[error("{0:?} is several prefixes: write one at a time")]
    Several(String),
    #[error("{0:?} has a zone: a filter sees no zones, write the address without %{zone}", zone = .1.escape_debug())]
    Zone(String, String),
    #[error(
        "{0:?} is a range: write the prefixes that cover it, such as 198.51.100.0/25 and 198.51.100.128/26"
    )]
    Range(String),
    #[error("{text:?} has a netmask: write the length instead, {remedy}")]
    Netmask { text: String, remedy: String },
    #[error(
        "{text:?} has the length {length:?}: {family} lengths are whole numbers from 0 to {max}"
    )]
    Length {
        text: String,
        length: String,
        family: Family,
        max: u8,
    },
    #[error(
        "{0:?} has leading zeros, which some programs read as octal: write decimal without them"
    )]
    LeadingZeros(String),
    #[error("{0:?} is not a whole IPv4 address: write all four octets, such as 10.0.0.0/8")]
    Octets(String),
    #[error("{0:?} has brackets or a port: write the address alone")]
    Port(String),
    #[error("{0:?} is a name: write the addresses it stands for, a filter sees no names")]
    Name(String),
    #[error(
        "{0:?} covers more than the IPv4-mapped addresses: write the length 96 or more, or an IPv4 prefix"
    )]
    MappedLength(String),
    #[error(
        "{0:?} is neither an address nor a prefix: write it like 198.51.100.0/24 or 2001:db8::/32"
    )]
    Malformed(String),
}

/// Reads an address or prefix: `198.51.100.7`, `198.51.100.0/24`, `2001:db8::/32`.
///
/// The result is canonical: host bits are cleared, an address gets its full length, and
/// `::ffff:a.b.c.d/n` (n of 96 or more) is the IPv4 prefix `a.b.c.d/(n-96)`.
///
/// # Errors
/// [`PrefixError`], which quotes the text and says what to write instead.
pub fn parse(text: &str) -> Result<Parsed, PrefixError> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(diagnose(text, address));
    };
    let (family, max) = family_of(address);
    let length = match length {
        None => max,
        Some(digits) => parse_length(digits).filter(|n| *n <= max).ok_or_else(|| {
            netmask(text, address, digits).unwrap_or_else(|| PrefixError::Length {
                text: clip(text),
                length: clip(digits),
                family,
                max,
            })
        })?,
    };
    let written = match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) if length >= 96 => net(v4.into(), length - 96),
            Some(_) => return Err(PrefixError::MappedLength(clip(text))),
            None => net(address, length),
        },
        IpAddr::V4(_) => net(address, length),
    };
    let prefix = written.trunc();
    Ok(Parsed {
        prefix,
        host_bits_cleared: prefix != written,
    })
}

/// The prefix a source is counted and banned by, under a rule with these lengths.
///
/// Link-local sources are always single addresses: a whole LAN shares fe80::/64. So are those whose unit
/// is no longer than `shared_len`: it holds an allowed address, for which it is not banned. An IPv4-mapped
/// address stays IPv6, since on the wire it is one, and anybody could forge it to have an IPv4
/// host banned. A length beyond the family's counts as the whole address.
pub fn unit(addr: IpAddr, shared_len: u8, len_v4: u8, len_v6: u8) -> IpNet {
    let length = match addr {
        IpAddr::V4(_) => len_v4,
        IpAddr::V6(_) => len_v6,
    };
    let is_shared = is_link_local(addr) || length <= shared_len;
    let length = if is_shared { u8::MAX } else { length };
    net(addr, length.min(family_of(addr).1)).trunc()
}

/// Whether an address is of 169.254.0.0/16 or fe80::/10.
pub fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn family_of(address: IpAddr) -> (Family, u8) {
    match address {
        IpAddr::V4(_) => (Family::V4, 32),
        IpAddr::V6(_) => (Family::V6, 128),
    }
}

fn net(address: IpAddr, length: u8) -> IpNet {
    match address {
        IpAddr::V4(v4) => Ipv4Net::new_assert(v4, length).into(),
        IpAddr::V6(v6) => Ipv6Net::new_assert(v6, length).into(),
    }
}

/// Decimal digits only: `u8::from_str` alone would take `+8` and `08`.
fn parse_length(digits: &str) -> Option<u8> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits == "0" || !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain && canonical)
}

fn netmask(text: &str, address: IpAddr, mask: &str) -> Option<PrefixError> {
    let bits = match (address, mask.parse().ok()?) {
        (IpAddr::V4(_), IpAddr::V4(mask)) => ones(u128::from(mask.to_bits()), 32),
        (IpAddr::V6(_), IpAddr::V6(mask)) => ones(mask.to_bits(), 128),
        _ => None,
    };
    let remedy = match bits {
        Some(length) => format!("{address}/{length}"),
        None => "as in 198.51.100.0/24".to_owned(),
    };
    Some(PrefixError::Netmask {
        text: clip(text),
        remedy,
    })
}

/// The number of leading ones of a mask of `width` bits, unless a one follows a zero.
fn ones(mask: u128, width: u32) -> Option<u32> {
    let aligned = mask << (128 - width);
    let length = aligned.leading_ones();
    (aligned.count_ones() == length).then_some(length)
}

/// Names the mistake of a text whose address part is none.
fn diagnose(text: &str, address: &str) -> PrefixError {
    let is_address = |part: &str| part.parse::<IpAddr>().is_ok();
    let shown = clip(text);
    if text.is_empty() {
        return PrefixError::Empty;
    }
    if text.contains(char::is_whitespace) {
        return PrefixError::Space(shown);
    }
    if text.contains([',', ';']) {
        return PrefixError::Several(shown);
    }
    if let Some((before, zone)) = address.split_once('%')
        && is_address(before)
    {
        return PrefixError::Zone(shown, clip(zone));
    }
    if let Some((first, _)) = address.split_once('-')
        && is_address(first)
    {
        return PrefixError::Range(shown);
    }
    let port = |(host, port): (&str, &str)| host.parse::<Ipv4Addr>().is_ok() && !port.is_empty();
    if address.starts_with('[') || address.split_once(':').is_some_and(port) {
        return PrefixError::Port(shown);
    }
    let octets: Vec<&str> = address.split('.').collect();
    if octets.iter().all(|octet| octet.parse::<u64>().is_ok()) {
        let zeros = octets.iter().any(|o| o.len() > 1 && o.starts_with('0'));
        return match octets.len() {
            1..=4 if zeros => PrefixError::LeadingZeros(shown),
            1..=3 => PrefixError::Octets(shown),
            _ => PrefixError::Malformed(shown),
        };
    }
    let in_names = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if address.chars().all(in_names) && address.contains(char::is_alphabetic) {
        return PrefixError::Name(shown);
    }
    PrefixError::Malformed(shown)
}

/// The longest prefix has 49 characters; a text far beyond it is not repeated in full.
fn clip(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
