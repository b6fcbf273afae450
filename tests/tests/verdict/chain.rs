//! The user's own program behind the filter: what it is given, and which programs there may be.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use packetwatch::{
    dataplane::{ChainState, Dataplane, Error, Options},
    rules::Trigger,
};
use packetwatch_abi::{Action, Reason};
use packetwatch_tests::{
    Kernel, PinDirectory, Program, Runs,
    packet::Frame,
    programs::{attach_types_must_be_alike, pin},
};

use super::{CALLER, call, rule};

/// As loaders give them: from a section `xdp`, and from `xdp.frags`.
fn forms(program: &Program) -> [Program; 2] {
    [program.clone(), program.clone().with_frags()]
}

struct Pinned {
    directory: PinDirectory,
}

impl Pinned {
    fn new(program: &Program) -> Self {
        let pinned = Self {
            directory: PinDirectory::new(),
        };
        program.pin(&pinned.path());
        pinned
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("own")
    }

    fn replace(&self, program: &Program) {
        self.remove();
        program.pin(&self.path());
    }

    fn remove(&self) {
        std::fs::remove_file(self.path()).expect("remove the pin");
    }
}

fn load(chain: &Path) -> Result<Dataplane, Error> {
    let options = Options {
        chain: Some(chain.to_owned()),
        ..Options::default()
    };
    Dataplane::load(options).map(|(dataplane, _events)| dataplane)
}

/// Why the program cannot be chained, behind which packets pass.
#[track_caller]
fn refused(chain: &Path) -> String {
    let dataplane = load(chain).expect("it filters nevertheless");
    let probe = dataplane.probe(&call(CALLER[0], 80), 1).unwrap();
    assert_eq!(probe.action, Action::Pass);
    match dataplane.chain().map(|chain| chain.state) {
        Some(ChainState::Refused(words)) => words,
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_passes_is_handed_on_and_what_is_dropped_is_not() {
    for form in [0, 1] {
        let runs = Runs::new();
        let pinned = Pinned::new(&forms(&Program::dropping(&runs))[form]);
        let three = rule("calls", Trigger::Connections(3));
        let mut kernel = Kernel::before(&pinned.path(), vec![three]);
        let mut expected = 0;
        let mut judged = |kernel: &Kernel, frame: &[u8], reason, is_handed_on: bool| {
            let outcome = kernel.judge(frame);
            expected += u64::from(is_handed_on);
            assert_eq!(outcome.reason, reason, "form {form}");
            assert_eq!(runs.count(), expected, "form {form}: {outcome:?}");
            // It drops all that it is given.
            assert_eq!(outcome.action, Action::Drop, "form {form}: {outcome:?}");
        };
        let [denied, banned] = ["198.18.0.20", "198.18.0.21"].map(|source| call(source, 80));
        kernel.deny("198.18.0.20");
        kernel.ban("198.18.0.21", Duration::from_secs(60));
        kernel.allow("198.18.0.22");
        for _ in 0..3 {
            judged(&kernel, &call(CALLER[0], 80), Reason::Pass, true);
        }
        judged(&kernel, &call(CALLER[0], 80), Reason::Threshold, false);
        judged(&kernel, &denied, Reason::Deny, false);
        judged(&kernel, &banned, Reason::Ban, false);
        judged(&kernel, &call("198.18.0.22", 80), Reason::Allow, true);
        judged(&kernel, &call(CALLER[1], 80), Reason::Pass, true);
        let arp = Frame::new().ethertype(0x0806).payload([0; 28]).build();
        judged(&kernel, &arp, Reason::Arp, true);
        // Observe mode and a bypass, which are one to the program, let pass what would be dropped.
        kernel.observe(true);
        judged(&kernel, &denied, Reason::Deny, true);
        judged(&kernel, &banned, Reason::Ban, true);
        kernel.observe_until(kernel.now() + 1);
        judged(&kernel, &denied, Reason::Deny, true);
        kernel.observe_until(kernel.now());
        judged(&kernel, &denied, Reason::Deny, false);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_passes_before_a_policy_is_in_force_is_handed_on() {
    let runs = Runs::new();
    let pinned = Pinned::new(&Program::dropping(&runs));
    let dataplane = load(&pinned.path()).unwrap();
    let probe = dataplane.probe(&call(CALLER[0], 80), 1).unwrap();
    assert_eq!((probe.action, runs.count()), (Action::Drop, 1));
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_pin_is_followed_away_back_and_to_another_program() {
    let frame = call(CALLER[0], 80);
    for form in [0, 1] {
        let runs = Runs::new();
        let dropping = &forms(&Program::dropping(&runs))[form];
        let passing = forms(&Program::passing());
        let pinned = Pinned::new(dropping);
        let dataplane = load(&pinned.path()).unwrap();
        let action = || dataplane.probe(&frame, 1).unwrap().action;
        let follow = || dataplane.follow_chain().unwrap().map(|chain| chain.state);
        let is_up = |state: Option<ChainState>, expected: &str| {
            let is_it = matches!(&state, Some(ChainState::Up { name, .. }) if name == expected);
            assert!(is_it, "form {form}: {state:?}");
        };
        is_up(dataplane.chain().map(|chain| chain.state), "dropping");
        assert_eq!(follow(), None);
        assert_eq!(action(), Action::Drop);

        pinned.remove();
        assert_eq!(follow(), Some(ChainState::Gone));
        assert_eq!(follow(), None, "it is told once");
        assert_eq!(action(), Action::Pass);

        dropping.pin(&pinned.path());
        is_up(follow(), "dropping");
        assert_eq!(action(), Action::Drop);

        // Another is taken, of whichever kind.
        for passing in [&passing[form], &passing[1 - form]] {
            pinned.replace(passing);
            is_up(follow(), "passing");
            assert_eq!(action(), Action::Pass);
            pinned.replace(dropping);
            is_up(follow(), "dropping");
            assert_eq!(action(), Action::Drop);
        }

        // What is unlike both is not, and the one before it is let go of.
        if attach_types_must_be_alike() {
            pinned.replace(&passing[form].clone().without_attach_type());
            let Some(ChainState::Refused(reason)) = follow() else {
                panic!("form {form}: it is taken");
            };
            for word in [
                "\"passing\"",
                &pinned.path().display().to_string(),
                "expected_attach_type",
            ] {
                assert!(reason.contains(word), "{reason}");
            }
            assert_eq!(follow(), None, "it is told once");
            assert_eq!(action(), Action::Pass);
            pinned.replace(dropping);
            is_up(follow(), "dropping");
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_is_pinned_later_is_taken_whichever_kind_it_is() {
    for form in [0, 1] {
        let runs = Runs::new();
        let directory = PinDirectory::new();
        let path = directory.path().join("own");
        let dataplane = load(&path).unwrap();
        let probe = || dataplane.probe(&call(CALLER[0], 80), 1).unwrap().action;
        assert_eq!(probe(), Action::Pass);
        forms(&Program::dropping(&runs))[form].pin(&path);
        let chain = dataplane.follow_chain().unwrap();
        let is_up = chain.is_some_and(|chain| chain.state.is_up());
        assert!(is_up, "form {form}: {:?}", dataplane.chain());
        assert_eq!((probe(), runs.count()), (Action::Drop, 1), "form {form}");
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_program_without_an_attach_type_is_chained_where_the_kernel_can() {
    let runs = Runs::new();
    for program in forms(&Program::dropping(&runs)) {
        let pinned = Pinned::new(&program.without_attach_type());
        if attach_types_must_be_alike() {
            let words = refused(&pinned.path());
            for word in ["\"dropping\"", "expected_attach_type", "bpftool prog load"] {
                assert!(words.contains(word), "{words}");
            }
        } else {
            let dataplane = load(&pinned.path()).unwrap();
            let probe = dataplane.probe(&call(CALLER[0], 80), 1).unwrap();
            assert_eq!(probe.action, Action::Drop);
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_is_no_xdp_program_is_refused_by_what_it_is() {
    let directory = PinDirectory::new();
    let path = |name: &str| directory.path().join(name);
    Runs::new().pin(&path("map"));
    Program::of_sockets().pin(&path("sockets"));
    let expected = [
        ("map", "of a map"),
        ("sockets", "of type 1 and none of XDP"),
        (".", "a directory"),
    ];
    for (name, word) in expected {
        let words = refused(&path(name));
        assert!(words.contains(word), "{words}");
        assert!(words.contains(&path(name).display().to_string()), "{words}");
    }
    // A link of a program is none either.
    let occupy = || {
        // Of a namespace without a name, which needs no program to make.
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let loopback = 1;
        packetwatch_tests::intruder::occupy(loopback)
    };
    let link = thread::spawn(occupy).join().expect("it does not panic");
    let link = link.expect("nobody is on the loopback interface");
    pin(&link, &path("link"));
    let words = refused(&path("link"));
    assert!(words.contains("of a link"), "{words}");
}
