//! Whom calls with a token came from, on disk: a restart does not cut off those whom it finds at work.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, serde::rfc3339};

use super::{
    file::{MODE, versioned},
    seen::{Ends, SEEN_FOR},
};
use crate::{
    clock::{Clock, Mark},
    durable,
    state_file::{self, Unread},
};

/// The file, beside the tokens.
pub(super) const FILE: &str = "peers.json";
/// 256 peers with the longest addresses take half of it.
const MAX_FILE: u64 = 128 * 1024;
const VERSION: u64 = 1;
const ASIDE: &str = "whoever called over TCP with a token before this start is protected again from its \
     next call on, and cut off until then where a deny or ban covers it";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u64,
    peers: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    address: IpAddr,
    /// the id
    token: String,
    /// [`SEEN_FOR`] after the last call
    #[serde(with = "rfc3339")]
    until: OffsetDateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<Mark>,
}

/// What the disk has of them.
pub(super) struct Kept {
    path: PathBuf,
    written: Mutex<Ends>,
}

impl Kept {
    /// None where the file is damaged, which is set aside, or of no use: nobody is kept from starting
    /// by what the next calls tell anew.
    pub(super) fn open(directory: &Path, clock: Clock) -> Self {
        let path = directory.join(FILE);
        let ends = read(&path, clock).unwrap_or_else(|unread| {
            let cause = match unread {
                Unread::Damaged(cause) => match state_file::set_aside(&path, None, &cause, ASIDE) {
                    Ok(()) => return Ends::new(),
                    Err(error) => format!("{cause}, and cannot be set aside: {error}"),
                },
                Unread::Newer(version) => format!("version {version} is newer than {VERSION}"),
                Unread::Io(error) => error.to_string(),
            };
            tracing::warn!(error.message = %cause, "{} is not read: {ASIDE}", path.display());
            Ends::new()
        });
        Self {
            path,
            written: Mutex::new(ends),
        }
    }

    pub(super) fn read(&self) -> Ends {
        self.written().clone()
    }

    /// Writes these, if the disk has others, or one's end by more than `slack` too early.
    pub(super) fn write(&self, ends: Ends, slack: Duration, clock: Clock) -> io::Result<()> {
        let mut written = self.written();
        let slack = slack.as_nanos() as u64;
        let is_kept = |pair, end: &u64| {
            let written: Option<&u64> = written.get(pair);
            written.is_some_and(|written| end.saturating_sub(*written) <= slack)
        };
        if ends.len() == written.len() && ends.iter().all(|(pair, end)| is_kept(pair, end)) {
            return Ok(());
        }
        let record = |((address, token), end): (&(IpAddr, String), &u64)| {
            Some(Record {
                address: *address,
                token: token.clone(),
                until: clock.utc_of(*end)?,
                mark: clock.mark(*end),
            })
        };
        let contents = Contents {
            version: VERSION,
            peers: ends.iter().filter_map(record).collect(),
        };
        let bytes = serde_json::to_vec(&contents).map_err(io::Error::other)?;
        durable::replace(&self.path, &bytes, MODE)?;
        *written = ends;
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn written(&self) -> std::sync::MutexGuard<'_, Ends> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path, clock: Clock) -> Result<Ends, Unread> {
    let Some(file) = state_file::open(path)? else {
        return Ok(Ends::new());
    };
    let text = state_file::text(file, MAX_FILE)?;
    let contents: Contents = versioned(&text, VERSION)?;
    // Whatever the disk says, nobody counts for longer than after a call just now.
    let latest = clock.monotonic_ns() + SEEN_FOR.as_nanos() as u64;
    let end = |Record {
                   address,
                   token,
                   until,
                   mark,
               }| {
        let end = clock.restored(until - SEEN_FOR, until, mark).min(latest);
        ((address, token), end)
    };
    Ok(contents
        .peers
        .into_iter()
        .map(end)
        .collect::<HashMap<_, _>>())
}

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv6Addr};

    use super::{super::seen::MAX_SEEN, *};

    const HOUR: u64 = SEEN_FOR.as_nanos() as u64;
    const MINUTE: Duration = Duration::from_secs(60);

    fn one(end: u64) -> Ends {
        Ends::from([(([198, 51, 100, 7].into(), "5b1c09de".to_owned()), end)])
    }

    /// Seconds that the one is still a peer for.
    fn left(directory: &Path, clock: Clock) -> u64 {
        let ends = Kept::open(directory, clock).read();
        let end = ends.values().next().copied().unwrap_or(0);
        end.saturating_sub(clock.monotonic_ns()) / 1_000_000_000
    }

    #[test]
    fn a_peer_stays_one_for_what_was_left_whatever_the_wall_clock_says() {
        const YEAR: time::Duration = time::Duration::days(365);
        for step in [time::Duration::ZERO, time::Duration::HOUR, YEAR, -YEAR] {
            let dir = tempfile::tempdir().unwrap();
            let clock = Clock::movable();
            let kept = Kept::open(dir.path(), clock);
            let ends = one(clock.monotonic_ns() + HOUR);
            kept.write(ends, Duration::ZERO, clock).unwrap();
            clock.step(step);
            clock.advance(10 * MINUTE);
            assert!((2999..=3000).contains(&left(dir.path(), clock)), "{step}");
            // After a reboot there is the wall clock alone, and nobody is one for longer than an hour.
            let rebooted = clock.restarted(0);
            let expected = match step {
                step if step.is_zero() => 2998..=3000,
                step if step.is_positive() => 0..=0,
                _ => 3598..=3600,
            };
            let left = left(dir.path(), rebooted);
            assert!(expected.contains(&left), "{step}: {left}");
        }
    }

    #[test]
    fn nothing_that_the_disk_says_protects_for_longer_than_an_hour() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::movable());
        let kept = Kept::open(dir.path(), clock);
        let ends = one(clock.monotonic_ns() + 24 * HOUR);
        kept.write(ends, Duration::ZERO, clock).unwrap();
        assert!((3599..=3600).contains(&left(dir.path(), clock)));
    }

    #[test]
    fn it_is_written_for_who_comes_and_goes_and_seldom_for_who_stays() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::movable());
        let (kept, path) = (Kept::open(dir.path(), clock), dir.path().join(FILE));
        let writes = |ends, slack| {
            let _ = fs::remove_file(&path);
            kept.write(ends, slack, clock).unwrap();
            path.exists()
        };
        let end = clock.monotonic_ns();
        let minute = MINUTE.as_nanos() as u64;
        assert!(!writes(Ends::new(), MINUTE), "there is nobody to tell of");
        assert!(writes(one(end), MINUTE));
        assert!(!writes(one(end + minute), MINUTE));
        assert!(writes(one(end + minute), Duration::ZERO), "at the end");
        assert!(writes(one(end + 2 * minute + 1), MINUTE));
        assert!(writes(Ends::new(), MINUTE));
    }

    #[test]
    fn as_many_as_are_remembered_have_room() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
        let longest = |n: usize| {
            let address = Ipv6Addr::from_bits(u128::MAX - n as u128);
            let end = clock.monotonic_ns() + HOUR - 1;
            ((address.into(), "5b1c09de".to_owned()), end)
        };
        let ends: Ends = (0..MAX_SEEN).map(longest).collect();
        let kept = Kept::open(dir.path(), clock);
        kept.write(ends, Duration::ZERO, clock).unwrap();
        let length = fs::metadata(dir.path().join(FILE)).unwrap().len();
        assert!(length <= MAX_FILE / 2, "{length}");
        assert_eq!(Kept::open(dir.path(), clock).read().len(), MAX_SEEN);
    }

    #[test]
    fn what_cannot_be_understood_is_set_aside_and_what_cannot_be_read_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let files = || fs::read_dir(dir.path()).unwrap().count();
        for (aside, damaged) in ["", "{}", r#"{"version":1,"peers":[{}]}"#]
            .iter()
            .enumerate()
        {
            fs::write(&path, damaged).unwrap();
            assert!(Kept::open(dir.path(), Clock::new()).read().is_empty());
            assert!(!path.exists(), "{damaged}");
            assert_eq!(files(), aside + 1);
        }
        fs::write(&path, r#"{"version":2,"more":true}"#).unwrap();
        assert!(Kept::open(dir.path(), Clock::new()).read().is_empty());
        assert!(path.exists(), "a newer build's is none of ours");
    }
}
