//! Values of an array map, mapped into this process: written without a system call, where the XDP
//! program reads them.

use std::{
    io,
    num::NonZero,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The values of a map as words: one writer here, and the XDP program reads.
pub(super) struct Mapped {
    words: NonNull<AtomicU64>,
    count: u32,
    /// of the mapping; 0 for memory of this process alone
    mapped: usize,
}

// SAFETY: the words are atomic, and the mapping lives as long as this.
unsafe impl Send for Mapped {}
// SAFETY: as above
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps `count` words of the values of an array map that was made with `BPF_F_MMAPABLE` (kernel
    /// 5.5), from the `first` on. Its values are of whole words, and `first` begins a page.
    pub(super) fn of_map(map: BorrowedFd<'_>, first: u32, count: u32) -> io::Result<Self> {
        let offset = i64::from(first) * size_of::<u64>() as i64;
        let bytes = count as usize * size_of::<u64>();
        let length = NonZero::new(bytes.next_multiple_of(page_size()));
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping, which nothing else knows of
        let start = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map,
                offset,
            )
        }?;
        Ok(Self {
            words: start.cast(),
            count,
            mapped: length.get(),
        })
    }

    /// Of no map, for comparison.
    #[cfg(test)]
    pub(super) fn private(count: u32) -> Self {
        let words: Box<[AtomicU64]> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let words = NonNull::new(Box::into_raw(words).cast()).expect("a box is somewhere");
        Self {
            words,
            count,
            mapped: 0,
        }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: so many words were mapped or allocated
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count as usize) }
    }

    /// The words as the program reads them.
    pub(super) fn plain(&self) -> &[u64] {
        // SAFETY: so many words, whose layout is that of plain integers. The program does not
        // write, and this process writes under the lock that whoever reads holds.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.count as usize) }
    }

    pub(super) fn word(&self, at: u32) -> u64 {
        self.words()[at as usize].load(Ordering::Relaxed)
    }

    /// What was written before is seen by whoever sees this.
    pub(super) fn publish(&self, at: u32, word: u64) {
        self.words()[at as usize].store(word, Ordering::Release);
    }

    /// Writes zeroes where nobody looks.
    pub(super) fn clear(&self) {
        for word in self.words() {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// A bit, counted from the first word on.
    pub(super) fn bit(&self, bit: u64) -> bool {
        self.word((bit / 64) as u32) >> (bit % 64) & 1 != 0
    }

    /// Sets a bit; tells whether it was clear.
    pub(super) fn set_bit(&self, bit: u64) -> bool {
        let mask = 1 << (bit % 64);
        self.words()[bit as usize / 64].fetch_or(mask, Ordering::Release) & mask == 0
    }

    pub(super) fn clear_bit(&self, bit: u64) {
        let mask = 1u64 << (bit % 64);
        self.words()[bit as usize / 64].fetch_and(!mask, Ordering::Release);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.mapped == 0 {
            let slice = NonNull::slice_from_raw_parts(self.words, self.count as usize);
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
