//! Whom a command trusts to be the daemon.

use std::{fs, io, net::IpAddr, path::PathBuf};

use super::client::{ClientError, causes};

/// The certificates of a file.
pub(super) fn authorities(path: PathBuf) -> Result<Vec<reqwest::Certificate>, ClientError> {
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(source) => return Err(ClientError::Ca { path, source }),
    };
    let certificates = reqwest::Certificate::from_pem_bundle(&text).unwrap_or_default();
    match certificates.is_empty() {
        true => Err(ClientError::NoCa(path)),
        false => Ok(certificates),
    }
}

/// Whether what is sent there stays between the two ends.
pub(super) fn keeps_secrets(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address: Option<IpAddr> = address.parse().ok();
    let is_here = address.is_some_and(|address| address.to_canonical().is_loopback());
    url.scheme() == "https" || is_here || host == "localhost"
}

/// What TLS did not take.
pub(super) fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| {
        let wrapped = cause.downcast_ref().and_then(wrapped);
        wrapped.or_else(|| cause.downcast_ref())
    })
}

/// The system's error type names as its cause not what it wraps but the cause of that.
fn wrapped(error: &io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    let deeper = || inner.downcast_ref().and_then(wrapped);
    inner.downcast_ref().or_else(deeper)
}
