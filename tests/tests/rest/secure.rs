//! A daemon whose API another host asks over TLS, and the authority that both trust.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use packetwatch_tests::daemon::binary;
use packetwatch_tests::http::{Request, Response};
use packetwatch_tests::{Daemon, Family, Lan, Netns, connect};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::stage::PROMPT;

pub(crate) const PORT: u16 = 7300;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// For a connection that is let in, or dropped.
pub(crate) const ATTEMPT: Duration = Duration::from_millis(500);

/// An authority and the files of a daemon.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    files: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("make a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let signed = params.self_signed(&key).expect("sign it");
        let files = TempDir::new().expect("a directory");
        fs::write(files.path().join("ca.pem"), signed.pem()).expect("write the authority");
        Self {
            certificate: signed.der().clone(),
            issuer: Issuer::new(params, key),
            files,
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    /// A certificate for these names and its key, in PEM.
    pub(crate) fn sign(&self, names: &[&str]) -> (String, String) {
        self.sign_until(names, OffsetDateTime::now_utc() + 365 * DAY)
    }

    pub(crate) fn sign_until(&self, names: &[&str], end: OffsetDateTime) -> (String, String) {
        let key = KeyPair::generate().expect("make a key");
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_after = end;
        let signed = params.signed_by(&key, &self.issuer).expect("sign it");
        (signed.pem(), key.serialize_pem())
    }

    pub(crate) fn write(&self, (cert, key): &(String, String)) {
        fs::write(self.path("key.pem"), key).expect("write the key");
        fs::write(self.path("cert.pem"), cert).expect("write the certificate");
    }

    pub(crate) fn tables(&self) -> String {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!("[api.tls]\ncert = {cert:?}\nkey = {key:?}\n")
    }
}

/// A daemon that the client of its link can reach.
pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) authority: Authority,
    pub(crate) address: SocketAddr,
    pub(crate) lan: Lan,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    pub(crate) fn with(tables: &str) -> Self {
        let (lan, authority) = (Lan::new(), Authority::new());
        let host = lan.segment().host(Family::V4);
        authority.write(&authority.sign(&[&host.to_string()]));
        let daemon = Daemon::builder(&lan.host)
            .interface(&lan.segment().interface)
            .rules_toml("")
            .listen(SocketAddr::from(([0, 0, 0, 0], PORT)))
            .config_toml(&(authority.tables() + tables))
            .start();
        let address = SocketAddr::new(host, PORT);
        Self {
            daemon,
            authority,
            address,
            lan,
        }
    }

    pub(crate) fn client(&self) -> &Netns {
        &self.lan.segment().client
    }

    pub(crate) fn connect(&self) -> TcpStream {
        self.connect_from(None)
    }

    fn connect_from(&self, source: Option<IpAddr>) -> TcpStream {
        let stream = connect(self.client(), source, self.address, PROMPT).expect("connect");
        stream.set_read_timeout(Some(PROMPT)).expect("set a limit");
        stream
    }

    /// A connection after the handshake, and the certificate it was shown.
    pub(crate) fn secure(
        &self,
    ) -> (
        StreamOwned<ClientConnection, TcpStream>,
        CertificateDer<'static>,
    ) {
        self.secure_from(None)
    }

    fn secure_from(
        &self,
        source: Option<IpAddr>,
    ) -> (
        StreamOwned<ClientConnection, TcpStream>,
        CertificateDer<'static>,
    ) {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.authority.certificate.clone())
            .expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::from(self.address.ip());
        let mut connection = ClientConnection::new(Arc::new(config), name).expect("a name");
        let mut stream = self.connect_from(source);
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).expect("shake hands");
        }
        let shown = connection.peer_certificates().expect("it shows one")[0].clone();
        (StreamOwned::new(connection, stream), shown.into_owned())
    }

    /// Asks from the other host, or from that address of it, with the first token.
    pub(crate) fn ask(&self, source: Option<IpAddr>, method: &str, path: &str) -> Response {
        let token = fs::read_to_string(self.daemon.state_dir().join("token")).expect("a token");
        let bearer = format!("Bearer {}", token.trim());
        let request = Request {
            headers: vec![("Authorization", &bearer)],
            ..Request::new(method, path)
        };
        let answer = request.exchange(self.secure_from(source).0);
        answer.expect("an answer")
    }

    /// Whether the other host's calls get through.
    pub(crate) fn reaches(&self) -> bool {
        connect(self.client(), None, self.address, ATTEMPT).is_ok()
    }

    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = self.client().command(binary());
        command.args(arguments).output().expect("run the binary")
    }
}
