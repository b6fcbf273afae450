//! Who is at the other end of a connection, and when it is given up.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd as _},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    time::{Instant, Sleep, sleep_until},
};

/// A connection over which nothing went either way for so long is closed: longer than any request
/// may take. An event stream says something ten times as often.
const IDLE: Duration = Duration::from_secs(150);

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix(Credentials),
}

/// What the kernel says of a process that connected to the unix socket, as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    /// of the process, if it is in a namespace that this one sees
    pub pid: Option<i32>,
    pub uid: u32,
    pub gid: u32,
    /// supplementary groups
    pub groups: Vec<u32>,
}

impl Credentials {
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self {
            pid: credentials.pid(),
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups: peer_groups(stream)?,
        })
    }
}

/// SO_PEERGROUPS, Linux 4.13: SO_PEERCRED tells of the primary group alone.
fn peer_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    // A process has at most NGROUPS_MAX supplementary groups, 65536; few have more than 32.
    let mut groups = vec![0_u32; 32];
    for _ in 0..2 {
        let mut size = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the pointer and size describe the vector's initialised elements
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        let count = size as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) {
            return Err(error);
        }
        groups.resize(count, 0);
    }
    Err(io::ErrorKind::OutOfMemory.into())
}

/// A stream that fails with `TimedOut` when idle.
pub(super) struct Guarded<S> {
    stream: S,
    idle: Pin<Box<Sleep>>,
}

impl<S: Unpin> Guarded<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            idle: Box::pin(sleep_until(Instant::now() + IDLE)),
        }
    }

    /// Passes on what the stream answers; progress puts the end off.
    fn watched<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let polled = poll(Pin::new(&mut self.stream), context);
        if polled.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
            return polled;
        }
        ready!(self.idle.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.watched(context, |stream, context| stream.poll_read(context, buffer))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.watched(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watched(context, |stream, context| {
            stream.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_tells_who_connects() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let credentials = Credentials::of(&ours).unwrap();
        assert_eq!(credentials.pid, i32::try_from(std::process::id()).ok());
        assert_eq!(credentials.uid, nix::unistd::getuid().as_raw());
        assert_eq!(credentials.gid, nix::unistd::getgid().as_raw());
        let mut own: Vec<u32> = nix::unistd::getgroups()
            .unwrap()
            .iter()
            .map(|g| g.as_raw())
            .collect();
        let mut told = credentials.groups;
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
    }
}
