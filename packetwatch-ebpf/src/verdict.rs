//! The verdict, in its order: allow, deny, ban, threshold, limit, pass.

use aya_ebpf::programs::XdpContext;
use packetwatch_abi::Reason;

use crate::{
    Ingress,
    bans::{self, Found},
    callers, events, lists,
    packet::Packet,
    rules::Counted,
};

/// What the counting of a packet is for. No enum: of one the compiler may read a part that was never
/// written, and kernels before 6.3 refuse that of the stack.
#[derive(Clone, Copy)]
pub struct Judgement {
    /// by the list: no rule applies
    pub allowed: bool,
    /// when the last ban ended; rules apply to what happened after that
    pub ended: u64,
    /// [`packetwatch_abi::Standing::shared_len`]: by no unit as short as this the source counts with others
    pub shared_len: u32,
}

/// Judges by the source address of the outermost IP header, whatever follows it, and counts.
#[inline(always)]
pub fn judge(ctx: &XdpContext, packet: &mut Packet, ingress: &Ingress) -> Reason {
    let reason = reason(ctx, packet, ingress);
    if packet.is_told(ingress, reason) {
        events::call(packet, ingress, reason);
    }
    reason
}

#[inline(always)]
fn reason(ctx: &XdpContext, packet: &mut Packet, ingress: &Ingress) -> Reason {
    // What a list or a ban drops needs no more than its sender, unless the log is to tell its ports.
    let is_glanced = !ingress.policy.observes(ingress.now) && packet.glance(ctx);
    if !is_glanced && let Some(reason) = packet.parse(ctx) {
        return reason;
    }
    let judgement = match of_sender(packet, ingress) {
        Ok(judgement) => judgement,
        Err(reason) => return reason,
    };
    if is_glanced && let Some(reason) = packet.parse(ctx) {
        return reason;
    }
    let counted = callers::count(packet, ingress, &judgement);
    match counted {
        _ if judgement.allowed => Reason::Allow,
        Counted::OverThreshold => Reason::Threshold,
        Counted::OverLimit => Reason::Limit,
        Counted::Within if packet.malformed => Reason::Malformed,
        Counted::Within => Reason::Pass,
    }
}

/// What lists and bans say.
///
/// # Errors
/// [`Reason::Deny`] or [`Reason::Ban`]: the packet is not counted.
#[inline(always)]
fn of_sender(packet: &Packet, ingress: &Ingress) -> Result<Judgement, Reason> {
    let standing = lists::standing(&packet.source);
    if ingress.now < standing.allow_until {
        lists::hit(standing.allow_slot, packet.bytes);
        return Ok(Judgement {
            allowed: true,
            ended: 0,
            shared_len: 0,
        });
    }
    if ingress.now < standing.deny_until {
        lists::hit(standing.deny_slot, packet.bytes);
        return Err(Reason::Deny);
    }
    match bans::find(packet, ingress) {
        Found::Banned => Err(Reason::Ban),
        Found::EndedAt(ended) => Ok(Judgement {
            allowed: false,
            ended,
            shared_len: standing.shared_len.into(),
        }),
    }
}
