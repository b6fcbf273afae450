//! The verdict, in its order: allow, deny, ban, threshold, limit, pass.

use aya_ebpf::programs::XdpContext;
use packetwatch_abi::{Action, Reason};

use crate::{
    Ingress,
    bans::{self, Found},
    callers, events, lists,
    packet::Packet,
    rules::Counted,
};

/// What becomes of a packet, and why.
#[derive(Clone, Copy)]
pub struct Verdict {
    pub reason: Reason,
    pub drops: bool,
    /// it would drop, where nothing is dropped now
    pub observed: bool,
    /// A call that reaches the log and the count of connections: one that is let through, or dropped for
    /// what was counted of its source. What a list or a ban drops is counted there.
    pub told: bool,
}

// What `Verdict::at_a_glance` takes for granted.
const _: () = assert!(
    matches!(Reason::Deny.action(), Action::Drop) && matches!(Reason::Ban.action(), Action::Drop),
    "lists and bans drop"
);

impl Verdict {
    #[inline(always)]
    fn new(reason: Reason, packet: &Packet, observes: bool) -> Self {
        let is_against = matches!(reason.action(), Action::Drop);
        Self {
            reason,
            drops: is_against && !observes,
            observed: is_against && observes,
            told: packet.call && (observes || !matches!(reason, Reason::Ban | Reason::Deny)),
        }
    }

    /// Of a list or a ban, where something is dropped: the same, without a question. It is what a flood
    /// gets.
    #[inline(always)]
    fn at_a_glance(reason: Reason) -> Self {
        Self {
            reason,
            drops: true,
            observed: false,
            told: false,
        }
    }
}

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
pub fn judge(ctx: &XdpContext, packet: &mut Packet, ingress: &Ingress) -> Verdict {
    let observes = ingress.policy.observes(ingress.now);
    // What a list or a ban drops needs no more than its sender, unless the log is to tell its ports.
    let is_glanced = !observes && packet.glance(ctx);
    let unjudged = if is_glanced { None } else { packet.parse(ctx) };
    let reason = match unjudged {
        Some(reason) => reason,
        None => match of_sender(packet, ingress) {
            Err(reason) if is_glanced => return Verdict::at_a_glance(reason),
            Err(reason) => reason,
            Ok(judgement) => of_rules(ctx, packet, ingress, &judgement, is_glanced),
        },
    };
    let verdict = Verdict::new(reason, packet, observes);
    if verdict.told {
        events::call(packet, ingress, &verdict);
    }
    verdict
}

/// What the rules say of a packet that nothing else stands against, and what it is if they do not.
#[inline(always)]
fn of_rules(
    ctx: &XdpContext,
    packet: &mut Packet,
    ingress: &Ingress,
    judgement: &Judgement,
    is_glanced: bool,
) -> Reason {
    if is_glanced && let Some(reason) = packet.parse(ctx) {
        return reason;
    }
    let counted = callers::count(packet, ingress, judgement);
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
