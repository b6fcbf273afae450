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
};

use nix::unistd::{Gid, chown};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};

use super::{
    auth::{GROUP, group_id},
    tls::{Certificate, TlsError},
};
use crate::config::Api;

/// Why the API cannot listen.
#[derive(Debug, Error)]
pub enum BindError {
    #[error("cannot listen on {address}: {source}; choose another --api ADDR:PORT, or off")]
    Tcp {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("a daemon already answers on {}: stop it, or choose another --socket", .0.display())]
    Live(PathBuf),
    #[error("{} is no socket and stays as it is: choose another --socket", .0.display())]
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
#[derive(Default)]
pub struct Listeners {
    pub tcp: Option<TcpListener>,
    /// What TCP shows; without one it speaks plain HTTP.
    pub certificate: Option<Certificate>,
    pub unix: Option<UnixListener>,
    /// Removed at the end.
    pub(super) file: Option<SocketFile>,
}

impl Listeners {
    /// Listens; within a tokio runtime. A socket left over by a dead daemon is replaced.
    ///
    /// # Errors
    /// [`BindError`] with the address, path or file and the remedy.
    pub async fn bind(api: &Api) -> Result<Self, BindError> {
        let Api {
            listen,
            tls,
            socket,
        } = api;
        let mut listeners = Self::default();
        if let Some(address) = *listen {
            listeners.certificate = tls.files().map(Certificate::open).transpose()?;
            let bound = TcpListener::bind(address).await;
            let bound = bound.map_err(|source| BindError::Tcp { address, source })?;
            listeners.tcp = Some(bound);
        }
        if let Some(path) = socket {
            let (listener, file) = bind_unix(path)?;
            listeners.unix = Some(listener);
            listeners.file = Some(file);
        }
        Ok(listeners)
    }

    /// The address that TCP listens on, which says the port where 0 was asked for.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }
}

fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
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
        chown(path, None, Some(Gid::from_raw(group)))
            .map_err(|errno| failed("give the group")(errno.into()))?;
    } else {
        tracing::info!("there is no group {GROUP} on this host: the API socket is root's alone");
    }
    fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed("set the mode of"))?;
    Ok((listener, file))
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
    use super::*;

    async fn bind(
        listen: Option<SocketAddr>,
        socket: Option<&Path>,
    ) -> Result<Listeners, BindError> {
        let api = Api {
            listen,
            socket: socket.map(Path::to_owned),
            ..Api::default()
        };
        Listeners::bind(&api).await
    }

    #[tokio::test]
    async fn a_left_over_socket_is_replaced_and_a_live_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/api.sock");
        // Dropped without its file: what a killed daemon leaves.
        fs::create_dir(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = bind(None, Some(&path)).await.unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        let second = bind(None, Some(&path)).await.err().unwrap();
        assert!(matches!(second, BindError::Live(_)), "{second}");
        drop(first);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        fs::write(&path, "precious").unwrap();
        let error = bind(None, Some(&path)).await.err().unwrap();
        assert!(matches!(error, BindError::NoSocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_socket_that_has_replaced_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let ours = bind(None, Some(&path)).await.unwrap();
        fs::rename(&path, directory.path().join("old.sock")).unwrap();
        let _theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = bind(Some(([127, 0, 0, 1], 0).into()), None).await.unwrap();
        let address = first.tcp_address().unwrap();
        let error = bind(Some(address), None).await.err().unwrap();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
