use nix::{sys::stat::Mode, unistd::mkfifo};
use rcgen::{CertifiedKey as Made, generate_simple_self_signed};

use super::*;

struct Pair {
    directory: tempfile::TempDir,
    made: Made<rcgen::KeyPair>,
}

impl Pair {
    fn new() -> Self {
        let made = generate_simple_self_signed(["host.example".to_owned()]).unwrap();
        let pair = Self {
            directory: tempfile::tempdir().unwrap(),
            made,
        };
        pair.write(
            &pair.made.cert.pem(),
            &pair.made.signing_key.serialize_pem(),
        );
        pair
    }

    fn files(&self) -> TlsFiles {
        TlsFiles {
            cert: self.directory.path().join("cert.pem"),
            key: self.directory.path().join("key.pem"),
        }
    }

    fn write(&self, cert: &str, key: &str) {
        fs::write(self.files().cert, cert).unwrap();
        fs::write(self.files().key, key).unwrap();
    }
}

fn shown(certificate: &Certificate) -> Vec<CertificateDer<'static>> {
    certificate.0.shown.read().unwrap().cert.clone()
}

#[test]
fn a_changed_pair_is_taken_and_a_bad_one_is_not() {
    let (pair, next) = (Pair::new(), Pair::new());
    let certificate = Certificate::open(pair.files()).unwrap();
    let first = shown(&certificate);
    let (cert, key) = (next.made.cert.pem(), next.made.signing_key.serialize_pem());
    for (bad_cert, bad_key) in [
        ("", key.as_str()),
        (&cert, ""),
        (&cert[..cert.len() / 2], &key),
        // Half of a change: the other file is still the old one.
        (&cert, &pair.made.signing_key.serialize_pem()),
        (&key, &cert),
    ] {
        pair.write(bad_cert, bad_key);
        certificate.look();
        assert_eq!(shown(&certificate), first, "{bad_cert}{bad_key}");
    }
    fs::remove_file(pair.files().key).unwrap();
    certificate.look();
    assert_eq!(shown(&certificate), first);
    pair.write(&cert, &key);
    certificate.look();
    assert_eq!(shown(&certificate), vec![next.made.cert.der().clone()]);
}

#[test]
fn what_is_wrong_is_said_with_its_file() {
    let (pair, other) = (Pair::new(), Pair::new());
    let files = pair.files();
    let refused = |words: &str, path: &Path| {
        let error = Certificate::open(files.clone()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(!error.contains("BEGIN PRIVATE"), "{error}");
    };
    pair.write(
        &pair.made.cert.pem(),
        &other.made.signing_key.serialize_pem(),
    );
    refused("is not that of the certificate", &files.key);
    pair.write(&pair.made.cert.pem(), "no key");
    refused("not in PEM", &files.key);
    pair.write("no certificate", "");
    refused("not in PEM", &files.cert);
    fs::write(&files.cert, vec![b'x'; MAX_FILE as usize + 1]).unwrap();
    refused("longer than 1 MiB", &files.cert);
    fs::remove_file(&files.cert).unwrap();
    mkfifo(&files.cert, Mode::S_IRUSR).unwrap();
    refused("a pipe", &files.cert);
    fs::remove_file(&files.cert).unwrap();
    refused("cannot read the certificate", &files.cert);
}
