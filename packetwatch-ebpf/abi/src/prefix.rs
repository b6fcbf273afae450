//! One key for both families.

/// An IPv4 or IPv6 prefix, or an address as a prefix of full length.
///
/// It is the key of the exact maps as it stands. In the longest-match map it is the data behind
/// the match length, with `len` zero: the family leads, so `::/0` never matches an IPv4 source.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// [`Family`] as a number
    pub family: u32,
    /// The bytes of the address in network order, in words: the BPF target reads bytes one by one.
    /// IPv4 in the first word, the others zero; host bits zero.
    pub addr: [u32; 4],
    /// bits, 0 to 32 or 128
    pub len: u32,
}

const _: () = assert!(size_of::<Prefix>() == 24 && align_of::<Prefix>() == 4);

#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4 = 4,
    V6 = 6,
}

impl Prefix {
    /// Bits of `family` in front of the address, to be added to a length for the longest match.
    pub const FAMILY_BITS: u32 = 32;

    #[inline(always)]
    pub const fn address_v4(addr: u32) -> Self {
        Self {
            family: Family::V4 as u32,
            addr: [addr, 0, 0, 0],
            len: 32,
        }
    }

    #[inline(always)]
    pub const fn address_v6(addr: [u32; 4]) -> Self {
        Self {
            family: Family::V6 as u32,
            addr,
            len: 128,
        }
    }

    /// The prefix of `len` bits that this one lies in.
    #[inline(always)]
    pub const fn truncated(mut self, len: u32) -> Self {
        if len < self.len {
            // Both halves without a branch: the verifier would follow each way through the rest of
            // the program.
            let edge = !(u64::MAX >> (len % 64));
            let is_beyond = ((len / 64) as u64).wrapping_neg();
            let (leading, trailing) = (edge | is_beyond, edge & is_beyond);
            self.addr[0] &= ((leading >> 32) as u32).to_be();
            self.addr[1] &= (leading as u32).to_be();
            self.addr[2] &= ((trailing >> 32) as u32).to_be();
            self.addr[3] &= (trailing as u32).to_be();
            self.len = len;
        }
        self
    }

    /// 0 for IPv4, 1 for IPv6: the row of this family in the tables of [`crate::Policy`].
    #[inline(always)]
    pub const fn row(&self) -> usize {
        (self.family == Family::V6 as u32) as usize
    }

    /// Bits of a full address of this family.
    #[inline(always)]
    pub const fn full_len(&self) -> u32 {
        if self.family == Family::V6 as u32 {
            128
        } else {
            32
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::prelude::rust_2024::*;

    fn words(bytes: [u8; 16]) -> [u32; 4] {
        core::array::from_fn(|i| u32::from_ne_bytes(bytes[i * 4..i * 4 + 4].try_into().unwrap()))
    }

    #[test]
    fn truncation_keeps_the_leading_bits() {
        let full = Prefix::address_v6(words([0xff; 16]));
        for len in 0..=128 {
            let cut = full.truncated(len);
            let bytes: [[u8; 4]; 4] = cut.addr.map(u32::to_ne_bytes);
            let value = u128::from_be_bytes(bytes.concat().try_into().unwrap());
            assert_eq!(value.leading_ones(), len);
            assert_eq!(value.count_ones(), len);
            assert_eq!(cut.len, len);
        }
    }

    #[test]
    fn truncation_of_ipv4_uses_the_first_word() {
        let cut = Prefix::address_v4(u32::from_ne_bytes([198, 51, 100, 7])).truncated(24);
        assert_eq!(cut.addr, [u32::from_ne_bytes([198, 51, 100, 0]), 0, 0, 0]);
    }
}
