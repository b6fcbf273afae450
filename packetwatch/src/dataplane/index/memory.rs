//! The lines of an index, where the kernel reads them.

use std::{
    io,
    num::NonZero,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use packetwatch_abi::index::{Line, WORDS};

/// A map's values, mapped into this process: one writer here, and the XDP program reads.
pub(super) struct Memory {
    words: NonNull<AtomicU64>,
    lines: u32,
    /// of the mapping; 0 for memory of this process alone
    mapped: usize,
}

// SAFETY: the words are atomic, and the mapping lives as long as this.
unsafe impl Send for Memory {}
// SAFETY: as above
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps the values of an array map of `lines` lines that was made with `BPF_F_MMAPABLE`.
    pub(super) fn of_map(map: BorrowedFd<'_>, lines: u32) -> io::Result<Self> {
        let bytes = lines as usize * size_of::<Line>();
        let length = NonZero::new(bytes.next_multiple_of(page_size())).expect("an index has lines");
        // SAFETY: a new mapping, which nothing else knows of
        let start = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map,
                0,
            )
        }?;
        Ok(Self {
            words: start.cast(),
            lines,
            mapped: length.get(),
        })
    }

    /// Of no map, for comparison.
    #[cfg(test)]
    pub(super) fn private(lines: u32) -> Self {
        let words: Box<[AtomicU64]> = (0..lines as usize * WORDS)
            .map(|_| AtomicU64::new(0))
            .collect();
        let words = NonNull::new(Box::into_raw(words).cast()).expect("a box is somewhere");
        Self {
            words,
            lines,
            mapped: 0,
        }
    }

    pub(super) fn lines(&self) -> u32 {
        self.lines
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: so many words were mapped or allocated
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.lines as usize * WORDS) }
    }

    pub(super) fn word(&self, at: u32) -> u64 {
        self.words()[at as usize].load(Ordering::Relaxed)
    }

    /// What was written before is seen by whoever sees this.
    pub(super) fn publish(&self, at: u32, word: u64) {
        self.words()[at as usize].store(word, Ordering::Release);
    }

    pub(super) fn write(&self, line: u32, words: &Line) {
        let at = line as usize * WORDS;
        for (place, word) in self.words()[at..at + WORDS].iter().zip(words) {
            place.store(*word, Ordering::Relaxed);
        }
    }

    /// Sets a bit; tells whether it was clear.
    pub(super) fn set_bit(&self, first_line: u32, bit: u32) -> bool {
        let at = first_line as usize * WORDS + bit as usize / 64;
        let mask = 1 << (bit % 64);
        self.words()[at].fetch_or(mask, Ordering::Relaxed) & mask == 0
    }

    /// The first words.
    pub(super) fn plain(&self, words: usize) -> &[u64] {
        let words = words.min(self.lines as usize * WORDS);
        // SAFETY: as for a line
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), words) }
    }

    /// A line as the program reads it; `None` beyond the last.
    pub(super) fn line(&self, line: u32) -> Option<&Line> {
        if line >= self.lines {
            return None;
        }
        // SAFETY: within the words, whose layout is that of plain integers. The program does not
        // write, and this process writes under the lock that whoever reads holds.
        Some(unsafe { self.words.add(line as usize * WORDS).cast().as_ref() })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.mapped == 0 {
            let words = self.lines as usize * WORDS;
            let slice = NonNull::slice_from_raw_parts(self.words, words);
            // SAFETY: made from a box of that length
            drop(unsafe { Box::from_raw(slice.as_ptr()) });
        } else {
            // SAFETY: the mapping that was made, which nothing refers to any more. A failure would
            // leave it mapped, no more.
            let _ = unsafe { munmap(self.words.cast(), self.mapped) };
        }
    }
}

fn page_size() -> usize {
    // SAFETY: no arguments beyond a number
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
