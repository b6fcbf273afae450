use std::{
    fs,
    fs::Permissions,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn new(name: &str, scopes: &[Scope], ttl: Option<Duration>) -> NewToken {
    NewToken {
        name: Some(name.to_owned()),
        scopes: scopes.to_vec(),
        ttl,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_first_start_makes_a_token_and_the_second_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    Tokens::open(dir.path(), Clock::new()).unwrap();
    let text = fs::read_to_string(dir.path().join("token")).unwrap();
    let token = text.trim();
    assert!(Secret::parse(token).is_some(), "{token}");
    for file in ["token", "tokens.json"] {
        assert_eq!(mode(&dir.path().join(file)), 0o600, "{file}");
    }
    let hashes = fs::read_to_string(dir.path().join("tokens.json")).unwrap();
    assert!(!hashes.contains(&token[3..]), "{hashes}");
    let again = Tokens::open(dir.path(), Clock::new()).unwrap();
    let grant = again.accept(token, now()).unwrap();
    assert!(Scope::ALL.into_iter().all(|scope| grant.permits(scope)));
    for wrong in [text.as_str(), "", &token[..66], &format!("{token}0")] {
        assert_eq!(again.accept(wrong, now()).unwrap_err(), Unaccepted::Unknown);
    }
    let other = tempfile::tempdir().unwrap();
    let other = Tokens::open(other.path(), Clock::new()).unwrap();
    assert!(other.accept(token, now()).is_err());
}

#[test]
fn the_token_of_an_earlier_build_stays_good() {
    let dir = tempfile::tempdir().unwrap();
    let token = Secret::random().unwrap();
    file::write_first(dir.path(), &token).unwrap();
    let tokens = Tokens::open(dir.path(), Clock::new()).unwrap();
    let grant = tokens.accept(token.as_str(), now()).unwrap();
    assert_eq!(grant.token().scopes, [Scope::Admin]);
}

#[test]
fn what_is_made_is_good_over_a_restart_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::open(dir.path(), Clock::new()).unwrap();
    let minute = Some(Duration::from_secs(60));
    let made = new("ci", &[Scope::Lists, Scope::Read, Scope::Lists], minute);
    let (token, secret) = tokens.create(made, now()).unwrap();
    assert_eq!(token.scopes, [Scope::Read, Scope::Lists]);
    let end = token.expires_at.unwrap();
    let tokens = Tokens::open(dir.path(), Clock::new()).unwrap();
    let last = end - time::Duration::NANOSECOND;
    let grant = tokens.accept(secret.as_str(), last).unwrap();
    assert_eq!(grant.token(), &token);
    assert!(grant.permits(Scope::Read) && grant.permits(Scope::Lists));
    assert!(!grant.permits(Scope::Admin));
    let late = tokens.accept(secret.as_str(), end).unwrap_err();
    assert_eq!(late, Unaccepted::Expired);
    let used = tokens.list().pop().unwrap().1.unwrap();
    assert_eq!(used.unix_timestamp(), last.unix_timestamp());
}

#[tokio::test]
async fn a_revoked_token_opens_nothing_and_ends_what_it_opened() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::open(dir.path(), Clock::new()).unwrap();
    let (token, secret) = tokens
        .create(new("ci", &[Scope::Read], None), now())
        .unwrap();
    let grant = tokens.accept(secret.as_str(), now()).unwrap();
    let soon = Duration::from_millis(20);
    assert!(tokio::time::timeout(soon, grant.ended()).await.is_err());
    assert_eq!(tokens.revoke(&token.id).unwrap(), token);
    grant.ended().await;
    for tokens in [&tokens, &Tokens::open(dir.path(), Clock::new()).unwrap()] {
        let refused = tokens.accept(secret.as_str(), now()).unwrap_err();
        assert_eq!(refused, Unaccepted::Unknown);
        assert!(matches!(tokens.revoke("ci"), Err(TokenError::NotFound(_))));
    }
}

#[test]
fn the_first_token_goes_with_its_file_and_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::open(dir.path(), Clock::new()).unwrap();
    tokens
        .create(new("ci", &[Scope::Read], None), now())
        .unwrap();
    tokens.revoke("ci").unwrap();
    assert!(
        dir.path().join("token").exists(),
        "another's end is not its own"
    );
    tokens.revoke("first").unwrap();
    assert!(!dir.path().join("token").exists());
    assert_eq!(Tokens::open(dir.path(), Clock::new()).unwrap().list(), []);
    assert!(!dir.path().join("token").exists());
}

#[test]
fn names_are_given_once() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::open(dir.path(), Clock::new()).unwrap();
    let unnamed = NewToken {
        name: None,
        ..new("", &[Scope::Read], None)
    };
    let (token, _) = tokens.create(unnamed, now()).unwrap();
    assert_eq!(token.name, token.id);
    for taken in ["first", token.id.as_str()] {
        let refused = tokens.create(new(taken, &[Scope::Read], None), now());
        assert!(matches!(refused, Err(TokenError::Taken(name)) if name == taken));
    }
}

#[test]
fn tokens_are_bounded_and_expired_ones_give_way() {
    let dir = tempfile::tempdir().unwrap();
    let expired = Record {
        token: Token {
            expires_at: Some(now() - time::Duration::SECOND),
            ..first_of(&Secret::random().unwrap()).unwrap().token
        },
        sha256: [0; 32],
    };
    let mut records = vec![expired; MAX_TOKENS];
    let tokens = Tokens::of(dir.path(), records.clone(), Clock::new());
    tokens
        .create(new("a", &[Scope::Read], None), now())
        .unwrap();
    assert_eq!(tokens.list().len(), 1);
    records
        .iter_mut()
        .for_each(|record| record.token.expires_at = None);
    let tokens = Tokens::of(dir.path(), records[1..].to_vec(), Clock::new());
    tokens
        .create(new("a", &[Scope::Read], None), now())
        .unwrap();
    let full = tokens.create(new("b", &[Scope::Read], None), now());
    assert!(matches!(full, Err(TokenError::Full)));
    assert_eq!(tokens.list().len(), MAX_TOKENS);
}

fn aside(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let is_aside = |file: &PathBuf| file.display().to_string().contains(".damaged-");
    files.filter(is_aside).collect()
}

#[test]
fn a_damaged_file_of_all_tokens_is_set_aside_and_no_token_opens_anything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.json");
    let made = Tokens::open(dir.path(), Clock::new()).unwrap();
    let first = fs::read_to_string(dir.path().join("token")).unwrap();
    let first = first.trim();
    let (_, other) = made.create(new("ci", &[Scope::Read], None), now()).unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    let mut damaged = vec![
        "{}".to_owned(),
        "\"secret\"".to_owned(),
        whole.replace("\"version\": 1", "\"version\": 0"),
        whole.replacen("\"sha256\": \"", "\"sha256\": \"secret", 1),
        "x".repeat(1_000_000),
    ];
    damaged.extend((0..whole.len()).map(|length| whole[..length].to_owned()));
    for text in damaged {
        fs::write(&path, &text).unwrap();
        // Neither now nor at the next start, though the text of the first lies there.
        for _ in 0..2 {
            let tokens = Tokens::open(dir.path(), Clock::new()).unwrap();
            assert_eq!(tokens.list().len(), 0, "{text}");
            for secret in [first, other.as_str()] {
                assert!(tokens.accept(secret, now()).is_err(), "{text}");
            }
        }
        let [aside] = &aside(dir.path())[..] else {
            panic!("{text}: {:?}", aside(dir.path()));
        };
        assert_eq!(fs::read_to_string(aside).unwrap(), text, "as it was");
        assert_eq!((mode(aside), mode(&path)), (0o600, 0o600));
        fs::remove_file(aside).unwrap();
    }
    // New ones can be made.
    let tokens = Tokens::open(dir.path(), Clock::new()).unwrap();
    let (_, secret) = tokens
        .create(new("new", &[Scope::Read], None), now())
        .unwrap();
    assert!(
        Tokens::open(dir.path(), Clock::new())
            .unwrap()
            .accept(secret.as_str(), now())
            .is_ok()
    );
    // A directory holds none either.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(
        Tokens::open(dir.path(), Clock::new()).unwrap().list().len(),
        0
    );
    assert!(aside(dir.path())[0].is_dir() && path.is_file());
}

#[test]
fn a_bit_that_flips_lets_nobody_in_whom_no_token_did() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.json");
    Tokens::open(dir.path(), Clock::new()).unwrap();
    let whole = fs::read(&path).unwrap();
    let stranger = Secret::random().unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        match Tokens::open(dir.path(), Clock::new()) {
            Ok(tokens) => assert!(tokens.accept(stranger.as_str(), now()).is_err()),
            Err(error) => assert!(error.to_string().contains("newer than 1"), "{bit}: {error}"),
        }
    }
}

#[test]
fn a_damaged_first_token_is_set_aside_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    for text in ["", "pw_secret", &"x".repeat(1_000_000)] {
        let of_all = Tokens::open(dir.path(), Clock::new()).unwrap().list().len();
        fs::write(&path, text).unwrap();
        assert_eq!(
            Tokens::open(dir.path(), Clock::new()).unwrap().list().len(),
            of_all
        );
        assert!(!path.exists());
    }
    assert_eq!(aside(dir.path()).len(), 3);
    // Where there are no others, it is a first start.
    fs::write(&path, "pw_secret").unwrap();
    fs::remove_file(dir.path().join("tokens.json")).unwrap();
    let tokens = Tokens::open(dir.path(), Clock::new()).unwrap();
    let first = fs::read_to_string(&path).unwrap();
    assert!(tokens.accept(first.trim(), now()).is_ok());
}

#[test]
fn a_file_that_cannot_be_read_is_refused_and_left() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["token", "tokens.json"] {
        let path = dir.path().join(file);
        symlink(&path, &path).unwrap();
        let error = Tokens::open(dir.path(), Clock::new())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(error.contains("check the state directory"), "{error}");
        fs::remove_file(path).unwrap();
    }
    assert_eq!(aside(dir.path()).len(), 0);
}

#[test]
fn a_newer_file_is_for_the_newer_daemon_whatever_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.json");
    for text in [
        r#"{"version": 2, "tokens": []}"#,
        r#"{"version": 18446744073709551615, "kept": {"otherwise": "secret"}}"#,
    ] {
        fs::write(&path, text).unwrap();
        let error = Tokens::open(dir.path(), Clock::new())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(error.contains("run the newer packetwatch"), "{error}");
        assert!(
            !error.contains("damaged") && !error.contains("secret"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn files_that_others_could_read_are_closed_to_them() {
    let dir = tempfile::tempdir().unwrap();
    Tokens::open(dir.path(), Clock::new()).unwrap();
    for file in ["token", "tokens.json"] {
        let path = dir.path().join(file);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        Tokens::open(dir.path(), Clock::new()).unwrap();
        assert_eq!(mode(&path), 0o600, "{file}");
    }
}

#[test]
fn a_disk_that_refuses_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::open(dir.path(), Clock::new()).unwrap();
    // In the place of the file that is written first.
    fs::create_dir(dir.path().join("tokens.json.new")).unwrap();
    let refused = tokens.create(new("ci", &[Scope::Read], None), now());
    assert!(matches!(refused, Err(TokenError::File(_))));
    assert!(matches!(tokens.revoke("first"), Err(TokenError::File(_))));
    assert_eq!(tokens.list().len(), 1);
    assert!(dir.path().join("token").exists());
}
