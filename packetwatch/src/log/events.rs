//! Lines with an `event.action`: those of late, and those to come.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;

/// Lines that are kept for who asks later.
pub const RECENT_LINES: usize = 1000;
/// Bytes of them; a few of the longest lines would otherwise be megabytes.
const RECENT_BYTES: usize = 1 << 20;

/// Lines that a slow subscriber may lag behind; beyond it the oldest are dropped.
const SUBSCRIBER_BACKLOG: usize = 1024;

/// Cheap to clone; all clones share the lines.
#[derive(Clone)]
pub(super) struct Events(Arc<Shared>);

struct Shared {
    recent: Mutex<Recent>,
    later: broadcast::Sender<Arc<str>>,
}

#[derive(Default)]
struct Recent {
    lines: VecDeque<Arc<str>>,
    bytes: usize,
}

impl Events {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            recent: Mutex::default(),
            later: broadcast::Sender::new(SUBSCRIBER_BACKLOG),
        }))
    }

    pub(super) fn push(&self, line: Arc<str>) {
        // Sent under the lock: who subscribes gets a line once, as one of late or as one to come.
        let mut recent = self.recent();
        recent.add(Arc::clone(&line));
        // There may be no subscriber.
        let _ = self.0.later.send(line);
    }

    /// The lines of late, oldest first, and the ones from then on.
    pub(super) fn subscribe(&self) -> (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let recent = self.recent();
        let lines = recent.lines.iter().map(Arc::clone).collect();
        (lines, self.0.later.subscribe())
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn add(&mut self, line: Arc<str>) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > RECENT_LINES || self.bytes > RECENT_BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(events: &Events) -> Vec<Arc<str>> {
        events.subscribe().0
    }

    #[test]
    fn so_many_lines_are_kept_and_the_oldest_go() {
        let events = Events::new();
        for n in 0..RECENT_LINES {
            events.push(n.to_string().into());
        }
        assert_eq!(
            (lines(&events).len(), &*lines(&events)[0]),
            (RECENT_LINES, "0")
        );
        events.push("the last".into());
        assert_eq!(
            (lines(&events).len(), &*lines(&events)[0]),
            (RECENT_LINES, "1")
        );
    }

    #[test]
    fn so_many_bytes_are_kept() {
        let events = Events::new();
        let line: Arc<str> = "x".repeat(RECENT_BYTES / 4).into();
        for _ in 0..4 {
            events.push(Arc::clone(&line));
        }
        assert_eq!(lines(&events).len(), 4);
        events.push("x".into());
        assert_eq!(lines(&events).len(), 4);
    }

    #[test]
    fn a_line_is_of_late_or_to_come() {
        let events = Events::new();
        events.push("before".into());
        let (recent, mut later) = events.subscribe();
        events.push("after".into());
        assert_eq!(recent, ["before".into()]);
        assert_eq!(later.try_recv().unwrap(), "after".into());
        assert!(later.try_recv().is_err());
    }
}
