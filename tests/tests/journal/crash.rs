//! A process that is killed at any moment has on disk whatever it acknowledged.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use packetwatch_tests::environment::number;

use crate::model::{State, Stored};

const ROUNDS: &str = "CRASH_ROUNDS";
const STATE_DIR: &str = "JOURNAL_CRASH_STATE_DIR";
const FIRST: &str = "JOURNAL_CRASH_FIRST";

#[test]
#[ignore = "the writer that acknowledged_writes_survive_a_kill starts, and kills"]
fn writer() {
    let (Ok(dir), Ok(first)) = (env::var(STATE_DIR), env::var(FIRST)) else {
        return;
    };
    let stored = Stored::open(Path::new(&dir));
    // Bounded in case that nobody kills it.
    let first: u64 = first.parse().unwrap();
    for n in first..first + 20_000 {
        stored.write(n);
        // Not print!, which the test harness would keep to itself.
        writeln!(std::io::stdout(), "\nacknowledged {n}").unwrap();
    }
}

/// Runs a writer from the `first` write on and kills it; returns the write after the last one that
/// it acknowledged.
fn killed(dir: &Path, first: u64, after: Duration) -> u64 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::writer", "--ignored", "--nocapture"])
        .env(STATE_DIR, dir)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acknowledged = |line: &String| line.strip_prefix("acknowledged ")?.parse::<u64>().ok();
    let begun = lines.find_map(|line| acknowledged(&line.unwrap()));
    assert!(begun.is_some(), "the writer ended before its first write");
    thread::sleep(after);
    child.kill().unwrap();
    let last = lines
        .map_while(Result::ok)
        .filter_map(|line| acknowledged(&line))
        .last();
    assert!(!child.wait().unwrap().success(), "the writer was killed");
    last.or(begun).unwrap() + 1
}

#[test]
fn acknowledged_writes_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (mut next, mut in_flight) = (0, 0);
    let rounds = number(ROUNDS).unwrap_or(30);
    for round in 0..rounds {
        let after = Duration::from_micros(round * 7_919 % 40_000);
        let acknowledged = killed(dir.path(), next, after);
        let state = Stored::open(dir.path()).state();
        // The write under way when the kill came is there in full or not at all.
        let kept = [acknowledged, acknowledged + 1]
            .into_iter()
            .find(|next| state.is_as_of(*next));
        next = kept.unwrap_or_else(|| {
            let expected = State::after(acknowledged);
            panic!("round {round}: {state:#?} is not as after write {acknowledged}: {expected:#?}")
        });
        in_flight += next - acknowledged;
    }
    println!("{rounds} crashes, {next} writes, {in_flight} of them not acknowledged and there");
}
