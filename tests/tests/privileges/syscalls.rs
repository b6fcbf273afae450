//! The filter on system calls, tried call by call in a process of its own.

use std::{collections::BTreeMap, process::Command};

/// What the kernel answers to each attempt: 0 or an errno.
fn tried(argument: &str) -> BTreeMap<String, i32> {
    let output = Command::new(env!("CARGO_BIN_EXE_confined"))
        .arg(argument)
        .output()
        .expect("run it");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("it prints text");
    let pairs = text.lines().map(|line| {
        let (name, errno) = line.split_once(' ').expect("a name and a number");
        (name.to_owned(), errno.parse().expect("a number"))
    });
    pairs.collect()
}

#[test]
#[ignore = "needs root: without its rights the kernel refuses these calls by itself"]
fn a_confined_process_is_refused_every_call_that_it_does_without() {
    let free = tried("free");
    let confined = tried("confined");
    assert!(free.len() > 45, "{free:?}");
    assert_eq!(
        free.keys().collect::<Vec<_>>(),
        confined.keys().collect::<Vec<_>>()
    );
    for (name, errno) in &confined {
        let without = free[name];
        if name.starts_with("needed-") {
            assert_eq!((*errno, without), (0, 0), "{name}");
            continue;
        }
        // It is the filter that refuses, and not the kernel behind it.
        assert_ne!(without, libc::EPERM, "{name} is refused without a filter");
        // glibc then makes threads by `clone`, whose flags can be judged.
        let expected = match name.as_str() {
            "clone3" => libc::ENOSYS,
            _ => libc::EPERM,
        };
        assert_eq!(*errno, expected, "{name}");
    }
}
