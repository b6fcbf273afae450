//! The certificate that the TCP listener shows. It is read again when its files change.

mod expiry;

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::expiry::{Told, end_of, tell};
use crate::{config::TlsFiles, log::EVENT, regular_file};

pub use self::expiry::Validity;

/// How often the files are looked at. They are also read again on SIGHUP.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A chain of certificates has a few kilobytes.
const MAX_FILE: u64 = 1 << 20;

/// Why a certificate cannot be shown.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error(
        "cannot read the {what} of [api.tls], {}: {source}. The daemon reads it as its own user: `chgrp \
         packetwatch` and `chmod 640` it, and let the group search the directories above", path.display()
    )]
    Unreadable {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the {what} of [api.tls], {}, cannot be one: {source}. Put the file in PEM in its place", path.display())]
    Unfit {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the {what} of [api.tls], {}, is not in PEM ({source}): write it with its BEGIN and END lines", path.display())]
    NotPem {
        what: &'static str,
        path: PathBuf,
        source: pem::Error,
    },
    #[error("the key {} is not that of the certificate {}, or one of them cannot be used: {source}", key.display(), cert.display())]
    NoPair {
        cert: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
}

/// A certificate with its key, and the files that they come from. Clones share them.
#[derive(Clone)]
pub struct Certificate(Arc<Shared>);

struct Shared {
    files: TlsFiles,
    shown: RwLock<Arc<CertifiedKey>>,
    /// the files as they were when they were read last, whatever came of it
    read: Mutex<[Option<Stamp>; 2]>,
    told: Mutex<Told>,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Certificate {
    /// Reads the pair.
    ///
    /// # Errors
    /// [`TlsError`] with the file.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let read = stamps(&files);
        let shown = read_pair(&files)?;
        Ok(Self(Arc::new(Shared {
            files,
            shown: RwLock::new(Arc::new(shown)),
            read: Mutex::new(read),
            told: Mutex::default(),
        })))
    }

    /// TLS 1.3 with whatever this holds at the moment of the handshake.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has the suites of TLS 1.3");
        let resolver = Arc::new(self.clone());
        let mut config = config.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Reads the pair again. Handshakes from now on show the new one; a bad pair is refused and the
    /// old one kept. Either is told in the log.
    pub fn reload(&self) {
        let Shared {
            files,
            shown,
            read,
            told: _,
        } = &*self.0;
        let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the files are read: what changes meanwhile is read again.
        *read = stamps(files);
        match read_pair(files) {
            Ok(pair) => {
                let before = {
                    let mut shown = shown.write().unwrap_or_else(PoisonError::into_inner);
                    std::mem::replace(&mut *shown, Arc::new(pair))
                };
                let now = shown.read().unwrap_or_else(PoisonError::into_inner);
                if before.cert != now.cert {
                    tracing::info!(
                        target: EVENT,
                        {
                            event.action = "certificate-changed",
                            file.path = %files.cert.display(),
                        },
                        "API: connections from now on are shown the certificate {}",
                        files.cert.display()
                    );
                }
            }
            Err(error) => tracing::error!(
                target: EVENT,
                {
                    event.action = "certificate-refused",
                    file.path = %files.cert.display(),
                    error.message = %error,
                },
                "API: the certificate stays as it was: {error}"
            ),
        }
    }

    /// The file, the end of what is shown of it, and how that is now; `None` where it cannot be read.
    pub fn ends_at(&self) -> (&Path, Option<(OffsetDateTime, Validity)>) {
        let shown = {
            let shown = self.0.shown.read();
            Arc::clone(&shown.unwrap_or_else(PoisonError::into_inner))
        };
        let end = shown.cert.first().and_then(end_of);
        let end = end.map(|end| (end, Validity::of(end, OffsetDateTime::now_utc())));
        (&self.0.files.cert, end)
    }

    /// Says in the log that it ends soon, or has.
    fn warn(&self) {
        let (cert, Some((end, _))) = self.ends_at() else {
            return;
        };
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.due(end, OffsetDateTime::now_utc());
        drop(told);
        if let Some(validity) = due {
            tell(cert, end, validity);
        }
    }

    /// Reads the pair again whenever a file has changed, and warns of its end, until `shutdown`.
    pub(super) async fn watch(self, shutdown: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let this = self.clone();
            let looked = tokio::task::spawn_blocking(move || this.look()).await;
            if let Err(error) = looked {
                tracing::error!(error.message = %error, "API: cannot look at the certificate");
            }
        }
    }

    fn look(&self) {
        let read = *self.0.read.lock().unwrap_or_else(PoisonError::into_inner);
        if stamps(&self.0.files) != read {
            self.reload();
        }
        self.warn();
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.0.files).finish()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.shown.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&shown))
    }
}

fn stamps(files: &TlsFiles) -> [Option<Stamp>; 2] {
    [&files.cert, &files.key].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some(Stamp {
            inode: found.ino(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    })
}

fn read_pair(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let TlsFiles { cert, key } = files;
    let not_pem = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::NotPem { what, path, source }
    };
    let text = read("certificate", cert)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.and_then(|chain| match chain.is_empty() {
        true => Err(pem::Error::NoItemsFound),
        false => Ok(chain),
    });
    let chain = chain.map_err(not_pem("certificate", cert))?;
    let text = read("key", key)?;
    let private = PrivateKeyDer::from_pem_slice(&text).map_err(not_pem("key", key))?;
    let pair = CertifiedKey::from_der(chain, private, &ring::default_provider());
    let pair = pair.map_err(|source| TlsError::NoPair {
        cert: cert.clone(),
        key: key.clone(),
        source,
    })?;
    let mode = fs::metadata(key).map_or(0, |found| found.permissions().mode() & 0o777);
    if mode & 0o007 != 0 {
        tracing::warn!(
            "everybody may read or write the key {} (mode {mode:04o}): make it 0600",
            key.display()
        );
    }
    Ok(pair)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut text = Vec::new();
    let read = regular_file::open(path).and_then(|file| {
        match file.take(MAX_FILE + 1).read_to_end(&mut text)? as u64 {
            0..=MAX_FILE => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is longer than 1 MiB",
            )),
        }
    });
    let path = path.to_owned();
    match read {
        Ok(()) => Ok(text),
        Err(source) if source.kind() == io::ErrorKind::InvalidData => {
            Err(TlsError::Unfit { what, path, source })
        }
        Err(source) => Err(TlsError::Unreadable { what, path, source }),
    }
}

#[cfg(test)]
mod tests;
