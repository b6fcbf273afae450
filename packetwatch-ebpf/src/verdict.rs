//! The verdict, in its order: allow, deny, ban, threshold, pass.

use packetwatch_abi::Reason;

use crate::{
    Ingress,
    bans::{self, Found},
    callers, events, lists,
    packet::Packet,
};

/// What the counting of a packet is for.
#[derive(Clone, Copy)]
pub enum Judgement {
    /// an allowed source: no rule applies
    CountOnly,
    /// rules apply, to what happened after the last ban's end
    Thresholds { ended: u64 },
}

/// Judges by the source address of the outermost IP header, whatever follows it, and counts.
#[inline(always)]
pub fn judge(packet: &Packet, ingress: &Ingress) -> Reason {
    let reason = reason(packet, ingress);
    if packet.is_told(ingress.policy, reason) {
        events::call(packet, ingress, reason);
    }
    reason
}

#[inline(always)]
fn reason(packet: &Packet, ingress: &Ingress) -> Reason {
    let standing = lists::standing(&packet.source);
    let judgement = if ingress.now < standing.allow_until {
        lists::hit(standing.allow_slot, packet.bytes);
        Judgement::CountOnly
    } else if ingress.now < standing.deny_until {
        lists::hit(standing.deny_slot, packet.bytes);
        return Reason::Deny;
    } else {
        match bans::find(packet, ingress) {
            Found::Banned => return Reason::Ban,
            Found::EndedAt(ended) => Judgement::Thresholds { ended },
        }
    };
    let over = callers::count(packet, ingress, judgement);
    match judgement {
        Judgement::CountOnly => Reason::Allow,
        Judgement::Thresholds { .. } if over => Reason::Threshold,
        Judgement::Thresholds { .. } if packet.malformed => Reason::Malformed,
        Judgement::Thresholds { .. } => Reason::Pass,
    }
}
