//! Maps that somebody else has changed: noticed, mended, counted and told. And nothing told where
//! only the daemon was at work.

mod bound;
mod refused;
mod stray;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use packetwatch_abi::{
    Admission, Ban, BanKeyV4, BanKeyV6, FOREVER, Policy, Prefix, SKETCH_ROWS, SketchKeys,
};
use packetwatch_tests::intruder::Intruder;
use packetwatch_tests::packet::SYN;
use packetwatch_tests::{Daemon, Family, Frame, Frames, Lan, patience};
use serde_json::{Value, json};

/// A second is promised; the other is the machine's, which runs other tests beside this one.
const NOTICED: Duration = Duration::from_secs(2);

const RULE: &str = "[[rules]]\nname = \"calls\"\nconnections = 3\nwithin = \"5s\"\nban = \"10m\"\nprefix_v6 = 128\n";

struct Scene {
    daemon: Daemon,
    intruder: Intruder,
    lan: Lan,
}

impl Scene {
    fn new() -> Self {
        let lan = Lan::new();
        let daemon = Daemon::builder(&lan.host)
            .interface("pw0")
            .rules_toml(RULE)
            .start();
        Self {
            intruder: intruder(&daemon),
            daemon,
            lan,
        }
    }

    /// Stops the daemon, lets `change` see to its state directory, and starts it again.
    fn restart_with(&mut self, change: impl FnOnce(&Path)) {
        self.daemon.terminate();
        change(&self.daemon.state_dir());
        self.daemon.restart();
        self.intruder = intruder(&self.daemon);
    }

    /// Denies the first `count` addresses of 203.0.113.0/24, in as many entries.
    fn deny(&self, count: u8) {
        let entries: Vec<Value> = (0..count)
            .map(|n| json!({"prefix": format!("203.0.113.{n}/32")}))
            .collect();
        let answer = self.daemon.api("POST", "/v1/deny", Some(&entries.into()));
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Bans addresses of 198.19.7.0/24 by calls from them.
    fn scan(&self, hosts: impl Iterator<Item = u8>) -> usize {
        self.scan_from(|n| IpAddr::from([198, 19, 7, n]), hosts)
    }

    /// Bans each of these by calls from it; returns how many they are.
    fn scan_from<N>(&self, address: fn(N) -> IpAddr, hosts: impl Iterator<Item = N>) -> usize {
        let segment = self.lan.segment();
        let link = Frames::open(&segment.client, "eth0");
        let mut scanners = 0;
        for source in hosts.map(address) {
            scanners += 1;
            let host = segment.host(match source {
                IpAddr::V4(_) => Family::V4,
                IpAddr::V6(_) => Family::V6,
            });
            for port in 0..4 {
                let call = Frame::new().ip(source, host).tcp(4000, 80 + port, SYN);
                link.send(&call.build());
            }
        }
        scanners
    }

    fn wait_for_bans(&self, count: usize) {
        let counted = || {
            let status = self.daemon.api("GET", "/v1/status", None).json();
            (status["lists"]["bans"] == count).then_some(())
        };
        patience::until(Duration::from_secs(10), counted).expect("they are banned");
    }

    /// Meddles, and returns the line that tells of it.
    fn after(&self, meddle: impl FnOnce()) -> Value {
        self.within(NOTICED, meddle)
    }

    fn within(&self, limit: Duration, meddle: impl FnOnce()) -> Value {
        let mark = self.daemon.log().len();
        meddle();
        let meddled = Instant::now();
        let is = |line: &Value| line["event.action"] == "reconciled";
        let line = self.daemon.log().wait_from(mark, is, limit);
        println!("{} after {:?}", line["message"], meddled.elapsed());
        line
    }

    fn told(&self) -> Vec<Value> {
        let mut lines = self.daemon.lines();
        lines.retain(|line| line["event.action"] == "reconciled");
        lines
    }

    fn assert_counted(&self, map: &str, kind: &str, count: u64) {
        let series = format!("packetwatch_map_differences_total{{map=\"{map}\",kind=\"{kind}\"}}");
        let answer = self.daemon.api("GET", "/metrics", None);
        let value = answer
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(&series)?.trim().parse::<u64>().ok());
        assert_eq!(value, Some(count), "{series}\n{}", answer.text());
    }
}

/// Who meddles with the daemon's one interface.
fn intruder(daemon: &Daemon) -> Intruder {
    let status = daemon.api("GET", "/v1/status", None).json();
    let program = status["interfaces"][0]["program_id"].as_u64().unwrap();
    Intruder::of(program.try_into().unwrap())
}

fn assert_line(line: &Value, map: &str, [missing, changed, foreign]: [u64; 3]) {
    let of = |key: &str| line[format!("packetwatch.{key}").as_str()].as_u64();
    assert_eq!(line["packetwatch.map"], map, "{line}");
    assert_eq!(
        [of("missing"), of("changed"), of("foreign")],
        [Some(missing), Some(changed), Some(foreign)],
        "{line}"
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn entries_that_somebody_deletes_are_put_back() {
    let scene = Scene::new();
    scene.deny(5);
    let denied = || {
        let answer = scene.daemon.api("GET", "/v1/explain/203.0.113.4", None);
        answer.json()["verdict"] == "drop"
    };
    assert!(denied());
    let network = "203.0.113.0/24".parse().unwrap();
    let line = scene.after(|| {
        scene.intruder.unlist(network);
    });
    assert_line(&line, "lists", [5, 0, 0]);
    assert_eq!(line["packetwatch.prefix"], "203.0.113.0/32");
    // Told at once, since the mending of many takes a while.
    let actions: Vec<_> = scene.daemon.lines();
    let actions = actions.iter().map(|line| line["event.action"].as_str());
    let actions: Vec<_> = actions.flatten().collect();
    assert!(
        actions.ends_with(&["difference-found", "reconciled"]),
        "{actions:?}"
    );
    assert!(denied());
    scene.assert_counted("lists", "missing", 5);

    let line = scene.after(|| scene.intruder.replace_lists());
    assert_line(&line, "lists", [0, 1, 0]);
    assert!(denied());

    let line = scene.after(|| scene.intruder.switch_lists());
    assert_line(&line, "lists", [0, 1, 0]);
    assert!(denied());

    let told = scene.told().len();
    let line = scene.after(|| scene.intruder.stray_filter_bit());
    assert_line(&line, "lists", [0, 1, 0]);
    assert_eq!(line.get("packetwatch.prefix"), None, "{line}");
    // Mended: the next difference is the policy's, two rounds later, and none of the lists before.
    for _ in 0..2 {
        scene.after(|| {
            scene
                .intruder
                .active_policy()
                .set(0, 7, 0)
                .expect("write ACTIVE")
        });
    }
    let later = &scene.told()[told + 1..];
    assert!(
        later.iter().all(|line| line["packetwatch.map"] == "policy"),
        "{later:?}"
    );

    // As good as new for who writes next.
    assert_eq!(
        scene
            .daemon
            .api("DELETE", "/v1/deny/203.0.113.4%2F32", None)
            .status,
        204
    );
    assert!(!denied());
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn bans_that_somebody_changes_are_mended() {
    let scene = Scene::new();
    let scanners = scene.scan(1..=3);
    scene.wait_for_bans(scanners);
    let mut bans = scene.intruder.bans();
    let mut keys: Vec<BanKeyV4> = bans.keys().map(Result::unwrap).collect();
    keys.sort_by_key(|key| key.addr);
    let until = bans.get(&keys[1], 0).unwrap().until;
    let stranger = BanKeyV4 {
        addr: u32::from_ne_bytes([198, 19, 7, 99]),
        len: 32,
    };
    let line = scene.after(|| bans.remove(&keys[0]).unwrap());
    assert_line(&line, "bans", [1, 0, 0]);
    let ban = Ban {
        until: FOREVER,
        ..Ban::default()
    };
    let line = scene.after(|| bans.insert(keys[1], ban, 0).unwrap());
    assert_line(&line, "bans", [0, 1, 0]);
    let line = scene.after(|| bans.insert(stranger, ban, 0).unwrap());
    assert_line(&line, "bans", [0, 0, 1]);
    for kind in ["missing", "changed", "foreign"] {
        scene.assert_counted("bans", kind, 1);
    }
    // Its own deadline, and another's tally: somebody else's entry in the place of ours.
    let written = bans.get(&keys[1], 0).unwrap();
    let slot = written.slot + 100;
    let line = scene.after(|| bans.insert(keys[1], Ban { slot, ..written }, 0).unwrap());
    assert_line(&line, "bans", [0, 1, 0]);
    assert_eq!(bans.get(&keys[1], 0).unwrap(), written);
    let line = scene.after(|| scene.intruder.blind_to_bans());
    assert_line(&line, "bans", [3, 0, 0]);
    let mut now: Vec<BanKeyV4> = bans.keys().map(Result::unwrap).collect();
    now.sort_by_key(|key| key.addr);
    assert_eq!(now, keys);
    assert_eq!(bans.get(&keys[1], 0).unwrap().until, until);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn bans_of_ipv6_that_somebody_changes_are_mended() {
    let scene = Scene::new();
    let scanners = scene.scan_from(|n| IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, 0, n]), 1..=2);
    scene.wait_for_bans(scanners);
    let mut bans = scene.intruder.bans_v6();
    let mut keys: Vec<BanKeyV6> = bans.keys().map(Result::unwrap).collect();
    keys.sort_by_key(|key| key.addr);
    let written: Vec<Ban> = keys.iter().map(|key| bans.get(key, 0).unwrap()).collect();
    let line = scene.after(|| bans.remove(&keys[0]).unwrap());
    assert_line(&line, "bans", [1, 0, 0]);
    assert_eq!(line["packetwatch.prefix"], "2001:db8:7::1/128");
    let over = Ban {
        until: 1,
        ..written[1]
    };
    let line = scene.after(|| bans.insert(keys[1], over, 0).unwrap());
    assert_line(&line, "bans", [0, 1, 0]);
    assert_eq!(line["packetwatch.prefix"], "2001:db8:7::2/128");
    for (key, written) in keys.iter().zip(written) {
        assert_eq!(bans.get(key, 0).unwrap().until, written.until);
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_policy_that_somebody_switches_is_put_in_force_again() {
    let scene = Scene::new();
    let line = scene.after(|| {
        // What is not in force is the same rules as of another moment, until they change.
        let answer = scene
            .daemon
            .api("PUT", "/v1/rules", Some(&json!({"rules": []})));
        assert_eq!(answer.status, 200, "{answer:?}");
        scene.intruder.switch_policy();
    });
    assert_line(&line, "policy", [0, 1, 0]);
    scene.assert_counted("policy", "changed", 1);
    scene
        .intruder
        .active_policy()
        .set(0, 7, 0)
        .unwrap_or_else(|error| panic!("{error}"));
    let deadline = patience::until(NOTICED, || (scene.told().len() == 2).then_some(()));
    assert!(deadline.is_some(), "{:?}", scene.told());
    assert!(scene.intruder.active_policy().get(&0, 0).unwrap() <= 2);
}

/// As one who lets everything pass, or the calls that a rule counts.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_policy_that_somebody_alters_is_put_right() {
    let scene = Scene::new();
    let in_force = || {
        let active = scene.intruder.active_policy().get(&0, 0).unwrap();
        (active, scene.intruder.policies().get(&active, 0).unwrap())
    };
    let (_, written) = in_force();
    let alterations: [fn(&mut Policy); 2] = [
        |policy| policy.observe_until = FOREVER,
        |policy| policy.call_rules = 0,
    ];
    for alter in alterations {
        let line = scene.after(|| {
            let (active, mut policy) = in_force();
            alter(&mut policy);
            scene.intruder.policies().set(active, policy, 0).unwrap();
        });
        assert_line(&line, "policy", [0, 1, 0]);
        assert_eq!(in_force().1, written);
    }
    scene.assert_counted("policy", "changed", 2);
    let scanners = scene.scan(1..=2);
    scene.wait_for_bans(scanners);
}

/// Without places no source gets counts, so that no rule bans anybody.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_admits_sources_is_put_back() {
    let scene = Scene::new();
    let mut admission = scene.intruder.admission();
    let written = admission.get(&0, 0).unwrap();
    let nobody = Admission {
        threshold: 0,
        places: 0,
    };
    let line = scene.after(|| admission.set(0, nobody, 0).unwrap());
    assert_line(&line, "admission", [0, 1, 0]);
    assert_eq!(admission.get(&0, 0).unwrap(), written);
    scene.assert_counted("admission", "changed", 1);
    let scanners = scene.scan(1..=2);
    scene.wait_for_bans(scanners);

    let mut keys = scene.intruder.sketch_keys();
    let written = keys.get(&0, 0).unwrap();
    let known = SketchKeys {
        rows: [[0; 7]; SKETCH_ROWS],
    };
    let line = scene.after(|| keys.set(0, known, 0).unwrap());
    assert_line(&line, "sketch_keys", [0, 1, 0]);
    assert!(keys.get(&0, 0).unwrap() == written);
    scene.assert_counted("sketch_keys", "changed", 1);
    assert_eq!(scene.told().len(), 2, "{:?}", scene.told());
}

/// At the next reading of the table, ten seconds later at most; their counts nobody can put back.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn callers_that_somebody_deletes_are_missed() {
    const READ: Duration = Duration::from_secs(12);
    let scene = Scene::new();
    let address = |n: u8| Prefix::address_v4(u32::from_ne_bytes([198, 19, 7, n]));
    // A reading throws a key out that is no caller's.
    let read = || {
        let stray = Prefix {
            len: 33,
            ..address(0)
        };
        let line = scene.within(READ, || scene.intruder.enter_callers([stray]));
        assert_line(&line, "callers", [0, 0, 1]);
    };
    let mut scanners = scene.scan(1..=20);
    scene.wait_for_bans(scanners);
    read();
    let remove = |hosts: RangeInclusive<u8>| {
        scene.within(READ, || scene.intruder.remove_callers(hosts.map(address)))
    };
    assert_line(&remove(3..=7), "callers", [5, 0, 0]);
    scene.assert_counted("callers", "missing", 5);
    // Of those that have come since, too.
    scanners += scene.scan(100..=110);
    scene.wait_for_bans(scanners);
    assert_line(&remove(100..=101), "callers", [2, 0, 0]);
    scene.assert_counted("callers", "missing", 7);
    // They are told once.
    read();
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_daemons_own_work_is_no_difference() {
    let scene = Scene::new();
    let end = Instant::now() + Duration::from_secs(6);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in (1..=200).cycle() {
                scene.scan(n..=n);
                thread::sleep(Duration::from_millis(20));
                if Instant::now() > end {
                    return;
                }
            }
        });
        let mut n = 0u32;
        while Instant::now() < end {
            n += 1;
            let body = n.is_multiple_of(2).then(|| json!({"ttl": "1s"}));
            let host = n % 50;
            let path = format!("/v1/deny/198.51.100.{host}%2F32");
            let answer = scene.daemon.api("PUT", &path, body.as_ref());
            assert!(answer.status < 300, "{answer:?}");
            if n.is_multiple_of(7) {
                let list: Vec<Value> = (0..n % 40)
                    .map(|n| json!({"prefix": format!("192.0.2.{n}/32"), "ttl": "2s"}))
                    .collect();
                let answer = scene.daemon.api("PUT", "/v1/allow", Some(&list.into()));
                assert!(answer.status < 300, "{answer:?}");
            }
            scene.daemon.api(
                "DELETE",
                &format!("/v1/bans/198.19.7.{}%2F32", n % 200),
                None,
            );
        }
    });
    thread::sleep(Duration::from_secs(3));
    assert_eq!(scene.told(), [] as [Value; 0]);
}
