//! The targets on stable Rust: the kept inputs, then changes to them.
//!
//! `FUZZ_SEED=N` replays a run and `FUZZ_CASES=N` sets its length. A failure is made as small as it
//! gets, and printed.

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{RngSeed, TestError, TestRunner},
};

use super::TARGETS;

/// Of each target: together some seconds in a debug build.
const CASES: u32 = 4_000;
const MAX_EDITS: usize = 6;

/// What a change may put in: marks of TOML and JSON, and values at and beyond bounds.
const PIECES: &str = include_str!("../../../fuzz/pieces.dict");

/// A change to a kept input.
#[derive(Clone, Debug)]
enum Edit {
    Flip(Index, u8),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    /// A part of another kept input.
    Splice(Index, Index, usize),
    /// A part of itself, once more.
    Repeat(Index, usize),
}

fn any_edit(pieces: Vec<Vec<u8>>) -> impl Strategy<Value = Edit> {
    let place = any::<Index>;
    prop_oneof![
        2 => (place(), 1..=u8::MAX).prop_map(|(at, bits)| Edit::Flip(at, bits)),
        2 => (place(), 1..40_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        5 => (place(), select(pieces)).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        3 => (place(), place(), 1..200_usize).prop_map(|(at, from, length)| Edit::Splice(at, from, length)),
        1 => (place(), 1..200_usize).prop_map(|(at, length)| Edit::Repeat(at, length)),
    ]
}

impl Edit {
    fn apply(&self, input: &mut Vec<u8>, other: &[u8]) {
        // Behind the last byte is a place too.
        let place = |at: &Index, input: &[u8]| at.index(input.len() + 1);
        let part = |from: usize, length: usize, of: &[u8]| -> Vec<u8> {
            of[from..of.len().min(from + length)].to_vec()
        };
        match self {
            Self::Flip(at, bits) => {
                let at = place(at, input);
                input
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte ^= bits);
            }
            Self::Remove(at, length) => {
                let at = place(at, input);
                input.drain(at..input.len().min(at + length));
            }
            Self::Insert(at, piece) => {
                let at = place(at, input);
                input.splice(at..at, piece.iter().copied());
            }
            Self::Splice(at, from, length) => {
                let (at, from) = (place(at, input), place(from, other));
                input.splice(at..at, part(from, *length, other));
            }
            Self::Repeat(at, length) => {
                let at = place(at, input);
                input.splice(at..at, part(at, *length, input));
            }
        }
    }
}

/// The pieces of a dictionary as libFuzzer reads it: one in quotes a line.
fn pieces(dictionary: &str) -> Vec<Vec<u8>> {
    let lines = dictionary.lines().filter(|line| !line.starts_with('#'));
    let quoted = lines.filter(|line| !line.is_empty()).map(|line| {
        let piece = line
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        piece.unwrap_or_else(|| panic!("not in quotes: {line}"))
    });
    let unescaped = quoted.map(|piece| {
        let lines = piece.replace("\\x0A", "\n");
        lines.replace("\\\"", "\"").replace("\\\\", "\\")
    });
    unescaped.map(String::into_bytes).collect()
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let files = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    // In one order, whatever the file system's: a seed means the same everywhere.
    paths.sort();
    let read = |path: PathBuf| {
        let input = fs::read(&path).unwrap();
        (path, input)
    };
    paths.into_iter().map(read).collect()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

#[test]
fn every_kept_input_is_read_or_refused_well() {
    for (target, check) in TARGETS {
        let kept = corpus(target);
        assert!(
            kept.len() >= 10,
            "{target}: few inputs are kept: {}",
            kept.len()
        );
        for (path, input) in kept {
            if catch_unwind(|| check(&input)).is_err() {
                panic!("see above: {}", path.display());
            }
        }
    }
}

#[test]
fn changed_inputs_are_read_or_refused_well() {
    let seed = number("FUZZ_SEED").unwrap_or_else(rand_seed);
    let cases = number("FUZZ_CASES").map_or(CASES, |cases| cases.try_into().unwrap_or(u32::MAX));
    println!("FUZZ_SEED={seed} FUZZ_CASES={cases}");
    for (target, check) in TARGETS {
        let kept: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, input)| input).collect();
        let one = select(kept.clone());
        let edits = vec((any_edit(pieces(PIECES)), select(kept)), 1..=MAX_EDITS);
        let changed = (one, edits).prop_map(|(mut input, edits)| {
            for (edit, other) in edits {
                edit.apply(&mut input, &other);
            }
            Shown(input)
        });
        let mut runner = TestRunner::new(ProptestConfig {
            cases,
            rng_seed: RngSeed::Fixed(seed),
            failure_persistence: None,
            // Each step of it prints its panic.
            max_shrink_iters: 500,
            ..ProptestConfig::default()
        });
        let ran = runner.run(&changed, |Shown(input)| {
            check(&input);
            Ok(())
        });
        if let Err(error) = ran {
            let (what, input) = match error {
                TestError::Fail(what, input) => (what, Some(input)),
                TestError::Abort(what) => (what, None),
            };
            panic!("{target}, FUZZ_SEED={seed}: {what}: {input:?}");
        }
    }
}

fn rand_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_nanos() as u64)
}

/// Bytes that are mostly text.
#[derive(Clone)]
struct Shown(Vec<u8>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}
