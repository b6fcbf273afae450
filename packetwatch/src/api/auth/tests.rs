use std::time::Duration;

use super::*;
use crate::api::throttle::REQUESTS;
use crate::clock::Clock;
use crate::tokens::{NewToken, Scope};

/// A gate, and a token with every right.
struct Stage {
    gate: Gate,
    token: String,
    _state: tempfile::TempDir,
}

const READ: Option<Needs> = Some(Needs::Scope(Scope::Read));

fn stage() -> Stage {
    let state = tempfile::tempdir().unwrap();
    let tokens = Tokens::open(state.path(), Clock::new()).unwrap();
    let token = std::fs::read_to_string(state.path().join("token")).unwrap();
    let access = Access::of(&crate::api::openapi());
    let gate = Gate::new(access, tokens, Counters::default());
    let Ok(mut shared) = Arc::try_unwrap(gate.0) else {
        panic!("it is new");
    };
    (shared.owner, shared.group) = (990, Some(77));
    Stage {
        gate: Gate(Arc::new(shared)),
        token: token.trim().to_owned(),
        _state: state,
    }
}

impl Stage {
    fn admits(
        &self,
        peer: &Peer,
        needs: Option<Needs>,
        headers: &HeaderMap,
    ) -> Result<Caller, Refusal> {
        self.gate.admits(self.gate.knows(peer, headers), needs)
    }
}

fn authorization(value: &str) -> HeaderMap {
    let value = HeaderValue::from_str(value).unwrap();
    HeaderMap::from_iter([(header::AUTHORIZATION, value)])
}

fn user(uid: u32, gid: u32, groups: &[u32]) -> Peer {
    Peer::Unix(Credentials {
        pid: None,
        uid,
        gid,
        groups: groups.to_vec(),
    })
}

fn at(address: &str) -> Peer {
    Peer::Tcp(address.parse().unwrap())
}

#[test]
fn the_socket_admits_root_the_owner_and_the_group() {
    let stage = stage();
    let table = [
        (0, 5, &[][..], true),
        (990, 5, &[], true),
        (1000, 77, &[], true),
        (1000, 5, &[4, 77], true),
        (1000, 5, &[4], false),
        (77, 5, &[990], false),
    ];
    let everything = Scope::ALL.map(|scope| Some(Needs::Scope(scope)));
    for (uid, gid, groups, admitted) in table {
        let peer = user(uid, gid, groups);
        for needs in everything.into_iter().chain([None]) {
            let answer = stage.admits(&peer, needs, &HeaderMap::new());
            assert_eq!(answer.is_ok(), admitted, "{peer:?}");
            if let Err(refusal) = answer {
                assert_eq!((refusal.cause, refusal.problem.status), ("user", 403));
            }
        }
        let open = stage.admits(&peer, Some(Needs::Nobody), &HeaderMap::new());
        assert!(matches!(open, Ok(Caller::Anybody)));
    }
}

#[test]
fn a_token_on_the_socket_opens_nothing() {
    let stage = stage();
    let headers = authorization(&format!("Bearer {}", stage.token));
    let answer = stage.admits(&user(1000, 5, &[]), READ, &headers);
    assert_eq!(answer.unwrap_err().problem.status, 403);
}

#[test]
fn tcp_asks_for_one_token_whoever_connects() {
    let stage = stage();
    let token = &stage.token;
    let table = [
        (format!("Bearer {token}"), true),
        (format!("bearer  {token} "), true),
        (format!("Basic {token}"), false),
        (token.clone(), false),
        ("Bearer".to_owned(), false),
        ("Bearer ".to_owned(), false),
        ("Bearer pw_01".to_owned(), false),
    ];
    for (value, admitted) in table {
        for needs in [READ, None] {
            let answer = stage.admits(&at("127.0.0.1:9"), needs, &authorization(&value));
            assert_eq!(answer.is_ok(), admitted, "{value}");
        }
    }
    let mut twice = authorization("Bearer pw_01");
    let right = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    twice.append(header::AUTHORIZATION, right);
    for headers in [HeaderMap::new(), twice] {
        let refusal = stage
            .admits(&at("127.0.0.1:9"), READ, &headers)
            .unwrap_err();
        assert_eq!(refusal.cause, "no-token");
        let field = refusal.problem.field.as_deref();
        assert_eq!(
            (refusal.problem.status, field),
            (401, Some("Authorization"))
        );
    }
}

#[test]
fn a_token_opens_what_its_scopes_say() {
    let stage = stage();
    for held in Scope::ALL {
        let new = NewToken {
            name: Some(held.to_string()),
            scopes: vec![held],
            ttl: None,
        };
        let tokens = &stage.gate.0.tokens;
        let (_, secret) = tokens.create(new, OffsetDateTime::now_utc()).unwrap();
        let headers = authorization(&format!("Bearer {}", secret.as_str()));
        for needed in Scope::ALL {
            let needs = Some(Needs::Scope(needed));
            let answer = stage.admits(&at("127.0.0.1:9"), needs, &headers);
            assert_eq!(answer.is_ok(), needed.is_in(&[held]), "{held} for {needed}");
            if let Err(refusal) = answer {
                assert_eq!((refusal.cause, refusal.problem.status), ("scope", 403));
                let detail = refusal.problem.detail;
                assert!(detail.contains(&format!("--scope {needed}")), "{detail}");
            }
        }
    }
}

#[test]
fn a_call_that_was_let_in_marks_its_address_until_its_token_ends() {
    let stage = stage();
    let tokens = &stage.gate.0.tokens;
    let bearer = |secret: &str| authorization(&format!("Bearer {secret}"));
    let made = |name: &str, ttl| {
        let new = NewToken {
            name: Some(name.to_owned()),
            scopes: vec![Scope::Read],
            ttl,
        };
        let (_, secret) = tokens.create(new, OffsetDateTime::now_utc()).unwrap();
        bearer(secret.as_str())
    };
    let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let admits =
        |from: &str, needs, headers: &HeaderMap| stage.admits(&at(from), needs, headers).is_ok();
    let (first, reader) = (bearer(&stage.token), made("reader", None));
    assert!(!admits("198.51.100.7:1", READ, &bearer("pw_01")));
    assert!(!admits(
        "198.51.100.7:1",
        Some(Needs::Scope(Scope::Admin)),
        &reader
    ));
    // What is there for nobody, and what is there for anybody.
    assert!(admits("198.51.100.7:1", None, &reader));
    assert!(admits("198.51.100.7:1", Some(Needs::Nobody), &reader));
    assert!(tokens.seen().is_empty());
    assert!(admits("[::ffff:198.51.100.7]:1", READ, &first));
    assert!(admits("198.51.100.7:1", READ, &reader));
    assert!(admits("198.51.100.8:1", READ, &reader));
    let mut seen = tokens.seen();
    seen.sort_unstable();
    assert_eq!(seen, ["198.51.100.7", "198.51.100.8"].map(address));
    tokens.revoke("reader").unwrap();
    assert_eq!(tokens.seen(), [address("198.51.100.7")]);
    tokens.revoke("first").unwrap();
    assert!(tokens.seen().is_empty());
}

#[test]
fn strangers_use_up_nothing_that_a_right_token_has_at_their_address() {
    let stage = stage();
    let right = authorization(&format!("Bearer {}", stage.token));
    let from = at("198.51.100.7:1");
    let [stranger, known] =
        [&HeaderMap::new(), &right].map(|headers| stage.gate.knows(&from, headers));
    let counts = |known| stage.gate.counts(&from, known).is_ok();
    let many = 10 * REQUESTS.burst;
    assert!((0..many).any(|_| !counts(&stranger)), "of the address");
    assert!(counts(&known), "a right token is taken all the same");
    assert!((0..many).any(|_| !counts(&known)), "it has its own rate");
    let socket = user(0, 0, &[]);
    let known = stage.gate.knows(&socket, &HeaderMap::new());
    assert!((0..many).all(|_| stage.gate.counts(&socket, &known).is_ok()));
}

#[test]
fn the_wait_is_told_in_whole_seconds() {
    for (wait, told) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (6000, "6")] {
        let response = slow_down("", Duration::from_millis(wait));
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], told);
    }
}
