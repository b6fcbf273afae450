//! What it costs to count one source, and sources of which each is new: a flood of spoofed ones.
//!
//! A small program in front writes a source address into the frame, always the same or a random one,
//! and calls ours: so both pay for the random number and the call. Beside it, and alone, what most
//! filters do: an LRU hash that each new source is put into.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use anyhow::{Result, ensure};
use packetwatch::rules::{Rule, Trigger};
use packetwatch_abi::{Admission, Caller, capacity};
use packetwatch_tests::{Frame, Kernel, packet::SYN};
use serde::Serialize;

use crate::{bpf, statistic::median};

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct SourceCost {
    /// `call`, or `udp`, at which no default rule looks
    pub(crate) packet: &'static str,
    /// nanoseconds a packet, harness and random number included
    pub(crate) one_ns: f64,
    pub(crate) random_ns: f64,
    /// random sources to one, the median of the rounds
    pub(crate) ratio: f64,
    /// the LRU hash, random sources
    pub(crate) lru_ns: f64,
    /// the LRU hash to ours, random sources, the median of the rounds
    pub(crate) lru_ratio: f64,
}

const SOURCE: i16 = 14 + 12;

/// Measures in `rounds` of `repeat` packets, taking turns.
///
/// # Errors
/// The kernel refuses a program or a map.
pub(crate) fn measure(rounds: usize, repeat: u32) -> Result<Vec<SourceCost>> {
    let mut costs = Vec::new();
    for (packet, frame) in [("call", call()), ("udp", udp())] {
        // The rules of a default configuration, with an N that is not reached here.
        let mut kernel = Kernel::with_rules(vec![
            Rule::new("ports", Trigger::DistinctPorts(64)),
            Rule::new("calls", Trigger::Connections((1 << 31) - 1)),
        ]);
        kernel.set_call_budget(0);
        let program = kernel.dataplane.program()?;
        let programs = bpf::program_array(program.as_fd())?;
        let one = in_front(programs.as_fd(), false)?;
        let random = in_front(programs.as_fd(), true)?;
        // As much for a source, and for as many, as our entries are.
        const ENTRY: u32 = size_of::<Caller>() as u32;
        let table = bpf::lru_hash(size_of::<u32>() as u32, ENTRY, capacity::CALLERS)?;
        let new = bpf::array(ENTRY)?;
        let lru = lru(table.as_fd(), new.as_fd())?;
        bpf::run(one.as_fd(), &frame, 10)?;
        let flood = Admission {
            threshold: 64,
            places: 512,
        };
        kernel.dataplane.set_admission(flood)?;

        bpf::take_precedence()?;
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..rounds {
            // What the sketch holds is gone in between.
            kernel.advance(Duration::from_secs(600));
            for (program, times) in [&one, &random, &lru].into_iter().zip(&mut times) {
                let (answer, ns) = bpf::run(program.as_fd(), &frame, repeat)?;
                const XDP_PASS: u32 = 2;
                ensure!(answer == XDP_PASS, "answers {answer} to a packet to pass");
                times.push(ns);
            }
        }
        let ratio = |over: &[f64], under: &[f64]| {
            let ratios = over.iter().zip(under).map(|(over, under)| over / under);
            median(&ratios.collect::<Vec<_>>())
        };
        let [one, random, lru] = times;
        costs.push(SourceCost {
            packet,
            one_ns: median(&one),
            random_ns: median(&random),
            ratio: ratio(&random, &one),
            lru_ns: median(&lru),
            lru_ratio: ratio(&lru, &random),
        });
    }
    Ok(costs)
}

fn from() -> Frame {
    Frame::new().ip([198, 19, 3, 1].into(), [198, 18, 0, 1].into())
}

fn call() -> Vec<u8> {
    from().tcp(40_000, 80, SYN).payload([0; 6]).build()
}

fn udp() -> Vec<u8> {
    from().udp(40_000, 53).payload([0; 18]).build()
}

/// An instruction: operation, destination, source, offset, operand.
const fn op(code: u8, dst: u8, src: u8, offset: i16, operand: i32) -> u64 {
    code as u64
        | (dst as u64) << 8
        | (src as u64) << 12
        | (offset as u16 as u64) << 16
        | (operand as u32 as u64) << 32
}

const MOV: u8 = 0xbf;
const MOV_K: u8 = 0xb7;
const ADD_K: u8 = 0x07;
const AND32_K: u8 = 0x54;
const OR32_K: u8 = 0x44;
const LOAD32: u8 = 0x61;
const STORE32: u8 = 0x63;
const STORE32_K: u8 = 0x62;
const JUMP_GREATER: u8 = 0x2d;
const JUMP_IS_K: u8 = 0x15;
const JUMP_NOT_K: u8 = 0x55;
const JUMP: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const PASS: i32 = 2;

/// The context in r6, the packet in r7, and in r0 a source in 11.0.0.0/8. Jumps over `rest`
/// instructions and what [`end`] does before where the frame is too short.
fn source(rest: i16) -> [u64; 10] {
    [
        op(MOV, 6, 1, 0, 0),
        op(LOAD32, 7, 1, 0, 0),
        op(LOAD32, 3, 1, 4, 0),
        op(MOV, 4, 7, 0, 0),
        op(ADD_K, 4, 0, 0, 34),
        op(JUMP_GREATER, 4, 3, rest + 4, 0),
        op(CALL, 0, 0, 0, 7),
        op(AND32_K, 0, 0, 0, !0xff),
        op(OR32_K, 0, 0, 0, 11),
        op(JUMP, 0, 0, 0, 0),
    ]
}

fn end() -> [u64; 2] {
    [op(MOV_K, 0, 0, 0, PASS), op(EXIT, 0, 0, 0, 0)]
}

/// Loads the address of a map.
fn map(register: u8, map: BorrowedFd<'_>) -> [u64; 2] {
    [op(0x18, register, 1, 0, map.as_raw_fd()), 0]
}

fn in_front(programs: BorrowedFd<'_>, random: bool) -> Result<OwnedFd> {
    let address = if random {
        op(MOV, 8, 0, 0, 0)
    } else {
        op(MOV_K, 8, 0, 0, 0x0101_010b)
    };
    let [low, high] = map(2, programs);
    let rest = [
        address,
        op(STORE32, 7, 8, SOURCE, 0),
        op(MOV, 1, 6, 0, 0),
        low,
        high,
        op(MOV_K, 3, 0, 0, 0),
        op(CALL, 0, 0, 0, 12),
    ];
    let program = [&source(rest.len() as i16)[..], &rest, &end()].concat();
    bpf::load_xdp_frags(&program)
}

/// Looks the source up, and puts a copy of `new` in if it is not there.
fn lru(table: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<OwnedFd> {
    let call = |map: [u64; 2], key: i16, helper| {
        [
            map[0],
            map[1],
            op(MOV, 2, 10, 0, 0),
            op(ADD_K, 2, 0, 0, key.into()),
            op(CALL, 0, 0, 0, helper),
        ]
    };
    const LOOK_UP: i32 = 1;
    const UPDATE: i32 = 2;
    let (source_at, zero_at) = (-4, -8);
    let put = [
        &[op(MOV, 3, 0, 0, 0), op(MOV_K, 4, 0, 0, 0)][..],
        &call(map(1, table), source_at, UPDATE),
    ]
    .concat();
    let make = [
        &call(map(1, new), zero_at, LOOK_UP)[..],
        &[op(JUMP_IS_K, 0, 0, put.len() as i16, 0)],
        &put,
    ]
    .concat();
    let rest = [
        &[
            op(STORE32, 10, 0, source_at, 0),
            op(STORE32_K, 10, 0, zero_at, 0),
        ][..],
        &call(map(1, table), source_at, LOOK_UP),
        &[op(JUMP_NOT_K, 0, 0, make.len() as i16, 0)],
        &make,
    ]
    .concat();
    let program = [&source(rest.len() as i16)[..], &rest, &end()].concat();
    bpf::load_xdp_frags(&program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root: loads XDP programs"]
    fn every_contestant_lets_pass_what_it_counts() {
        let costs = measure(1, 10_000).unwrap();
        println!("{costs:#?}");
        assert_eq!(costs.len(), 2);
    }
}
