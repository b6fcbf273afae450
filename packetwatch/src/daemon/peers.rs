//! Who is at work over TCP, kept on disk for the next start.

use std::{io, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::tokens::Tokens;

/// Between two looks: a crash forgets who came first since the last.
const EVERY: Duration = Duration::from_secs(2);
/// A client that is on disk already may stand there with a last call so much too early: one that asks
/// all the time does not wear the disk.
const SLACK: Duration = Duration::from_secs(30);

/// Keeps them until the order to stop, and with it as they are then.
///
/// # Errors
/// The writing panicked.
pub(super) async fn keep(tokens: Tokens, shutdown: CancellationToken) -> io::Result<()> {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fails = false;
    loop {
        let slack = tokio::select! {
            () = shutdown.cancelled() => Duration::ZERO,
            _ = tick.tick() => SLACK,
        };
        let tokens = tokens.clone();
        let written = spawn_blocking(move || tokens.keep_seen(slack)).await?;
        if let Err(error) = &written
            && !fails
        {
            tracing::warn!(
                error.message = %error,
                "API clients are protected, but a restart would not know of them before their next call"
            );
        }
        fails = written.is_err();
        if shutdown.is_cancelled() && slack.is_zero() {
            return Ok(());
        }
    }
}
