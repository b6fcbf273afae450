//! What the API listens on.

use std::{
    fs::{self, Permissions},
    io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use nix::{
    errno::Errno,
    unistd::{Gid, chown},
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpSocket, UnixListener},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    auth::{GROUP, group_id},
    tls::{Certificate, TlsError},
};
use crate::{
    config::{Api, TlsFiles},
    daemon::{Lack, Readiness},
    log::EVENT,
};

/// How often a place that cannot be listened on is tried again, and the socket's file looked at.
const AGAIN: Duration = Duration::from_secs(1);

/// What a start gives the disk that a certificate is on.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections over TCP that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Why the API cannot listen.
#[derive(Debug, Error)]
pub enum BindError {
    #[error(
        "cannot listen on {address}: {source}; free it, or choose another --api ADDR:PORT, or off"
    )]
    Tcp {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("a daemon already answers on {}: stop it, or choose another --socket", .0.display())]
    Live(PathBuf),
    #[error("{} is no socket and stays as it is: remove it, or choose another --socket", .0.display())]
    NoSocket(PathBuf),
    #[error("cannot {verb} the API socket {}: {source}; choose another --socket, or off", path.display())]
    Unix {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What the API listens on. Either may be off.
pub struct Listeners {
    pub(super) tcp: Option<Door<TcpListener>>,
    pub(super) unix: Option<Door<Socket>>,
    /// What TCP shows, from when it could be read; never, where it speaks plain HTTP.
    pub certificate: Arc<OnceLock<Certificate>>,
}

impl Listeners {
    /// Listens on the unix socket, and not on TCP yet. One left over by a dead daemon is replaced. What
    /// cannot be listened on yet, a filter does without: it is a lack, and tried again.
    ///
    /// # Errors
    /// A daemon answers on it.
    pub async fn bind_unix(api: &Api, readiness: &Readiness) -> Result<Self, BindError> {
        let unix = api.socket.clone().map(|path| {
            let name = path.display().to_string();
            Door::shut(name, Lack::Socket, move || bind_unix(&path), readiness)
        });
        let mut listeners = Self {
            tcp: None,
            unix,
            certificate: Arc::default(),
        };
        if let Some(door) = &mut listeners.unix
            && let Err(error @ BindError::Live(_)) = door.bind().await
        {
            return Err(error);
        }
        Ok(listeners)
    }

    /// Listens on TCP, too. It waits for the disk that the certificate is on, but not for long.
    pub async fn bind_tcp(&mut self, api: &Api, readiness: &Readiness) {
        let Some(address) = api.listen else {
            return;
        };
        let (files, shown) = (api.tls.files(), Arc::clone(&self.certificate));
        let bind = move || bind_tcp(address, files.as_ref(), &shown);
        let mut door = Door::shut(address.to_string(), Lack::Tcp, bind, readiness);
        // What it lacks is told, and tried again. So is a disk that does not answer.
        if timeout(PATIENCE, door.bind()).await.is_err() {
            let why = "the disk of its certificate does not answer".to_owned();
            door.tell_shut(&why);
            door.why = Some(why);
        }
        self.tcp = Some(door);
    }

    /// The address that TCP listens on, which says the port where 0 was asked for.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.bound.as_ref()?.local_addr().ok()
    }
}

/// A place to listen on, which may have to be cleared first.
pub(super) struct Door<L> {
    /// as people know it
    name: String,
    lack: Lack,
    bind: Arc<dyn Fn() -> Result<L, BindError> + Send + Sync>,
    /// until it is asked for
    bound: Option<L>,
    /// why there was none at the last try, as it was told
    why: Option<String>,
    readiness: Readiness,
}

impl<L: Send + 'static> Door<L> {
    fn shut(
        name: String,
        lack: Lack,
        bind: impl Fn() -> Result<L, BindError> + Send + Sync + 'static,
        readiness: &Readiness,
    ) -> Self {
        Self {
            name,
            lack,
            bind: Arc::new(bind),
            bound: None,
            why: None,
            readiness: readiness.clone(),
        }
    }

    /// The listener, as soon as there is one; another one, if there was one before.
    pub(super) async fn open(&mut self) -> L {
        loop {
            if let Some(listener) = self.bound.take() {
                return listener;
            }
            if self.why.is_some() {
                sleep(AGAIN).await;
            }
            if self.bind().await.is_ok() {
                self.tell_open();
            }
        }
    }

    /// Tries it once. Why it fails is told, unless it was the last time.
    async fn bind(&mut self) -> Result<(), BindError> {
        let bind = Arc::clone(&self.bind);
        let bound = spawn_blocking(move || bind()).await;
        match bound.expect("binding does not panic") {
            Ok(listener) => {
                self.bound = Some(listener);
                self.why = None;
                Ok(())
            }
            Err(error) => {
                let why = error.to_string();
                if self.why.as_ref() != Some(&why) {
                    self.tell_shut(&why);
                    self.why = Some(why);
                }
                Err(error)
            }
        }
    }

    fn tell_shut(&self, error: &str) {
        let why = format!("the API does not listen on {}: {error}", self.name);
        self.readiness.set_lack(self.lack, Some(why));
        tracing::error!(
            target: EVENT,
            {
                event.action = "listen-failed",
                packetwatch.api = self.name.as_str(),
                error.message = error,
            },
            "API: does not listen on {}, and tries again each second; the filter does without: {error}",
            self.name
        );
    }

    fn tell_open(&self) {
        self.readiness.set_lack(self.lack, None);
        tracing::info!(
            target: EVENT,
            { event.action = "listening", packetwatch.api = self.name.as_str() },
            "API: listens on {}",
            self.name
        );
    }
}

fn bind_tcp(
    address: SocketAddr,
    files: Option<&TlsFiles>,
    shown: &OnceLock<Certificate>,
) -> Result<TcpListener, BindError> {
    if let Some(files) = files
        && shown.get().is_none()
    {
        // Nobody else sets it.
        let _ = shown.set(Certificate::open(files.clone())?);
    }
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // A restart does not wait for connections of the process before to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| BindError::Tcp { address, source })
}

fn bind_unix(path: &Path) -> Result<Socket, BindError> {
    let failed = |verb| {
        move |source| BindError::Unix {
            verb,
            path: path.to_owned(),
            source,
        }
    };
    make_way(path)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
    }
    let listener = UnixListener::bind(path).map_err(failed("bind"))?;
    let file = SocketFile::of(path).map_err(failed("look at"))?;
    // Whoever connects before this is judged by the peer credentials all the same.
    if let Some(group) = group_id() {
        match chown(path, None, Some(Gid::from_raw(group))) {
            // Whoever is no member of the group, and may give nothing away.
            Err(Errno::EPERM) => tracing::warn!(
                "the API socket {} cannot be given to the group {GROUP}: only root and who runs the \
                 daemon may ask there",
                path.display()
            ),
            given => given.map_err(|errno| failed("give the group")(errno.into()))?,
        }
    } else {
        tracing::info!("there is no group {GROUP} on this host: the API socket is root's alone");
    }
    fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed("set the mode of"))?;
    Ok(Socket { file, listener })
}

/// Removes what a dead daemon left, and nothing else.
fn make_way(path: &Path) -> Result<(), BindError> {
    let failed = |verb| {
        move |source| BindError::Unix {
            verb,
            path: path.to_owned(),
            source,
        }
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the left-over"))
        }
        Err(error) => Err(failed("try")(error)),
    }
}

/// The unix socket. Its file goes first: while it is bound, no other has the file's inode.
pub(super) struct Socket {
    pub(super) file: SocketFile,
    pub(super) listener: UnixListener,
}

/// A bound socket's file. A file that has come in its place is another's.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: Self::identity(path)?,
        })
    }

    /// Waits until nobody finds the socket under its name, since the file was removed or replaced, which
    /// is told.
    pub(super) async fn lost(&self) {
        while !self.is_lost() {
            sleep(AGAIN).await;
        }
        tracing::warn!(
            "API: the socket {} was removed or replaced; it is to be bound anew",
            self.path.display()
        );
    }

    fn is_lost(&self) -> bool {
        use io::ErrorKind::{NotADirectory, NotFound};
        match Self::identity(&self.path) {
            Ok(found) => found != self.identity,
            // Where this process may not look any more, others may still find it.
            Err(error) => matches!(error.kind(), NotFound | NotADirectory),
        }
    }

    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        let found = fs::symlink_metadata(path)?;
        Ok((found.dev(), found.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::identity(&self.path).is_ok_and(|found| found == self.identity) {
            // It is in a directory that is made anew at boot, and replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    async fn bind(
        listen: Option<SocketAddr>,
        socket: Option<&Path>,
        readiness: &Readiness,
    ) -> Result<Listeners, BindError> {
        let api = Api {
            listen,
            socket: socket.map(Path::to_owned),
            ..Api::default()
        };
        let mut listeners = Listeners::bind_unix(&api, readiness).await?;
        listeners.bind_tcp(&api, readiness).await;
        Ok(listeners)
    }

    /// That it works, but for what it cannot listen on.
    fn working() -> Readiness {
        let readiness = Readiness::starting();
        readiness.set(Ok(()));
        readiness
    }

    /// Why it is not ready, and what comes through the door after `clear`.
    async fn after<L: Send + 'static>(
        mut door: Door<L>,
        readiness: &Readiness,
        clear: impl FnOnce(),
    ) -> (String, L) {
        let why = readiness.is_ready().unwrap_err();
        clear();
        let listener = timeout(10 * AGAIN, door.open()).await.expect("it listens");
        assert_eq!(readiness.is_ready(), Ok(()));
        (why, listener)
    }

    #[tokio::test]
    async fn a_left_over_socket_is_replaced_and_a_live_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/api.sock");
        // Dropped without its file: what a killed daemon leaves.
        fs::create_dir(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let readiness = working();
        let first = bind(None, Some(&path), &readiness).await.unwrap();
        assert_eq!(readiness.is_ready(), Ok(()));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        let second = bind(None, Some(&path), &readiness).await.err().unwrap();
        assert!(matches!(second, BindError::Live(_)), "{second}");
        drop(first);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays_until_somebody_removes_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        fs::write(&path, "precious").unwrap();
        let readiness = working();
        let listeners = bind(None, Some(&path), &readiness).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let clear = || fs::remove_file(&path).unwrap();
        let (why, _listener) = after(listeners.unix.unwrap(), &readiness, clear).await;
        assert!(why.contains("is no socket"), "{why}");
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn a_socket_that_has_replaced_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let ours = bind(None, Some(&path), &working()).await.unwrap();
        fs::rename(&path, directory.path().join("old.sock")).unwrap();
        let _theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_socket_whose_file_goes_is_bound_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/api.sock");
        let readiness = working();
        let mut door = bind(None, Some(&path), &readiness).await.unwrap().unix;
        let door = door.as_mut().unwrap();
        let first = door.open().await;
        assert!(!first.file.is_lost());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        timeout(10 * AGAIN, first.file.lost())
            .await
            .expect("it is missed");
        let second = door.open().await;
        assert_eq!(readiness.is_ready(), Ok(()));
        // The end of the first is not that of its successor.
        drop(first);
        assert!(UnixStream::connect(&path).is_ok());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(second.file.is_lost());
        drop(second);
        assert!(path.is_file());
    }

    #[tokio::test]
    async fn a_taken_port_is_named_and_listened_on_when_it_is_free() {
        let other = bind(Some(([127, 0, 0, 1], 0).into()), None, &working())
            .await
            .unwrap();
        let address = other.tcp_address().unwrap();
        let readiness = working();
        let listeners = bind(Some(address), None, &readiness).await.unwrap();
        assert_eq!(listeners.tcp_address(), None);
        let (why, listener) = after(listeners.tcp.unwrap(), &readiness, || drop(other)).await;
        assert!(why.contains(&address.to_string()), "{why}");
        assert_eq!(listener.local_addr().unwrap(), address);
    }
}
