//! Whether a source gets an entry of its own.
//!
//! At first sight, as long as a tick's places last and the daemon has set no threshold. Else it is
//! counted in the sketch, whatever number of sources there are, until its estimate reaches the
//! threshold; and even then no more than a tick's places are given.

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

/// Places given in the current tick: at first sight, by count. A [`Bucket`] each, for all CPUs; on
/// cache lines of their own.
#[btf_map]
static PLACES: Array<[u64; 8], 2> = Array::new();

/// How `unit` is to be entered; `None` if it is not, and has been counted otherwise.
///
/// `looked_at`: a rule looks at this packet.
#[inline(always)]
pub fn admit(unit: &Prefix, looked_at: bool, now: u64) -> Option<Admitted> {
    let Admission { threshold, places } = *ADMISSION.get(0)?;
    if threshold <= 1 && take(Admitted::FirstSight, places, now) {
        return Some(Admitted::FirstSight);
    }
    if !looked_at {
        tally(Admitted::Ignored);
        return None;
    }
    // SAFETY: a prefix
    let estimate = unsafe { sketch::sketch_count(unit, now) };
    if estimate < threshold.max(LEAST_THRESHOLD) {
        tally(Admitted::Sketched);
        return None;
    }
    if !take(Admitted::ByCount, places, now) {
        tally(Admitted::Deferred);
        return None;
    }
    Some(Admitted::ByCount)
}

#[inline(always)]
pub fn tally(what: Admitted) {
    if let Some(count) = ADMISSIONS.get_ptr_mut(what as u32) {
        // SAFETY: this CPU's own value, and XDP is not interrupted by itself
        unsafe { *count += 1 }
    }
}

/// Takes one of the places of this tick.
#[inline(always)]
fn take(of: Admitted, places: u64, now: u64) -> bool {
    let Some(line) = PLACES.get_ptr_mut(of as u32) else {
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
