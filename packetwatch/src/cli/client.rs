//! Asking the daemon, over its unix socket or TCP.

#[cfg(test)]
mod tests;

use std::{error::Error as _, io, path::PathBuf, time::Duration};

use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::{
    secret::authorization,
    tls::{authorities, keeps_secrets, tls_error},
};
use crate::api::Problem;

/// Where the daemon listens unless it is told otherwise.
pub(super) const DEFAULT_SOCKET: &str = "/run/packetwatch/api.sock";

const CONNECT: Duration = Duration::from_secs(5);

/// How long the daemon has for a whole answer. A stream has no limit.
#[derive(Clone, Copy)]
struct Limits {
    /// more than it takes to tell what there is, of a million sources too
    telling: Duration,
    /// more than it takes for any request that changes something
    changing: Duration,
}

const LIMITS: Limits = Limits {
    telling: Duration::from_secs(20),
    changing: Duration::from_secs(150),
};

/// How to reach the daemon.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Daemon")]
pub(super) struct Connection {
    /// Unix socket of the daemon
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, global = true)]
    pub socket: PathBuf,
    /// Ask over TCP instead, as in https://198.51.100.1:7300 or http://127.0.0.1:7300
    #[arg(long, value_name = "URL", global = true)]
    pub url: Option<String>,
    /// PEM file of the authority that signed the daemon's certificate, or of that itself [default:
    /// the authorities that this system trusts]
    #[arg(long, value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,
    /// File that holds the token for --url
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Token for --url; others on this host can read it in the process list
    #[arg(
        long,
        value_name = "TOKEN",
        env = "PACKETWATCH_TOKEN",
        hide_env_values = true,
        global = true
    )]
    pub token: Option<String>,
}

/// Why there is no answer, or not the one asked for.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    #[error(
        "no daemon answers on {at}: start it with `systemctl start packetwatch` or \
             `packetwatch run`, or say where it listens with --socket or --url"
    )]
    NotRunning { at: String },
    #[error("you may not use the socket {}: ask as root or as a member of the group packetwatch", .0.display())]
    NotAllowed(PathBuf),
    #[error(
        "{0:?} is no URL of a daemon: write it like https://host.example:7300 or http://127.0.0.1:7300"
    )]
    Url(String),
    #[error("cannot read the authority {}: {source}; name a PEM file with --ca", path.display())]
    Ca { path: PathBuf, source: io::Error },
    #[error("{} holds no certificate in PEM: name another file with --ca", .0.display())]
    NoCa(PathBuf),
    #[error("--ca is for TLS, and {at} speaks none: write --url https://...")]
    CaWithoutTls { at: String },
    #[error(
        "{at} shows a certificate that is not trusted ({cause}): name the authority that signed it with --ca, and the host as the certificate does"
    )]
    Untrusted { at: String, cause: String },
    #[error(
        "nobody can say whether to trust {at} ({cause}): install ca-certificates, or name the authority that signed its certificate with --ca"
    )]
    NoAuthorities { at: String, cause: String },
    #[error("{at} speaks no TLS: write http:// instead of https://")]
    NoTls { at: String },
    #[error("cannot read the token from {}: {source}; name another with --token-file", path.display())]
    TokenFile { path: PathBuf, source: io::Error },
    #[error(
        "the token has characters that no token has: copy it from the file token in the daemon's state directory"
    )]
    Token,
    #[error("{at} did not answer in time: see the daemon's log")]
    Slow { at: String },
    #[error("asking {at} failed: {cause}")]
    Broken { at: String, cause: String },
    #[error("{}", problem_line(.0))]
    Refused(Box<Problem>),
    #[error("{at} answered {status}, and not as a Packetwatch daemon does: is it one?")]
    Foreign { at: String, status: StatusCode },
}

/// The problem as a line, and the faults it lists below it.
fn problem_line(problem: &Problem) -> String {
    let mut text = match &problem.field {
        // What was typed as the argument needs no name, and what is listed below has its own.
        Some(field)
            if !["body", "prefix", "address"].contains(&&**field)
                && problem.errors.is_empty()
                && !problem.detail.contains(&**field) =>
        {
            format!("{field}: {}", problem.detail)
        }
        _ => problem.detail.clone(),
    };
    for fault in &problem.errors {
        let place = match (fault.line, fault.index) {
            (Some(line), _) => format!("line {line}: "),
            (None, Some(index)) => format!("entry {}: ", index + 1),
            (None, None) => String::new(),
        };
        text.push_str(&format!("\n  {place}{}", fault.detail));
    }
    let more = problem
        .errors_total
        .unwrap_or(0)
        .saturating_sub(problem.errors.len());
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    text
}

/// The host's authorities are neither read nor missed: a host may have none.
fn without_tls(builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    builder.tls_certs_only([])
}

/// A daemon to ask.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<header::HeaderValue>,
    /// For messages.
    at: String,
    socket: Option<PathBuf>,
    limits: Limits,
}

impl Client {
    /// Connects with the first request.
    ///
    /// # Errors
    /// A URL or token that cannot be one.
    pub(super) fn new(connection: Connection) -> Result<Self, ClientError> {
        let token = authorization(&connection)?;
        let Connection {
            socket, url, ca, ..
        } = connection;
        // There is one already if a client was made before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT);
        let (builder, base, at, socket) = match url {
            Some(url) => {
                let base = url.trim_end_matches('/').to_owned();
                let parsed = reqwest::Url::parse(&base).ok();
                let parsed = parsed.filter(|url| ["http", "https"].contains(&url.scheme()));
                let Some(parsed) = parsed else {
                    return Err(ClientError::Url(url));
                };
                let builder = match (ca, parsed.scheme()) {
                    (None, "https") => builder,
                    (Some(ca), "https") => builder.tls_certs_only(authorities(ca)?),
                    (None, _) => without_tls(builder),
                    (Some(_), _) => return Err(ClientError::CaWithoutTls { at: base }),
                };
                if token.is_some() && !keeps_secrets(&parsed) {
                    eprintln!("packetwatch: {base} is not TLS: the token can be read on the way");
                }
                (builder, base.clone(), base, None)
            }
            None if ca.is_some() => {
                let at = socket.display().to_string();
                return Err(ClientError::CaWithoutTls { at });
            }
            None => {
                let at = socket.display().to_string();
                let builder = without_tls(builder).unix_socket(socket.as_path());
                (builder, "http://packetwatch".to_owned(), at, Some(socket))
            }
        };
        let http = builder.build().map_err(|error| {
            let (at, cause) = (at.clone(), root_cause(&error));
            match tls_error(&error) {
                Some(_) => ClientError::NoAuthorities { at, cause },
                None => ClientError::Broken { at, cause },
            }
        })?;
        Ok(Self {
            http,
            base,
            token,
            at,
            socket,
            limits: LIMITS,
        })
    }

    /// Asks for JSON.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(self.request(Method::GET, path), self.limits.telling)
            .await
    }

    /// Sends a body of JSON.
    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let request = self.request(method, path).json(body);
        self.read(request, self.limits.changing).await
    }

    /// Sends a body of text.
    pub(super) async fn send_text<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        media: &'static str,
    ) -> Result<T, ClientError> {
        let request = self
            .request(method, path)
            .header(header::CONTENT_TYPE, media);
        self.read(request.body(body), self.limits.changing).await
    }

    /// Deletes; whatever the answer says is dropped.
    pub(super) async fn delete(&self, path: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, path);
        let request = request.timeout(self.limits.changing);
        self.answer(request).await.map(drop)
    }

    /// Opens a stream that ends when the daemon stops.
    pub(super) async fn stream(&self, path: &str) -> Result<Response, ClientError> {
        self.answer(self.request(Method::GET, path)).await
    }

    /// Asks and reads JSON, whatever the method.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, ClientError> {
        self.read(self.request(method, path), self.limits.changing)
            .await
    }

    /// What the daemon said, or why it broke off.
    pub(super) fn broken(&self, error: &reqwest::Error) -> ClientError {
        let at = self.at.clone();
        let cause = io_error(error);
        let kind = cause.map(io::Error::kind);
        match (kind, &self.socket) {
            (Some(io::ErrorKind::PermissionDenied), Some(socket)) => {
                ClientError::NotAllowed(socket.clone())
            }
            (Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused), _) => {
                ClientError::NotRunning { at }
            }
            _ if error.is_timeout() => ClientError::Slow { at },
            _ if let Some(refused) = tls_error(error) => match refused {
                rustls::Error::InvalidMessage(_) => ClientError::NoTls { at },
                refused => ClientError::Untrusted {
                    at,
                    cause: refused.to_string(),
                },
            },
            _ => ClientError::Broken {
                at,
                cause: root_cause(error),
            },
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, token.clone()),
            None => request,
        }
    }

    async fn read<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        within: Duration,
    ) -> Result<T, ClientError> {
        let response = self.answer(request.timeout(within)).await?;
        let status = response.status();
        let body = response
            .bytes()
            .await
            .map_err(|error| self.broken(&error))?;
        serde_json::from_slice(&body).map_err(|_| ClientError::Foreign {
            at: self.at.clone(),
            status,
        })
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response
            .bytes()
            .await
            .map_err(|error| self.broken(&error))?;
        Err(match serde_json::from_slice(&body) {
            Ok(problem) => ClientError::Refused(Box::new(problem)),
            Err(_) => ClientError::Foreign {
                at: self.at.clone(),
                status,
            },
        })
    }
}

/// A prefix or address as the end of a path.
pub(super) fn path_of(base: &str, last: &str) -> String {
    let mut path = base.to_owned();
    path.push('/');
    for byte in last.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b':' | b'-' | b'_' => {
                path.push(char::from(byte));
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

fn io_error(error: &reqwest::Error) -> Option<&io::Error> {
    causes(error).find_map(|cause| cause.downcast_ref::<io::Error>())
}

fn root_cause(error: &reqwest::Error) -> String {
    let last = causes(error).last();
    last.map_or_else(|| error.to_string(), ToString::to_string)
}

pub(super) fn causes(
    error: &reqwest::Error,
) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first: Option<&(dyn std::error::Error + 'static)> = error.source();
    std::iter::successors(first, |cause| (*cause).source())
}
