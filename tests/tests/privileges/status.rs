//! What the kernel says of the running daemon's rights, thread by thread.

use std::collections::BTreeMap;
use std::fs;

use packetwatch_tests::{Daemon, Lan};

/// CAP_NET_ADMIN and CAP_BPF.
const TWO: &str = "0000008000001000";
const NONE: &str = "0000000000000000";

/// A thread's name, and the lines of its status by their keys.
pub(crate) fn threads(pid: u32) -> Vec<(String, BTreeMap<String, String>)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let of = |text: String| -> BTreeMap<String, String> {
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect()
    };
    let threads = tasks.map(|task| {
        let path = task.expect("read a directory").path().join("status");
        // One of the pool may have ended in the meantime.
        let status = of(fs::read_to_string(path).unwrap_or_default());
        (status.get("Name").cloned().unwrap_or_default(), status)
    });
    threads.filter(|(name, _)| !name.is_empty()).collect()
}

/// Every thread has two capabilities, no way to more, and a filter on its system calls.
#[track_caller]
pub(crate) fn assert_reduced(pid: u32, uid: u32) {
    let threads = threads(pid);
    let names: Vec<&str> = threads.iter().map(|(name, _)| &**name).collect();
    for name in ["log", "tokio-rt-worker"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
    for (name, status) in threads {
        let expected = [
            ("Uid", four(uid)),
            ("CapEff", TWO.to_owned()),
            ("CapPrm", TWO.to_owned()),
            ("CapBnd", TWO.to_owned()),
            ("CapInh", NONE.to_owned()),
            ("CapAmb", NONE.to_owned()),
            ("NoNewPrivs", "1".to_owned()),
            ("Seccomp", "2".to_owned()),
        ];
        for (key, value) in expected {
            assert_eq!(status[key], value, "{key} of thread {name}");
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn root_without_the_user_keeps_its_id_and_two_capabilities() {
    let lan = Lan::with_interfaces(1);
    let daemon = Daemon::builder(&lan.host)
        .interface("pw0")
        .env("PACKETWATCH_USER", "root")
        .start();
    assert_reduced(daemon.pid(), 0);
    let line = daemon
        .lines()
        .into_iter()
        .find(|line| line["event.action"] == "privileges-dropped")
        .expect("it is told");
    assert_eq!(line["user.name"], "root");
    assert_eq!(line["packetwatch.capabilities"], "CAP_NET_ADMIN CAP_BPF");
}
