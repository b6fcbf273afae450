//! Whether a source gets an entry of its own.
//!
//! At first sight, as long as a tick's places last and the daemon has set no threshold. Else it is
//! counted in the sketch, whatever number of sources there are, until its estimate reaches the
//! threshold; and even then no more than a tick's places are given.
//!
//! Whom no rule looks at is entered to be shown, in few places of its own: however many they are,
//! they take none from those that a rule counts.

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};
use packetwatch_abi::{ADMISSION_TICK_SHIFT, Admission, Admitted, Bucket, LEAST_THRESHOLD, Prefix};

use crate::{atomic, sketch};

#[btf_map]
static ADMISSION: Array<Admission, 1> = Array::new();

#[btf_map]
static ADMISSIONS: PerCpuArray<u64, { Admitted::ALL.len() }> = PerCpuArray::new();

/// Places given in the current tick: at first sight, by count, unlooked at. A [`Bucket`] each, for all
/// CPUs; on cache lines of their own.
#[btf_map]
static PLACES: Array<[u64; 8], 3> = Array::new();

const FIRST_SIGHT: u32 = 0;
const BY_COUNT: u32 = 1;
const UNLOOKED_AT: u32 = 2;

/// How `unit` is to be entered; `None` if it is not, and has been counted otherwise.
///
/// `looking`: the rules that look at this packet.
#[inline(always)]
pub fn admit(unit: &Prefix, looking: u32, now: u64) -> Option<Admitted> {
    // SAFETY: a prefix
    match unsafe { admit_unit(unit, looking, now) } {
        ADMITTED_AT_FIRST_SIGHT => Some(Admitted::FirstSight),
        ADMITTED_BY_COUNT => Some(Admitted::ByCount),
        _ => None,
    }
}

const NOT_ADMITTED: u64 = 0;
const ADMITTED_AT_FIRST_SIGHT: u64 = 1;
const ADMITTED_BY_COUNT: u64 = 2;

/// A global function in the sense of BPF, verified once: no way through it multiplies those after it.
///
/// # Safety
/// `unit` is null or points to a prefix.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn admit_unit(unit: *const Prefix, looking: u32, now: u64) -> u64 {
    // SAFETY: as the caller promises
    let Some(unit) = (unsafe { unit.as_ref() }) else {
        return NOT_ADMITTED;
    };
    let Some(admission) = ADMISSION.get(0) else {
        return NOT_ADMITTED;
    };
    let Admission { threshold, places } = *admission;
    let (line, given) = match looking {
        0 => (UNLOOKED_AT, admission.unlooked_at()),
        _ => (FIRST_SIGHT, places),
    };
    if threshold <= 1 && take(line, given, now) {
        return ADMITTED_AT_FIRST_SIGHT;
    }
    if looking == 0 {
        tally(Admitted::Ignored);
        return NOT_ADMITTED;
    }
    // SAFETY: a prefix
    let estimate = unsafe { sketch::sketch_count(unit, now) };
    if estimate < threshold.max(LEAST_THRESHOLD) {
        tally(Admitted::Sketched);
        return NOT_ADMITTED;
    }
    if !take(BY_COUNT, places, now) {
        tally(Admitted::Deferred);
        return NOT_ADMITTED;
    }
    ADMITTED_BY_COUNT
}

#[inline(always)]
pub fn tally(what: Admitted) {
    if let Some(count) = ADMISSIONS.get_ptr_mut(what as u32) {
        // SAFETY: this CPU's own value, and XDP is not interrupted by itself
        unsafe { *count += 1 }
    }
}

/// Takes one of the places of this tick.
#[inline(never)]
fn take(line: u32, places: u64, now: u64) -> bool {
    let Some(line) = PLACES.get_ptr_mut(line) else {
        return false;
    };
    let tick = now >> ADMISSION_TICK_SHIFT;
    let word = line.cast::<u64>();
    // SAFETY: a live map value, shared by all CPUs
    unsafe {
        for _ in 0..2 {
            let seen = word.read_volatile();
            if Bucket(seen).age(tick) == 0 {
                // Read first: where all are gone, CPUs do not fight over the word.
                return Bucket(seen).count() < places
                    && Bucket(atomic::fetch_add(word, 1)).count() < places;
            }
            if atomic::replace(word, seen, Bucket::new(tick, 1).0) {
                return places > 0;
            }
        }
    }
    false
}
