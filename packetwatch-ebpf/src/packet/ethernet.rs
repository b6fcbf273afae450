//! Ethernet and VLAN tags.

use packetwatch_abi::Reason;

use super::cursor::Cursor;

/// In network byte order, as the frame holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EtherType(u16);

impl EtherType {
    pub const IPV4: Self = Self(0x0800u16.to_be());
    pub const ARP: Self = Self(0x0806u16.to_be());
    pub const IPV6: Self = Self(0x86ddu16.to_be());
    const VLAN: Self = Self(0x8100u16.to_be());
    const PROVIDER_BRIDGING: Self = Self(0x88a8u16.to_be());
    /// QinQ before it was a standard; some switches still write it
    const OLD_QINQ: Self = Self(0x9100u16.to_be());

    #[inline(always)]
    pub fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::PROVIDER_BRIDGING | Self::OLD_QINQ)
    }
}

/// As many as Linux is likely to be configured for; it would deliver frames with more.
const MAX_TAGS: usize = 4;

const ADDRESSES: usize = 12;

const TAG_CONTROL: usize = 2;

/// The type of a frame; `None` if it is too short. The cursor stands behind it.
#[inline(always)]
pub fn outermost(cursor: &mut Cursor) -> Option<EtherType> {
    cursor.skip(ADDRESSES);
    cursor.read().map(EtherType)
}

/// The type behind the tag that the cursor stands in; `None` if there is none.
#[inline(always)]
pub fn behind_tag(cursor: &mut Cursor) -> Option<EtherType> {
    cursor.skip(TAG_CONTROL);
    cursor.read().map(EtherType)
}

/// The type behind the tags; the cursor stands behind it.
///
/// # Errors
/// [`Reason::TooManyTags`]: a fifth tag. It is the one thing that is dropped unjudged, because
/// what follows would reach a socket unjudged.
#[inline(always)]
pub fn parse(cursor: &mut Cursor) -> Result<EtherType, Reason> {
    cursor.skip(ADDRESSES);
    for _ in 0..=MAX_TAGS {
        let ether_type = EtherType(cursor.read().ok_or(Reason::Malformed)?);
        if !ether_type.is_tag() {
            return Ok(ether_type);
        }
        cursor.skip(TAG_CONTROL);
    }
    Err(Reason::TooManyTags)
}
