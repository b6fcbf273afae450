//! Rules that limit: so much a second and unit, over all CPUs; `packetwatch_abi::Limit` says how.
//!
//! The word of a rule is the first of its windows, which such a rule has no other use for.

use packetwatch_abi::{Caller, Fault, MAX_RULES, Policy, Rule, Trigger};

use crate::{atomic, exit::fault};

/// Another CPU that takes from the same word at the same time costs a turn. As many lost in a row, and
/// the packet is dropped: it may have conformed.
const TRIES: usize = 16;

/// Takes `bytes`, or 1, from each of `rules`; returns [`MAX_RULES`] if all of them let it pass. Else
/// nothing is taken, and it returns the rule that does not.
///
/// A global function in the sense of BPF, verified once, as the one below.
///
/// # Safety
/// `caller` and `policy` are null or point to live map values.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn take_from_limits(
    caller: *mut Caller,
    policy: *const Policy,
    rules: u32,
    now: u64,
    bytes: u64,
) -> u64 {
    if caller.is_null() || policy.is_null() {
        return MAX_RULES as u64;
    }
    // SAFETY: as the caller promises
    let rules = rules & unsafe { (*policy).limit_rules };
    for index in 0..MAX_RULES {
        if rules & (1 << index) == 0 {
            continue;
        }
        // SAFETY: as the caller promises; the index is below MAX_RULES
        unsafe {
            let word = &raw mut (*caller).windows[index][0];
            if !take(word, &(*policy).rules[index], now, bytes) {
                give_back_to_limits(caller, policy, rules & ((1 << index) - 1), bytes);
                return index as u64;
            }
        }
    }
    MAX_RULES as u64
}

/// Gives back what [`take_from_limits`] took. Returns 0.
///
/// # Safety
/// `caller` and `policy` are null or point to live map values.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn give_back_to_limits(
    caller: *mut Caller,
    policy: *const Policy,
    rules: u32,
    bytes: u64,
) -> u64 {
    if caller.is_null() || policy.is_null() {
        return 0;
    }
    // SAFETY: as the caller promises
    let rules = rules & unsafe { (*policy).limit_rules };
    for index in 0..MAX_RULES {
        if rules & (1 << index) == 0 {
            continue;
        }
        // SAFETY: as the caller promises; the index is below MAX_RULES
        unsafe {
            let rule = &(*policy).rules[index];
            let cost = rule.as_limit().of(amount(rule, bytes));
            atomic::add(&raw mut (*caller).windows[index][0], cost.wrapping_neg());
        }
    }
    0
}

#[inline(always)]
fn amount(rule: &Rule, bytes: u64) -> u64 {
    if rule.trigger == Trigger::Bytes as u32 {
        bytes
    } else {
        1
    }
}

/// # Safety
/// `word` points to a live map value.
#[inline(always)]
unsafe fn take(word: *mut u64, rule: &Rule, now: u64, bytes: u64) -> bool {
    let limit = rule.as_limit();
    let cost = limit.of(amount(rule, bytes));
    for _ in 0..TRIES {
        // SAFETY: as the caller promises; the word is shared by all CPUs
        unsafe {
            let seen = word.read_volatile();
            let Some(after) = limit.after(seen, now, cost) else {
                return false;
            };
            if atomic::replace(word, seen, after) {
                return true;
            }
        }
    }
    fault(Fault::Contended);
    false
}
