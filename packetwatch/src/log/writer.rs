//! The thread that writes lines, and the bounded queue before it.
//!
//! Nobody who logs ever waits: what the queue cannot take, and what the output refuses, is counted.
//! Once lines get through again, one of them says how many did not.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tracing::Level;

use super::{LogFormat, line::Line};

/// Lines that wait. At the default budget of 1000 calls a second, eight seconds of a stalled
/// consumer; a call's line is about half a KiB, so 4 MiB, and 128 MiB at the very worst.
pub(super) const QUEUE_LINES: usize = 8192;

/// Bytes handed to the output at once: the size of a Linux pipe.
const BATCH: usize = 64 * 1024;

/// How often a line about lost lines may come.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Standard output is non-blocking if another holder of the terminal or pipe made it so.
const RETRY: Duration = Duration::from_millis(10);

enum Order {
    Line(Arc<str>),
    /// answered when all before it is written
    Flush(SyncSender<()>),
}

/// The way in. Cheap to clone.
#[derive(Clone)]
pub(super) struct Queue {
    orders: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

impl Queue {
    /// `line` has no newline.
    pub(super) fn push(&self, line: Arc<str>) {
        if self.orders.try_send(Order::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let (done, flushed) = mpsc::sync_channel(1);
        let mut order = Order::Flush(done);
        loop {
            match self.orders.try_send(order) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    order = back;
                    thread::sleep(RETRY);
                }
                Err(_) => return false,
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        flushed.recv_timeout(left).is_ok()
    }
}

/// The thread ends when the last [`Queue`] is gone.
pub(super) fn spawn(sink: impl Write + Send + 'static, format: LogFormat) -> io::Result<Queue> {
    let (orders, received) = mpsc::sync_channel(QUEUE_LINES);
    let lost = Arc::new(AtomicU64::new(0));
    let writer = Writer {
        sink,
        format,
        lost: Arc::clone(&lost),
        reported: 0,
        reported_at: None,
        batch: Vec::with_capacity(BATCH + super::line::LINE_MAX),
        refused: false,
        torn: false,
    };
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || writer.run(&received))?;
    Ok(Queue { orders, lost })
}

struct Writer<W> {
    sink: W,
    format: LogFormat,
    lost: Arc<AtomicU64>,
    /// how many of `lost` a line has told
    reported: u64,
    reported_at: Option<Instant>,
    /// whole lines
    batch: Vec<u8>,
    /// the last write failed
    refused: bool,
    /// the last write ended inside a line
    torn: bool,
}

impl<W: Write> Writer<W> {
    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let first = if self.owes_report() {
                match orders.recv_timeout(REPORT_EVERY) {
                    Ok(order) => Some(order),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match orders.recv() {
                    Ok(order) => Some(order),
                    Err(mpsc::RecvError) => return,
                }
            };
            let flush = self.gather(first, orders);
            self.write();
            if self.owes_report() && self.report_is_due() {
                self.report();
            }
            if let Some(done) = flush {
                // Whoever asked may have given up.
                let _ = done.try_send(());
            }
        }
    }

    /// Fills the batch from what waits, up to [`BATCH`] or a flush.
    fn gather(&mut self, first: Option<Order>, orders: &Receiver<Order>) -> Option<SyncSender<()>> {
        self.batch.clear();
        let mut next = first;
        while let Some(order) = next {
            match order {
                Order::Line(line) => {
                    self.batch.extend_from_slice(line.as_bytes());
                    self.batch.push(b'\n');
                }
                Order::Flush(done) => return Some(done),
            }
            if self.batch.len() >= BATCH {
                break;
            }
            next = orders.try_recv().ok();
        }
        None
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.torn {
            // Ends the line that was cut off, so that the next one is whole.
            self.batch.insert(0, b'\n');
        }
        let (written, outcome) = write_all(&mut self.sink, &self.batch);
        let rest = &self.batch[written..];
        if written > 0 {
            self.torn = self.batch[written - 1] != b'\n';
        }
        match outcome {
            Ok(()) => self.refused = false,
            Err(error) => {
                let mut lines = rest.iter().filter(|byte| **byte == b'\n').count() as u64;
                if written == 0 && self.torn {
                    lines -= 1; // the newline put before the first
                }
                self.lost.fetch_add(lines, Ordering::Relaxed);
                if !self.refused {
                    self.refused = true;
                    // Standard error may be closed as well; there is nowhere else to say it.
                    let _ = writeln!(
                        io::stderr(),
                        "packetwatch: write the log to standard output: {error}; \
                         the daemon goes on and counts the lines that are lost"
                    );
                }
            }
        }
    }

    fn owes_report(&self) -> bool {
        !self.refused && self.lost.load(Ordering::Relaxed) > self.reported
    }

    fn report_is_due(&self) -> bool {
        self.reported_at
            .is_none_or(|at| at.elapsed() >= REPORT_EVERY)
    }

    fn report(&mut self) {
        let lost = self.lost.load(Ordering::Relaxed);
        let lines = lost - self.reported;
        let mut text = String::new();
        let mut line = Line::start(
            &mut text,
            self.format,
            OffsetDateTime::now_utc(),
            Level::WARN,
        );
        line.message(format_args!(
            "{lines} log lines were lost: standard output did not take them in time"
        ));
        if self.format == LogFormat::Json {
            line.string("ecs.version", super::ecs::ECS_VERSION);
        }
        line.string("log.logger", module_path!());
        line.bare("packetwatch.lines_lost", lines);
        line.finish();
        self.batch.clear();
        self.batch.extend_from_slice(text.as_bytes());
        self.batch.push(b'\n');
        self.write();
        if self.refused {
            // This very line was counted among the lost; it is not one of theirs.
            self.lost.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.reported = lost;
            self.reported_at = Some(Instant::now());
        }
    }
}

/// How many bytes were taken, and why not all.
fn write_all(sink: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match sink.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(taken) => written += taken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}
