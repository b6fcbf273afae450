//! Clients write over the socket while the whole daemon is killed: what they were answered is there with
//! the next one, for people and in the kernel's verdict; what they were not is there whole or not at
//! all.
//!
//! `CLIENTS_SEED=N` writes the same again, in an order that follows from it for each client and from the
//! machine between them.

mod found;
mod part;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use packetwatch_tests::environment::number;
use packetwatch_tests::http::{Request, Response};
use packetwatch_tests::patience::{Raised, until};
use packetwatch_tests::random::Random;
use packetwatch_tests::tell;
use serde_json::Value;

use self::found::{assert_verdicts, banned, pending, stranger};
use self::part::{ALLOWED, CLIENTS, CONFIGURED, Client, Told, Write, calls};
use crate::scene::{PROMPT, Scene};
use crate::wire::Wire;

const KILLS: &str = "CLIENT_KILLS";
const SEED: &str = "CLIENTS_SEED";
/// More than any of the rules lets through.
const TOO_MANY: usize = 5;
/// Callers that are banned before each round.
const BANS: u64 = 12;

/// One request; `None` if the daemon is killed before the whole answer is here.
fn ask(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Option<Response> {
    let mut request = Request::new(method, path);
    if let Some(body) = body {
        request.headers.push(("Content-Type", "application/json"));
        request.body = body.to_string().into_bytes();
    }
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PROMPT)).ok()?;
    request.exchange(stream).ok()
}

/// What the clients of a round share.
struct Round<'a> {
    socket: &'a Path,
    /// counts all writes of a run
    number: &'a AtomicU64,
    acknowledged: &'a AtomicU64,
    ended: &'a AtomicBool,
}

impl Round<'_> {
    /// Writes until the daemon is killed, or nothing is left to write.
    fn write(&self, client: Client, told: &mut Told, random: &mut Random) {
        while !self.ended.load(Ordering::Relaxed) {
            let n = self.number.fetch_add(1, Ordering::Relaxed);
            let id = || {
                let changes = ask(self.socket, "GET", "/v1/pending", None)?;
                let (object, id) = pending(&changes.json()).expect("the change on trial");
                assert_eq!(Some(object.as_str()), client.trial());
                Some(id)
            };
            let Some(write) = client.next(n, told, random, id) else {
                return;
            };
            let Write {
                method,
                path,
                body,
                after,
            } = write;
            told.in_flight = Some(after.clone());
            let Some(answer) = ask(self.socket, method, &path, body.as_ref()) else {
                return;
            };
            told.in_flight = None;
            match answer.status {
                200..300 => {
                    told.becomes(after);
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                // Another's change is on trial.
                409 => {}
                _ => panic!("{method} {path}: {answer:?}"),
            }
        }
    }
}

/// Bans callers by the rule in force, and has the journal know of them.
fn ban(scene: &Scene, wire: &Wire, callers: std::ops::Range<u64>) {
    let all: Vec<_> = callers.map(banned).collect();
    let frames: Vec<_> = all.iter().flat_map(|of| [*of; TOO_MANY]).collect();
    wire.passed(&frames, true);
    for of in all {
        let is_banned = || {
            let bans = scene.expect(200, "GET", &format!("/v1/bans?contains={of}"), None);
            bans["entries"].get(0).is_some().then_some(())
        };
        assert!(until(PROMPT, is_banned).is_some(), "{of} is not banned");
    }
    // What is acknowledged takes along what the journal lacks.
    let mark = format!("/v1/deny/10.{ALLOWED}.0.0/16");
    let put = scene.daemon.api("PUT", &mark, None);
    assert!((200..300).contains(&put.status), "{put:?}");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_clients_were_answered_survives_the_kill_of_the_daemon() {
    let seed = number(SEED).unwrap_or_else(|| {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        since_1970.as_millis() as u64
    });
    let kills = number(KILLS).unwrap_or(8);
    println!("{SEED}={seed} {KILLS}={kills}");
    let configured = format!(
        "[[rules]]\nname = \"{CONFIGURED}\"\nconnections = {}\nwithin = \"1h\"\nban = \"1h\"\n",
        calls(CONFIGURED)
    );
    let mut scene = Scene::with("1h", |builder| builder.rules_toml(configured));
    let wire = Wire::of(&scene.lan.host, scene.lan.segment());
    let socket = scene.daemon.socket();
    let mut told = CLIENTS.map(|client| Told::of(found::part(&scene, client)));
    let (number, acknowledged) = (AtomicU64::new(0), AtomicU64::new(0));
    let (mut callers, mut cut_short, mut there) = (0, 0, 0);
    for round in 0..kills {
        let mut random = Random::new(seed ^ round << 32);
        // A ban that is set while something is on trial ends with it.
        if !told.iter().any(|told| told.part.on_trial) {
            ban(&scene, &wire, callers..callers + BANS);
            callers += BANS;
            let bans = CLIENTS.iter().position(|client| *client == Client::Bans);
            told[bans.unwrap()].becomes(found::part(&scene, Client::Bans));
        }
        let before = acknowledged.load(Ordering::Relaxed);
        let (writes, then) = (random.between(1, 80), random.below(5_000));
        let mut randoms = CLIENTS.map(|_| Random::new(random.next()));
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let _end = Raised(&ended);
            let (socket, number, acknowledged) = (&*socket, &number, &acknowledged);
            for ((client, told), random) in CLIENTS.into_iter().zip(&mut told).zip(&mut randoms) {
                let round = Round {
                    socket,
                    number,
                    acknowledged,
                    ended: &ended,
                };
                scope.spawn(move || round.write(client, told, random));
            }
            let enough = || acknowledged.load(Ordering::Relaxed) >= before + writes;
            assert!(until(PROMPT, || enough().then_some(())).is_some());
            thread::sleep(Duration::from_micros(then));
            scene.daemon.kill();
        });
        // Now from the disk alone, now with what the filter has kept.
        if random.percent(25) {
            scene.detach(&[]);
        }
        scene.daemon.restart();

        let found = CLIENTS.map(|client| (client, found::part(&scene, client)));
        for (told, (client, found)) in told.iter_mut().zip(&found) {
            let possible = [Some(&told.part), told.in_flight.as_ref()];
            assert!(
                possible.contains(&Some(found)),
                "{SEED}={seed}, round {round}, {client:?}: {found:#?} is not as it was told: {told:#?}"
            );
            if told.in_flight.is_some() {
                cut_short += 1;
                there += u64::from(*found != told.part);
            }
            told.becomes(found.clone());
        }
        assert_verdicts(&wire, &found, callers);
        let rules = found.iter().find(|(client, _)| *client == Client::Rules);
        let name = &rules.unwrap().1.things["rule"];
        let of = stranger(round);
        let passed = wire.passed(&[of; TOO_MANY], true);
        assert_eq!(
            passed.get(&of),
            Some(&calls(name)),
            "calls by the rule {name}"
        );
    }
    tell(&format!(
        "{SEED}={seed}: {kills} kills, {} writes acknowledged, none lost; {cut_short} cut short, {there} of \
         them there",
        acknowledged.into_inner()
    ));
}
