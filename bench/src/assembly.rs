//! Instructions of BPF: the reference designs and the program in front of all contestants are a few
//! each, which need no tool chain and can be read beside the kernel's documentation.
//!
//! `r1` to `r5` are arguments, `r0` is the answer, `r6` to `r9` outlive calls, `r10` ends the stack.

use std::os::fd::{AsRawFd as _, BorrowedFd};

pub(crate) type Instruction = u64;

/// Operation, destination, source, offset, operand.
pub(crate) const fn op(code: u8, dst: u8, src: u8, offset: i16, operand: i32) -> Instruction {
    code as u64
        | (dst as u64) << 8
        | (src as u64) << 12
        | (offset as u16 as u64) << 16
        | (operand as u32 as u64) << 32
}

pub(crate) const MOV: u8 = 0xbf;
pub(crate) const MOV_K: u8 = 0xb7;
pub(crate) const ADD_K: u8 = 0x07;
pub(crate) const LOAD32: u8 = 0x61;
pub(crate) const LOAD64: u8 = 0x79;
pub(crate) const STORE32: u8 = 0x63;
pub(crate) const STORE64: u8 = 0x7b;
pub(crate) const STORE32_K: u8 = 0x62;
pub(crate) const JUMP_GREATER: u8 = 0x2d;
pub(crate) const JUMP_LESS_K: u8 = 0xa5;
pub(crate) const JUMP_IS_K: u8 = 0x15;
pub(crate) const JUMP: u8 = 0x05;
pub(crate) const CALL: u8 = 0x85;
pub(crate) const EXIT: u8 = 0x95;

/// Helpers of the kernel.
pub(crate) const MAP_LOOK_UP: i32 = 1;
pub(crate) const MAP_UPDATE: i32 = 2;
pub(crate) const TAIL_CALL: i32 = 12;

pub(crate) const XDP_DROP: i32 = 1;
pub(crate) const XDP_PASS: i32 = 2;

/// Loads a map into a register.
pub(crate) fn map(register: u8, map: BorrowedFd<'_>) -> [Instruction; 2] {
    const MAP_FD: u8 = 1;
    [op(0x18, register, MAP_FD, 0, map.as_raw_fd()), 0]
}

/// Loads the address of the one value of an array into a register (kernel 5.2).
pub(crate) fn value(register: u8, array: BorrowedFd<'_>) -> [Instruction; 2] {
    const MAP_VALUE: u8 = 2;
    [op(0x18, register, MAP_VALUE, 0, array.as_raw_fd()), 0]
}

/// Looks up what lies `key` bytes from the end of the stack; the value's address is in `r0`.
pub(crate) fn look_up(in_map: BorrowedFd<'_>, key: i16) -> Vec<Instruction> {
    let [low, high] = map(1, in_map);
    vec![
        low,
        high,
        op(MOV, 2, 10, 0, 0),
        op(ADD_K, 2, 0, 0, key.into()),
        op(CALL, 0, 0, 0, MAP_LOOK_UP),
    ]
}

/// Ends with this answer.
pub(crate) fn answer(action: i32) -> [Instruction; 2] {
    [op(MOV_K, 0, 0, 0, action), op(EXIT, 0, 0, 0, 0)]
}

/// The context in `r6` and the first byte of the packet in `r7`, of which `bytes` are there; then
/// `rest`, and behind it [`answer`] with a pass, which a shorter packet jumps to.
pub(crate) fn on_packet(bytes: i32, rest: &[Instruction]) -> Vec<Instruction> {
    let start = [
        op(MOV, 6, 1, 0, 0),
        op(LOAD32, 7, 1, 0, 0),
        op(LOAD32, 3, 1, 4, 0),
        op(MOV, 4, 7, 0, 0),
        op(ADD_K, 4, 0, 0, bytes),
        op(JUMP_GREATER, 4, 3, rest.len() as i16, 0),
    ];
    [&start, rest, &answer(XDP_PASS)].concat()
}
