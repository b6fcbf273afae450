use std::{
    io::{self, Read as _, Write},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;
use tracing::info;
use tracing_subscriber::layer::SubscriberExt as _;

use super::{Kept, PROMPT, assert_valid};
use crate::log::{LogFormat, LogHandle, writer::QUEUE_LINES};

/// Takes nothing until it is let go.
struct Stalled {
    entered: mpsc::Sender<()>,
    go: mpsc::Receiver<()>,
    held: bool,
    kept: Kept,
}

impl Write for Stalled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.held {
            self.entered.send(()).unwrap();
            self.go.recv().unwrap();
            self.held = false;
        }
        self.kept.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stalled_output_never_blocks_and_what_is_lost_is_told() {
    let (entered, has_entered) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let kept = Kept::default();
    let stalled = Stalled {
        entered,
        go: wait,
        held: true,
        kept: kept.clone(),
    };
    let log = LogHandle::new(stalled, LogFormat::Json).unwrap();
    let subscriber = tracing_subscriber::registry().with(log.layer(LogFormat::Json));
    tracing::subscriber::with_default(subscriber, || {
        info!("first");
        has_entered.recv_timeout(PROMPT).unwrap();
        // The writer holds the first; the queue takes this many; the rest is lost.
        for number in 0..QUEUE_LINES + 3 {
            info!("line {number}");
        }
    });
    assert_eq!(log.lost(), 3);
    assert!(
        !log.flush(Duration::from_millis(50)),
        "nothing can be written"
    );
    go.send(()).unwrap();
    assert!(log.flush(PROMPT));

    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1 + QUEUE_LINES + 1);
    let told: Vec<&Value> = lines
        .iter()
        .filter(|line| line.get("packetwatch.lines_lost").is_some())
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["packetwatch.lines_lost"], 3);
    assert_valid(told[0]);
}

#[test]
fn a_closed_pipe_is_counted_and_survived() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let log = LogHandle::new(writer, LogFormat::Json).unwrap();
    let subscriber = tracing_subscriber::registry().with(log.layer(LogFormat::Json));
    tracing::subscriber::with_default(subscriber, || {
        info!("one");
        assert!(log.flush(PROMPT));
        info!("two");
        info!("three");
    });
    assert!(log.flush(PROMPT));
    assert_eq!(log.lost(), 3);
}

/// Refuses once, after part of a line, like a full disk.
struct Full {
    writes: u32,
    kept: Kept,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        match self.writes {
            1 => self.kept.write(&bytes[..10]),
            2 => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            _ => self.kept.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_cut_off_by_a_full_disk_does_not_spoil_the_next() {
    let kept = Kept::default();
    let full = Full {
        writes: 0,
        kept: kept.clone(),
    };
    let log = LogHandle::new(full, LogFormat::Json).unwrap();
    let subscriber = tracing_subscriber::registry().with(log.layer(LogFormat::Json));
    tracing::subscriber::with_default(subscriber, || {
        info!("cut off");
        assert!(log.flush(PROMPT));
        assert_eq!(log.lost(), 1);
        info!("whole");
    });
    assert!(log.flush(PROMPT));
    assert_eq!(log.lost(), 1);
    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let [_, whole, told] = text.lines().collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    assert_eq!(
        serde_json::from_str::<Value>(whole).unwrap()["message"],
        "whole"
    );
    let told: Value = serde_json::from_str(told).unwrap();
    assert_eq!(told["packetwatch.lines_lost"], 1);
}

#[test]
fn lines_come_through_a_pipe_whole_and_in_order() {
    const LINES: usize = 2000;
    let (mut reader, writer) = io::pipe().unwrap();
    let log = LogHandle::new(writer, LogFormat::Json).unwrap();
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    let subscriber = tracing_subscriber::registry().with(log.layer(LogFormat::Json));
    tracing::subscriber::with_default(subscriber, || {
        for number in 0..LINES {
            info!("{number}");
        }
    });
    assert!(log.flush(PROMPT));
    drop(log); // ends the thread, which closes the pipe
    let text = read.join().unwrap();
    let numbers = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["message"].as_str().unwrap().parse::<usize>().unwrap()
    });
    assert!(numbers.eq(0..LINES));
}
