//! The daemon's own tasks. It does without none of them.
//!
//! None ends before the order to stop. One that does, by a panic or an error, is not started again:
//! what it left half done is known to nobody, and a daemon that starts anew reads it all from the
//! kernel and the journal. So the loss of one is the end of the daemon, with an error, and of the
//! filter as `on_exit` says.

use std::{any::Any, collections::HashMap, io, time::Duration};

use thiserror::Error;
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::timeout,
};

use super::Readiness;

/// A task that ended by itself.
#[derive(Debug, Error)]
#[error("{name} has ended ({cause}), and with it the daemon: start it again, and report this")]
pub(super) struct Lost {
    name: &'static str,
    cause: String,
}

pub(super) struct Tasks {
    running: JoinSet<io::Result<()>>,
    names: HashMap<Id, &'static str>,
    readiness: Readiness,
}

impl Tasks {
    pub(super) fn new(readiness: Readiness) -> Self {
        Self {
            running: JoinSet::new(),
            names: HashMap::new(),
            readiness,
        }
    }

    /// Starts a task under the name that it is missed by.
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        let handle = self.running.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Waits for one to be lost, which is told in the log and by `/readyz` when this returns.
    pub(super) async fn lost(&mut self) -> Lost {
        let Some(ended) = self.running.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, cause) = match ended {
            Ok((id, Ok(()))) => (id, "without an error".to_owned()),
            Ok((id, Err(error))) => (id, error.to_string()),
            Err(error) => (error.id(), words(error)),
        };
        let name = self.names.get(&id).copied().unwrap_or("a task");
        self.readiness.set(Err(format!("{name} has ended")));
        tracing::error!(error.message = %cause, "{name} has ended: the daemon ends");
        Lost { name, cause }
    }

    /// After the order to stop: lets them end for so long, then cuts them off.
    pub(super) async fn end(mut self, limit: Duration) {
        let all = async { while self.running.join_next().await.is_some() {} };
        let _ = timeout(limit, all).await;
        self.running.shutdown().await;
    }
}

fn words(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => format!("panicked: {}", message(&*panic)),
        Err(error) => error.to_string(),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn endless() -> io::Result<()> {
        std::future::pending().await
    }

    /// What is lost when this task runs beside one that goes on.
    async fn lost(task: impl Future<Output = io::Result<()>> + Send + 'static) -> (Lost, String) {
        let readiness = Readiness::starting();
        readiness.set(Ok(()));
        let mut tasks = Tasks::new(readiness.clone());
        tasks.spawn("the other", endless());
        tasks.spawn("the rule loop", task);
        let lost = timeout(Duration::from_secs(10), tasks.lost())
            .await
            .unwrap();
        tasks.end(Duration::ZERO).await;
        (lost, readiness.is_ready().unwrap_err())
    }

    #[tokio::test]
    async fn a_task_that_ends_is_missed_by_its_name() {
        let (error, not_ready) = lost(async { Err(io::Error::other("no room")) }).await;
        assert!(
            error
                .to_string()
                .starts_with("the rule loop has ended (no room)")
        );
        assert_eq!(not_ready, "the rule loop has ended");
        let (error, _) = lost(async { panic!("at {}", 7) }).await;
        assert_eq!(error.cause, "panicked: at 7");
        let (error, _) = lost(async { panic!("plainly") }).await;
        assert_eq!(error.cause, "panicked: plainly");
        let (error, _) = lost(async { Ok(()) }).await;
        assert_eq!(
            (error.name, &*error.cause),
            ("the rule loop", "without an error")
        );
    }

    #[tokio::test]
    async fn nothing_is_lost_while_all_go_on() {
        let mut tasks = Tasks::new(Readiness::starting());
        tasks.spawn("the other", endless());
        let none = timeout(Duration::from_millis(50), tasks.lost()).await;
        assert!(none.is_err());
        tasks.end(Duration::ZERO).await;
    }
}
