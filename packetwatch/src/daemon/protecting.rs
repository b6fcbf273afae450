//! What is to be protected and is not: for the log, `/readyz` and SIGHUP.

use std::time::Duration;

use ipnet::IpNet;
use tokio::{sync::watch, time::timeout};

use super::readiness::{Lack, Readiness};
use crate::{
    lists::{Lists, MAX_PROTECTED, WriteError},
    log::EVENT,
    protect::Settings,
};

/// How long SIGHUP waits for the new settings to be in force.
const PROMPT: Duration = Duration::from_secs(5);

/// Keeps the protected prefixes in the lists.
#[derive(Clone)]
pub(super) struct Protecting {
    lists: Lists,
    readiness: Readiness,
}

impl Protecting {
    pub(super) fn new(lists: Lists, readiness: Readiness) -> Self {
        Self { lists, readiness }
    }

    /// # Errors
    /// As [`Lists::protect`]; a lack until it goes well.
    pub(super) fn apply(&self, set: Vec<(IpNet, String)>) -> Result<(), WriteError> {
        let outcome = self.lists.protect(set);
        let error = outcome.as_ref().err();
        self.set(Lack::Protection, error.map(WriteError::to_string));
        outcome
    }

    /// What there is no place for, each with the reason to protect it.
    pub(super) fn left_out(&self, prefixes: &[(IpNet, String)]) {
        self.set(Lack::Unprotected, told(prefixes));
    }

    /// Why not all is protected.
    fn lacking(&self) -> Option<String> {
        let lacks = [Lack::Unprotected, Lack::Protection];
        let words: Vec<String> = lacks
            .into_iter()
            .filter_map(|lack| self.readiness.lack(lack))
            .collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// Waits for these settings to be followed.
    ///
    /// # Errors
    /// What is not protected although they say so, in words.
    pub(super) async fn follow(
        &self,
        settings: &Settings,
        mut followed: watch::Receiver<Settings>,
    ) -> Result<(), String> {
        let following = followed.wait_for(|now| now == settings);
        match timeout(PROMPT, following).await {
            Ok(Ok(_)) => self.lacking().map_or(Ok(()), Err),
            // Without a keeper the daemon is about to end, and says so.
            Ok(Err(_)) => Ok(()),
            Err(_) => Err("what it protects is not in force yet".to_owned()),
        }
    }

    /// Once in the log for each cause.
    fn set(&self, lack: Lack, why: Option<String>) {
        if self.readiness.lack(lack) == why {
            return;
        }
        if let Some(why) = &why {
            tracing::error!(
                target: EVENT,
                { event.action = "protect-failed", error.message = why.as_str() },
                "not all that is to be protected is: {why}"
            );
        }
        self.readiness.set_lack(lack, why);
    }
}

fn told(left_out: &[(IpNet, String)]) -> Option<String> {
    let (prefix, reason) = left_out.first()?;
    let others = match left_out.len() - 1 {
        0 => String::new(),
        others => format!(", and {others} more,"),
    };
    Some(format!(
        "{prefix} ({reason}){others} beyond the {MAX_PROTECTED} prefixes that are protected at most: take \
         some out of protect.extra, or switch protect.self, protect.gateway or protect.sessions off"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told_by_the_first_and_the_number_of_others() {
        let entry = |n: u8| {
            let prefix = IpNet::from(std::net::IpAddr::from([192, 0, 2, n]));
            (prefix, "logged-in user".to_owned())
        };
        assert_eq!(told(&[]), None);
        let one = told(&[entry(1)]).unwrap();
        assert!(
            one.starts_with("192.0.2.1/32 (logged-in user) beyond the 16384 prefixes"),
            "{one}"
        );
        let three = told(&[entry(1), entry(2), entry(3)]).unwrap();
        assert!(
            three.contains("(logged-in user), and 2 more, beyond"),
            "{three}"
        );
    }
}
