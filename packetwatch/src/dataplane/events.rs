//! What the program tells at once: calls, offences, its debug messages.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, RawFd},
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use aya_log::EbpfLogger;
use packetwatch_abi::{Call, Offence};
use tokio::io::{Interest, unix::AsyncFd};

use super::{Error, object::take};

/// The three streams. Each is read by one task; what is not read in time is lost and counted by
/// the program (`calls-lost`, `offences-lost`).
pub struct Events {
    pub calls: Stream<Call>,
    pub offences: Stream<Offence>,
    pub debug: Option<DebugLog>,
}

impl Events {
    pub(super) fn new(ebpf: &mut Ebpf, debug: bool) -> Result<Self, Error> {
        let debug = if debug {
            // Absent only if the program was built without a single message.
            EbpfLogger::init(ebpf).ok().map(DebugLog)
        } else {
            None
        };
        Ok(Self {
            calls: Stream::new(take(ebpf, "CALLS")?),
            offences: Stream::new(take(ebpf, "OFFENCES")?),
            debug,
        })
    }
}

/// A ring buffer of `T`.
pub struct Stream<T> {
    ring: RingBuf<MapData>,
    item: PhantomData<T>,
}

impl<T: aya::Pod> Stream<T> {
    fn new(ring: RingBuf<MapData>) -> Self {
        Self {
            ring,
            item: PhantomData,
        }
    }

    /// The next one that is there already.
    pub fn poll(&mut self) -> Option<T> {
        let item = self.ring.next()?;
        if item.len() != size_of::<T>() {
            return None;
        }
        // SAFETY: as long as T, any bits of which are a T (Pod); the ring aligns to 8.
        Some(unsafe { item.as_ptr().cast::<T>().read_unaligned() })
    }

    /// Hands each to `visit` as it comes, for as long as the future is polled.
    ///
    /// # Errors
    /// The event loop's: it has no room for the descriptor.
    pub async fn each(self, mut visit: impl FnMut(T)) -> io::Result<()> {
        let mut ready = watch(Ready(self))?;
        loop {
            let mut guard = ready.readable_mut().await?;
            // All of them, before the next wait: the descriptor tells of a change, not of a state.
            while let Some(item) = guard.get_inner_mut().0.poll() {
                visit(item);
            }
            guard.clear_ready();
        }
    }
}

struct Ready<T>(Stream<T>);

impl<T> AsRawFd for Ready<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.ring.as_raw_fd()
    }
}

/// Registers a descriptor with the event loop.
fn watch<R: AsRawFd>(ring: R) -> io::Result<AsyncFd<R>> {
    // SAFETY: `ring` owns its descriptor, the same one for as long as it lives, which is longer
    // than the registration.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}

/// The program's debug messages, which aya-log hands to the `log` crate.
pub struct DebugLog(EbpfLogger<&'static dyn log::Log>);

impl DebugLog {
    /// Hands them on as they come, for as long as the future is polled.
    ///
    /// # Errors
    /// The event loop's: it has no room for the descriptor.
    pub async fn forward(self) -> io::Result<()> {
        let mut ready = watch(self.0)?;
        loop {
            let mut guard = ready.readable_mut().await?;
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}
