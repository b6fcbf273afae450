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

/// What becomes of a packet, and why. One word, and made of nothing that is kept for it: what is kept
/// lies on the stack, of which the forms for a chain have none to spare. A program and all that it calls
/// have 512 bytes, which Linux 6.1 counts in steps of 32.
#[derive(Clone, Copy)]
pub struct Verdict(u32);

// What `Verdict::at_a_glance` takes for granted.
const _: () = assert!(
    matches!(Reason::Deny.action(), Action::Drop) && matches!(Reason::Ban.action(), Action::Drop),
    "lists and bans drop"
);

impl Verdict {
    const REASON: u32 = 0xff;
    const DROPS: u32 = 1 << 8;
    const OBSERVED: u32 = 1 << 9;
    const TOLD: u32 = 1 << 10;

    #[inline(always)]
    fn new(reason: Reason, packet: &Packet, ingress: &Ingress) -> Self {
        let observes = ingress.policy.observes(ingress.now);
        let mut word = reason as u32;
        if matches!(reason.action(), Action::Drop) {
            word |= if observes {
                Self::OBSERVED
            } else {
                Self::DROPS
            };
        }
        if packet.call && (observes || !matches!(reason, Reason::Ban | Reason::Deny)) {
            word |= Self::TOLD;
        }
        Self(word)
    }

    /// Of a list or a ban, where something is dropped: the same, without a question. It is what a flood
    /// gets.
    #[inline(always)]
    fn at_a_glance(reason: Reason) -> Self {
        Self(reason as u32 | Self::DROPS)
    }

    /// The number of the [`Reason`].
    #[inline(always)]
    pub fn reason(self) -> u32 {
        self.0 & Self::REASON
    }

    #[inline(always)]
    pub fn drops(self) -> bool {
        self.0 & Self::DROPS != 0
    }

    /// It would drop, where nothing is dropped now.
    #[inline(always)]
    pub fn observed(self) -> bool {
        self.0 & Self::OBSERVED != 0
    }

    /// A call that reaches the log and the count of connections: one that is let through, or dropped for
    /// what was counted of its source. What a list or a ban drops is counted there.
    #[inline(always)]
    pub fn told(self) -> bool {
        self.0 & Self::TOLD != 0
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
    // What a list or a ban drops needs no more than its sender, unless the log is to tell its ports.
    let is_glanced = !ingress.policy.observes(ingress.now) && packet.glance(ctx);
    let unjudged = if is_glanced { None } else { packet.parse(ctx) };
    let reason = match unjudged {
        Some(reason) => reason,
        None => match of_sender(packet, ingress) {
            Err(reason) if is_glanced => return Verdict::at_a_glance(reason),
            Err(reason) => reason,
            Ok(judgement) => of_rules(ctx, packet, ingress, &judgement, is_glanced),
        },
    };
    let verdict = Verdict::new(reason, packet, ingress);
    if verdict.told() {
        events::call(packet, ingress, verdict);
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
