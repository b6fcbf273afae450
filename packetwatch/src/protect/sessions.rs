//! Who is logged in, and from where.
//!
//! Three records, since no host keeps them all: utmp (gone from Debian 13), the session files of
//! systemd-logind, and SSH_CONNECTION of the shell that started the daemon. All are written after
//! the login succeeded; an open TCP connection alone protects nobody.

use std::{
    env,
    fs::{self, File},
    io::{self, Read as _},
    net::IpAddr,
    path::{Path, PathBuf},
};

use tracing::debug;

/// A file larger than this is read up to here. utmp has 400 bytes a session.
const FILE_MAX: u64 = 1024 * 1024;

/// Session files that are looked at. logind admits 8192 sessions unless told otherwise.
const SESSIONS_MAX: usize = 8192;

/// Ancestors that are asked for SSH_CONNECTION: sudo, make and a few shells.
const ANCESTORS_MAX: usize = 16;

/// Where sessions are looked up.
#[derive(Clone, Debug)]
pub struct Sessions {
    utmp: Option<PathBuf>,
    logind: Option<PathBuf>,
    starting_shell: Option<IpAddr>,
}

impl Sessions {
    /// Of this host. `starting_shell` is what [`starting_shell`] gave at start.
    pub fn of_host(starting_shell: Option<IpAddr>) -> Self {
        Self {
            utmp: Some("/run/utmp".into()),
            logind: Some("/run/systemd/sessions".into()),
            starting_shell,
        }
    }

    /// No session is ever found.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self {
            utmp: None,
            logind: None,
            starting_shell: None,
        }
    }

    /// Remote addresses of the sessions there are now, with the reason. A record that cannot be
    /// read has no sessions: none of the three is on every host.
    pub fn current(&self) -> Vec<(IpAddr, String)> {
        let mut found = Vec::new();
        if let Some(address) = self.starting_shell {
            found.push((address, "SSH connection that started the daemon".to_owned()));
        }
        if let Some(path) = &self.utmp {
            match read_bounded(path) {
                Ok(records) => found.extend(of_utmp(&records)),
                Err(error) => debug!("sessions in {}: {error}", path.display()),
            }
        }
        if let Some(directory) = &self.logind {
            match of_logind(directory) {
                Ok(sessions) => found.extend(sessions),
                Err(error) => debug!("sessions in {}: {error}", directory.display()),
            }
        }
        found
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn reason(user: &str) -> String {
    if user.is_empty() {
        "logged-in user".to_owned()
    } else {
        format!("logged-in user {user}")
    }
}

/// Read here and not by getutxent(3), whose position is one for the whole process and which musl
/// leaves empty.
fn of_utmp(records: &[u8]) -> Vec<(IpAddr, String)> {
    records
        .chunks_exact(size_of::<libc::utmpx>())
        .filter_map(|record| {
            // SAFETY: the slice has the size of a utmpx, every field of which is an integer or an
            // array of integers, so that any bytes are a value; read_unaligned asks no alignment.
            let record = unsafe { record.as_ptr().cast::<libc::utmpx>().read_unaligned() };
            of_record(&record)
        })
        .collect()
}

fn of_record(record: &libc::utmpx) -> Option<(IpAddr, String)> {
    if record.ut_type != libc::USER_PROCESS {
        return None;
    }
    // A session that ended without a word, by a crash, leaves its record.
    if !Path::new("/proc").join(record.ut_pid.to_string()).exists() {
        return None;
    }
    // The host first: ut_addr_v6 cannot tell 2001:db8:: from an IPv4 address.
    let address = parse_address(&text(&record.ut_host))
        .or_else(|| address_of_words(record.ut_addr_v6.map(|word| word as u32)))?;
    Some((address, reason(&text(&record.ut_user))))
}

/// Words in network order; IPv4 in the first alone.
fn address_of_words(words: [u32; 4]) -> Option<IpAddr> {
    match words {
        [0, 0, 0, 0] => None,
        [v4, 0, 0, 0] => Some(IpAddr::from(v4.to_ne_bytes())),
        words => {
            let mut octets = [0; 16];
            for (to, word) in octets.chunks_exact_mut(4).zip(words) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
            Some(IpAddr::from(octets))
        }
    }
}

/// Up to the first zero; utmp fills the field when the name is long.
fn text(field: &[libc::c_char]) -> String {
    let bytes: Vec<u8> = field
        .iter()
        .map(|c| *c as u8)
        .take_while(|byte| *byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn of_logind(directory: &Path) -> io::Result<Vec<(IpAddr, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)?.take(SESSIONS_MAX) {
        let entry = entry?;
        // Beside the session's file is a FIFO, whose opening would wait for a writer.
        if !entry.file_type()?.is_file() {
            continue;
        }
        // The session may have ended since the directory was read.
        if let Ok(session) = read_bounded(&entry.path()) {
            found.extend(of_session(&String::from_utf8_lossy(&session)));
        }
    }
    Ok(found)
}

/// The file is private to logind, and sd-login(3), which is not, reads the same keys from it.
fn of_session(session: &str) -> Option<(IpAddr, String)> {
    let value = |key: &str| {
        session
            .lines()
            .filter_map(|line| line.split_once('='))
            .find_map(|(name, value)| (name == key).then_some(value))
    };
    // A closing session has logged out; something it started is still running.
    if value("STATE") == Some("closing") {
        return None;
    }
    let address = parse_address(value("REMOTE_HOST")?)?;
    Some((address, reason(value("USER").unwrap_or_default())))
}

/// Without the zone of a link-local address. A host name is nobody's address: asking DNS would let
/// its owner choose what is protected.
fn parse_address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.split('%').next()?.parse().ok()?;
    Some(address.to_canonical())
}

/// The client of the SSH connection that this process was started over, if it was. sudo does not
/// pass SSH_CONNECTION on, so the ancestors are asked too, as far as they may be read.
pub fn starting_shell() -> Option<IpAddr> {
    const NAME: &str = "SSH_CONNECTION";
    if let Ok(connection) = env::var(NAME) {
        return client_of(&connection);
    }
    let mut pid = std::os::unix::process::parent_id();
    for _ in 0..ANCESTORS_MAX {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let environment = read_bounded(&process.join("environ")).ok()?;
        if let Some(connection) = variable(&environment, NAME) {
            return client_of(connection);
        }
        pid = parent_of(&fs::read_to_string(process.join("stat")).ok()?)?;
    }
    None
}

/// `CLIENT-ADDRESS CLIENT-PORT SERVER-ADDRESS SERVER-PORT`
fn client_of(connection: &str) -> Option<IpAddr> {
    parse_address(connection.split(' ').next()?)
}

fn variable<'a>(environment: &'a [u8], name: &str) -> Option<&'a str> {
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        std::str::from_utf8(value).ok()
    })
}

/// The fourth field of /proc/PID/stat. The second is a name in brackets, which may hold anything.
fn parent_of(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let parent = after_name.split(' ').nth(1)?.parse().ok()?;
    (parent != 0).then_some(parent)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn record(user: &str, host: &str, words: [u32; 4], pid: u32) -> libc::utmpx {
        // SAFETY: all fields are integers or arrays of integers, for which zero is a value.
        let mut record: libc::utmpx = unsafe { std::mem::zeroed() };
        record.ut_type = libc::USER_PROCESS;
        record.ut_pid = pid as libc::pid_t;
        for (to, byte) in record.ut_user.iter_mut().zip(user.bytes()) {
            *to = byte as libc::c_char;
        }
        for (to, byte) in record.ut_host.iter_mut().zip(host.bytes()) {
            *to = byte as libc::c_char;
        }
        record.ut_addr_v6 = words.map(|word| word as i32);
        record
    }

    fn bytes(record: &libc::utmpx) -> &[u8] {
        let start = std::ptr::from_ref(record).cast::<u8>();
        // SAFETY: the record was zeroed as a whole, its padding included.
        unsafe { std::slice::from_raw_parts(start, size_of::<libc::utmpx>()) }
    }

    fn v4(octets: [u8; 4]) -> [u32; 4] {
        [u32::from_ne_bytes(octets), 0, 0, 0]
    }

    fn pair(address: &str, reason: &str) -> (IpAddr, String) {
        (address.parse().unwrap(), reason.to_owned())
    }

    #[test]
    fn utmp_tells_remote_users_of_both_families() {
        let own = std::process::id();
        let words = [0x2001_0db8u32, 0, 0, 7].map(u32::to_be);
        let mut boot = record("reboot", "", v4([198, 51, 100, 1]), own);
        boot.ut_type = libc::BOOT_TIME;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for record in [
            boot,
            record("alice", "198.51.100.7", v4([198, 51, 100, 7]), own),
            record("bob", "host.example", words, own),
            record("carol", "2001:db8::", words.map(|_| 0), own),
            record("mapped", "::ffff:192.0.2.1", [0; 4], own),
            record("console", "", [0; 4], own),
            record("x11", ":0", [0; 4], own),
            // longer than the field, and a process that cannot be
            record(&"n".repeat(40), "192.0.2.2", [0; 4], own),
            record("crashed", "192.0.2.3", [0; 4], i32::MAX as u32),
        ] {
            file.write_all(bytes(&record)).unwrap();
        }
        file.write_all(b"a torn record").unwrap();
        let sessions = Sessions {
            utmp: Some(file.path().into()),
            ..Sessions::none()
        };
        let expected = [
            pair("198.51.100.7", "logged-in user alice"),
            pair("2001:db8::7", "logged-in user bob"),
            pair("2001:db8::", "logged-in user carol"),
            pair("192.0.2.1", "logged-in user mapped"),
            pair("192.0.2.2", &format!("logged-in user {}", "n".repeat(32))),
        ];
        assert_eq!(sessions.current(), expected);
    }

    #[test]
    fn logind_tells_remote_sessions_that_are_not_closing() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write(
            "1",
            "# This is private data. Do not parse.\nUID=1000\nUSER=alice\nACTIVE=1\n\
             STATE=active\nREMOTE=1\nREMOTE_HOST=198.51.100.7\nSERVICE=sshd\n",
        );
        write(
            "2",
            "USER=bob\nSTATE=online\nREMOTE=1\nREMOTE_HOST=fe80::1%eth0\n",
        );
        write(
            "3",
            "USER=carol\nSTATE=closing\nREMOTE=1\nREMOTE_HOST=192.0.2.1\n",
        );
        write("4", "USER=dave\nSTATE=active\nREMOTE=0\n");
        write(
            "5",
            "USER=erin\nSTATE=active\nREMOTE=1\nREMOTE_HOST=host.example\n",
        );
        let fifo = directory.path().join("1.ref");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let sessions = Sessions {
            logind: Some(directory.path().into()),
            ..Sessions::none()
        };
        let mut found = sessions.current();
        found.sort();
        let expected = [
            pair("198.51.100.7", "logged-in user alice"),
            pair("fe80::1", "logged-in user bob"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_host_without_records_has_no_sessions() {
        let sessions = Sessions {
            utmp: Some("/nonexistent/utmp".into()),
            logind: Some("/nonexistent/sessions".into()),
            starting_shell: client_of("192.0.2.7 1 192.0.2.1 22"),
        };
        let expected = [pair("192.0.2.7", "SSH connection that started the daemon")];
        assert_eq!(sessions.current(), expected);
    }

    #[test]
    fn the_client_of_an_ssh_connection_is_its_first_word() {
        let client = |connection| client_of(connection).map(|address| address.to_string());
        assert_eq!(
            client("198.51.100.7 50000 192.0.2.1 22").unwrap(),
            "198.51.100.7"
        );
        assert_eq!(
            client("2001:db8::7 50000 2001:db8::1 22").unwrap(),
            "2001:db8::7"
        );
        assert_eq!(
            client("fe80::7%eth0 50000 fe80::1%eth0 22").unwrap(),
            "fe80::7"
        );
        assert_eq!(
            client("::ffff:192.0.2.7 1 ::ffff:192.0.2.1 22").unwrap(),
            "192.0.2.7"
        );
        assert_eq!(client(""), None);
        assert_eq!(client("UNKNOWN 65535 UNKNOWN 65535"), None);
    }

    #[test]
    fn ancestors_are_followed_whatever_they_are_called() {
        assert_eq!(parent_of("12 (a) b) S 11 12 12 0"), Some(11));
        assert_eq!(parent_of("1 (init) S 0 1 1 0"), None);
        assert_eq!(parent_of(""), None);
        let environment = b"A=1\0NOT_SSH_CONNECTION=x\0SSH_CONNECTION=192.0.2.7 1 192.0.2.1 22\0";
        let connection = variable(environment, "SSH_CONNECTION").unwrap();
        assert_eq!(client_of(connection), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(variable(b"A=1\0", "SSH_CONNECTION"), None);
    }
}
