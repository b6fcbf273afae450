use packetwatch_abi::{Bucket, Limit, PortSeen, capacity::LEAST_CALLERS, place};

use super::*;
use crate::{
    api::windows::tests::caller,
    rules::{Rule, Trigger},
};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_000 * SECOND;
const MOMENT: Moment = Moment {
    shared_len: 0,
    now: NOW,
    generation: 1,
    ended: 0,
};

fn unit(host: u8) -> IpNet {
    IpNet::from(std::net::IpAddr::from([198, 18, 0, host]))
}

fn silent(seconds: u64, packets: u64) -> Caller {
    Caller {
        last_seen: NOW - seconds * SECOND,
        packets,
        ..caller()
    }
}

fn hosts(candidates: Vec<Candidate>) -> Vec<IpNet> {
    candidates
        .into_iter()
        .map(|candidate| candidate.unit)
        .collect()
}

fn rules() -> RuleSet {
    RuleSet::validate(vec![Rule::new("scan", Trigger::DistinctPorts(10))]).unwrap()
}

fn round(short_of: usize, callers: &[(u8, Caller)]) -> (Vec<IpNet>, Vec<IpNet>) {
    round_of(&rules(), short_of, callers)
}

/// Of a table with three places in each share.
fn round_of(
    rules: &RuleSet,
    short_of: usize,
    callers: &[(u8, Caller)],
) -> (Vec<IpNet>, Vec<IpNet>) {
    let room = Room {
        short_of,
        urgent: 0,
        share: 3,
    };
    let chosen = chosen(rules, room, callers);
    assert_eq!(chosen.speaking, []);
    let given_up = [chosen.void, chosen.spare].concat();
    (hosts(chosen.idle), hosts(given_up))
}

fn chosen(rules: &RuleSet, room: Room, callers: &[(u8, Caller)]) -> Chosen {
    let keep = rules.longest_within();
    let mut eviction = Eviction::new(rules, MOMENT, keep, room);
    for (host, caller) in callers {
        eviction.offer(unit(*host), caller, || 0, false);
    }
    eviction.chosen()
}

/// Has called so many ports.
fn ports(seconds: u64, count: u16) -> Caller {
    let mut caller = silent(seconds, 1);
    (1..=count).for_each(|port| {
        caller.ports[usize::from(port)] = PortSeen::new(NOW - seconds * SECOND, port).0;
    });
    caller
}

fn offender(seconds: u64) -> Caller {
    Caller {
        offended_at: NOW - seconds * SECOND,
        ..silent(seconds, 1)
    }
}

#[test]
fn where_there_is_room_those_go_that_hold_nothing() {
    let callers = [(1, silent(61, 9)), (2, silent(60, 1)), (3, silent(0, 1))];
    assert_eq!(round(0, &callers), (vec![unit(1)], vec![]));
}

#[test]
fn who_was_seen_in_times_to_come_goes() {
    let seen = |ahead| Caller {
        last_seen: NOW + ahead,
        ..caller()
    };
    let callers = [
        (1, seen(AHEAD)),
        (2, seen(AHEAD + 1)),
        (3, seen(u64::MAX - NOW)),
    ];
    assert_eq!(round(0, &callers), (vec![unit(2), unit(3)], vec![]));
}

#[test]
fn where_room_is_short_the_silent_ones_that_did_least_go_first() {
    let callers = [
        (1, silent(9, 5)),
        (2, silent(9, 1)),
        (3, silent(9, 3)),
        (4, silent(1, 0)),
    ];
    assert_eq!(round(2, &callers).1, [unit(2), unit(3)]);
    assert_eq!(round(9, &callers).1, [unit(2), unit(3), unit(1)]);
    let with_idle = [(1, silent(99, 5)), (2, silent(9, 1)), (3, silent(9, 3))];
    assert_eq!(round(2, &with_idle), (vec![unit(1)], vec![unit(2)]));
}

#[test]
fn what_rules_look_at_tells_who_did_least() {
    let rules = RuleSet::validate(vec![
        Rule::new("calls", Trigger::Connections(100)),
        Rule::new("volume", Trigger::Packets((1 << 39) - 1)),
    ]);
    let rules = rules.unwrap();
    // All within the last bucket but one.
    let counted = |calls: u64, packets: u64| {
        let mut caller = silent(9, packets);
        caller.calls = calls;
        let epoch = caller.since.epoch(NOW - 9 * SECOND, 60 * SECOND / 8);
        for (rule, count) in [calls, packets].into_iter().enumerate() {
            caller.windows[rule][place(epoch)] = Bucket::new(epoch, count).0;
        }
        caller
    };
    // Without a call, yet nearer to a rule; and a call of a hundred is more than many packets.
    let callers = [
        (1, counted(0, 1 << 37)),
        (2, counted(20, 20)),
        (3, counted(1, 1)),
    ];
    assert_eq!(round_of(&rules, 1, &callers).1, [unit(3)]);
    assert_eq!(round_of(&rules, 9, &callers).1, [unit(3), unit(2), unit(1)]);
    let few = [(1, counted(0, 2)), (2, counted(0, 1))];
    assert_eq!(round_of(&rules, 1, &few).1, [unit(2)]);
}

#[test]
fn who_is_halfway_to_a_threshold_or_beyond_one_has_a_place_and_the_nearest_first() {
    let near = [(5, ports(9, 5)), (6, offender(9)), (7, ports(9, 7))];
    assert_eq!(round(9, &near), (vec![], vec![]));
    let few = [&near[..], &[(4, ports(9, 4))]].concat();
    assert_eq!(round(9, &few).1, [unit(4)]);
    let many = [&few[..], &[(8, ports(9, 8)), (9, ports(9, 9))]].concat();
    let order = [unit(4), unit(5), unit(7)];
    assert_eq!(round(9, &many).1, order);
    let backwards: Vec<_> = many.iter().rev().copied().collect();
    assert_eq!(round(9, &backwards).1, order);
    assert_eq!(round(2, &many).1, order[..2]);
    // Of other rules, which nobody judges any more.
    let mut former = offender(9);
    former.generation = 0;
    assert_eq!(round(9, &[(1, former)]).1, [unit(1)]);
}

#[test]
fn who_is_banned_goes_before_all_others_and_where_there_is_room_stays() {
    let of_banned = |short_of: usize| {
        let rules = rules();
        let room = Room {
            short_of,
            urgent: 0,
            share: 3,
        };
        let mut eviction = Eviction::new(&rules, MOMENT, Duration::from_secs(60), room);
        eviction.offer(unit(1), &ports(9, 1), || 0, false);
        eviction.offer(unit(2), &offender(9), || 0, true);
        eviction.offer(unit(3), &silent(9, 0), || 0, false);
        let Chosen { void, spare, .. } = eviction.chosen();
        (hosts(void), hosts(spare))
    };
    assert_eq!(of_banned(0), (vec![], vec![]));
    assert_eq!(of_banned(1), (vec![unit(2)], vec![]));
    assert_eq!(of_banned(9), (vec![unit(2), unit(3)], vec![unit(1)]));
}

#[test]
fn where_all_speak_some_go_but_the_nearest_not() {
    let rules = rules();
    let room = Room {
        short_of: 9,
        urgent: 2,
        share: 3,
    };
    let speaking: Vec<_> = (1..=8).map(|host| (host, ports(1, host.into()))).collect();
    for _ in 0..50 {
        let chosen = chosen(&rules, room, &speaking);
        assert_eq!(chosen.speaking.len(), 2);
        let nearest = [unit(6), unit(7), unit(8)];
        assert!(!chosen.speaking.iter().any(|unit| nearest.contains(unit)));
    }
    // Who does not speak makes the room first.
    for silent in 1..=3 {
        let with_silent = (11..11 + silent).map(|host| (host, ports(9, 1)));
        let callers: Vec<_> = speaking.iter().copied().chain(with_silent).collect();
        let chosen = chosen(&rules, room, &callers);
        let (spare, speaking) = (chosen.spare.len(), chosen.speaking.len());
        let silent = usize::from(silent);
        assert_eq!((spare, speaking), (silent, 2usize.saturating_sub(silent)));
    }
}

/// A rule that alone has windows of a second, whatever its burst.
fn limiting() -> RuleSet {
    let cap = Rule {
        burst: 1000,
        ..Rule::limit("cap", Trigger::Packets(10))
    };
    RuleSet::validate(vec![cap]).unwrap()
}

/// Silent for a while, and what passed before is paid for in so many seconds.
fn owing(seconds: u64) -> Caller {
    let limit = Limit::new(10, 1000);
    let mut caller = silent(9, 1);
    let now = NOW + seconds * SECOND - SECOND / 10;
    caller.windows[0][0] = limit.after(0, now, limit.of(1)).unwrap();
    caller
}

#[test]
fn who_owes_a_limit_is_neither_idle_nor_spare_until_it_is_paid() {
    let rules = limiting();
    let callers = [(1, owing(90)), (2, silent(9, 1)), (3, owing(1))];
    assert_eq!(round_of(&rules, 0, &callers), (vec![unit(2)], vec![]));
    assert_eq!(round_of(&rules, 9, &callers), (vec![unit(2)], vec![]));
    let mut paid = owing(0);
    assert_eq!(round_of(&rules, 0, &[(1, paid)]).0, [unit(1)]);
    paid = owing(90);
    paid.generation = 0;
    assert_eq!(
        round_of(&rules, 0, &[(1, paid)]).0,
        [unit(1)],
        "other rules"
    );
}

#[test]
fn a_quarter_of_the_table_is_for_those_that_owe_longest() {
    let rules = limiting();
    let callers: Vec<_> = (1..=6).map(|n| (n, owing(10 * u64::from(n)))).collect();
    assert_eq!(round_of(&rules, 0, &callers), (vec![], vec![]));
    let longest = &callers[3..];
    assert_eq!(round_of(&rules, 9, longest), (vec![], vec![]));
    let order = [unit(1), unit(2), unit(3)];
    assert_eq!(round_of(&rules, 9, &callers).1, order);
    let backwards: Vec<_> = callers.iter().rev().copied().collect();
    assert_eq!(round_of(&rules, 9, &backwards).1, order);
}

/// Whoever fills a table, and with what: there is room after a round.
#[test]
fn every_round_makes_room_and_gives_up_half_the_table_at_most() {
    let (ports_rule, cap) = (rules(), limiting());
    let fillings = [
        (&ports_rule, silent(9, 1)),
        (&ports_rule, ports(9, 9)),
        (&ports_rule, ports(1, 9)),
        (&ports_rule, ports(0, 1)),
        (&ports_rule, offender(9)),
        (&cap, owing(90)),
    ];
    let rounds = [LEAST_CALLERS, 1024].map(|capacity| fillings.each_ref().map(|of| (capacity, of)));
    for (round, (capacity, (rules, caller))) in rounds.into_iter().flatten().enumerate() {
        let filling = round % fillings.len();
        let room = Room::of(capacity.into(), capacity);
        let mut eviction = Eviction::new(rules, MOMENT, Duration::from_secs(60), room);
        for host in 0..capacity {
            let unit = IpNet::from(std::net::IpAddr::from((host + (1 << 28)).to_be_bytes()));
            eviction.offer(unit, caller, || 0, false);
        }
        let Chosen {
            idle,
            void,
            spare,
            speaking,
        } = eviction.chosen();
        let gone = idle.len() + void.len() + spare.len() + speaking.len();
        let share = if [2, 3].contains(&filling) { 8 } else { 2 };
        let expected = (capacity / share) as usize;
        assert_eq!(gone, expected, "filling {filling} of {capacity}");
    }
}

#[test]
fn what_is_missing_grows_with_the_table() {
    for capacity in [LEAST_CALLERS, 1024, 32_768, 1 << 20] {
        let eighth = capacity as usize / 8;
        let of = |entries: usize| {
            let room = Room::of(entries as u64, capacity);
            assert_eq!(room.share, 2 * eighth);
            (room.short_of, room.urgent)
        };
        assert_eq!(of(6 * eighth), (0, 0));
        assert_eq!(of(6 * eighth + 1), (eighth + 1, 0));
        assert_eq!(of(7 * eighth), (2 * eighth, 0));
        assert_eq!(of(7 * eighth + 1), (3 * eighth + 1, 1));
        assert_eq!(of(8 * eighth), (4 * eighth, eighth));
        assert_eq!(of(usize::MAX), (4 * eighth, 4 * eighth));
    }
}
