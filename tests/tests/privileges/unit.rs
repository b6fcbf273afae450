//! The unit file, as `make install` installs it and as systemd reads it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use packetwatch_tests::daemon::binary;
use tempfile::TempDir;

/// The most that `systemd-analyze security` may find exposed, in tenths of 10. What is left: it has the
/// host's network and sees the host's files, it opens sockets, and three capabilities. The best unit
/// file of a like program is at 34.
const EXPOSURE: u32 = 17;

pub(crate) fn install(variables: &[String]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut make = Command::new("make");
    make.arg("-C")
        .arg(root)
        .arg("install-files")
        .args(variables);
    make.arg(format!("PACKETWATCH={}", binary().display()));
    let output = make.output().expect("run make");
    assert!(output.status.success(), "{output:?}");
}

fn analyze(arguments: &[&str], unit: &Path) -> Output {
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).arg(unit).env("SYSTEMD_COLORS", "0");
    // Below the prefix there is nothing but ours; `verify` asks `man` for what the unit names.
    let manuals = unit.ancestors().nth(4).expect("the prefix");
    command.env("MANPATH", manuals.join("share/man"));
    command
        .output()
        .expect("run systemd-analyze (package systemd)")
}

/// Installed below a directory of its own, with the unit's path.
fn installed() -> (TempDir, PathBuf) {
    let prefix = TempDir::new().expect("a directory");
    install(&[format!("PREFIX={}", prefix.path().display())]);
    let unit = prefix.path().join("lib/systemd/system/packetwatch.service");
    (prefix, unit)
}

#[test]
fn everything_is_installed_below_the_prefix_and_named_so() {
    let destination = TempDir::new().expect("a directory");
    let destdir = format!("DESTDIR={}", destination.path().display());
    install(&[destdir, "PREFIX=/opt/packetwatch".to_owned()]);
    let at = |path: &str| destination.path().join("opt/packetwatch").join(path);
    let mode = |path: &str| {
        let found = fs::metadata(at(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode("bin/packetwatch"), 0o755);
    for file in [
        "lib/systemd/system/packetwatch.service",
        "lib/sysusers.d/packetwatch.conf",
        "lib/tmpfiles.d/packetwatch.conf",
        "share/man/man1/packetwatch.1",
    ] {
        assert_eq!(mode(file), 0o644, "{file}");
    }
    let unit = fs::read_to_string(at("lib/systemd/system/packetwatch.service")).expect("read it");
    assert!(
        unit.contains("ExecStart=/opt/packetwatch/bin/packetwatch run "),
        "{unit}"
    );
    assert!(!unit.contains("/usr/local"), "{unit}");
}

/// What the unit names as its documentation, and each page that such a page names.
#[test]
fn the_manual_that_the_unit_names_is_installed_with_it() {
    let (prefix, unit) = installed();
    let manual = |page: &str| {
        let (name, section) = page.split_once('(').expect("a name and a section");
        let section = section.trim_end_matches(')');
        let path = format!("share/man/man{section}/{name}.{section}");
        let text = fs::read_to_string(prefix.path().join(path));
        let text = text.unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(&format!(".TH {name} {section} ")), "{text}");
        text
    };
    let unit = fs::read_to_string(unit).expect("read it");
    let lines = unit.lines();
    let mut pages = lines.filter_map(|line| line.strip_prefix("Documentation=man:"));
    let text = manual(pages.next().expect("the unit names a page")).replace("\\-", "-");
    let named: Vec<_> = text.lines().filter(|line| line.ends_with("(1)")).collect();
    assert!(named.contains(&"packetwatch-run(1)"), "{named:?}");
    for page in named {
        manual(page);
    }
}

#[test]
#[ignore = "needs root: make setup installs systemd-analyze and man"]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let (_prefix, unit) = installed();
    let output = analyze(&["verify", "--man=yes"], &unit);
    let told = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("packetwatch"))
        .collect();
    assert!(output.status.success() && ours.is_empty(), "{told}");
}

#[test]
#[ignore = "needs root: make setup installs systemd-analyze"]
fn the_unit_exposes_no_more_than_it_did() {
    let (_prefix, unit) = installed();
    let threshold = format!("--threshold={EXPOSURE}");
    let output = analyze(
        &["security", "--offline=true", "--no-pager", &threshold],
        &unit,
    );
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "more than {EXPOSURE} tenths:\n{told}"
    );
    let last = told.lines().last().unwrap_or_default();
    assert!(
        last.contains("Overall exposure level for packetwatch.service"),
        "{told}"
    );
}

#[test]
fn the_unit_names_the_capabilities_and_the_directories_of_the_daemon() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let read = |name: &str| fs::read_to_string(packaging.join(name)).expect("it is there");
    let unit = read("packetwatch.service");
    let value = |key: &str| {
        let lines = unit.lines();
        let mut found = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.next().unwrap_or_else(|| panic!("no {key}"))
    };
    for key in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert_eq!(value(key), "CAP_BPF CAP_NET_ADMIN CAP_PERFMON");
    }
    assert_eq!(value("ReadWritePaths"), packetwatch::dataplane::LOCKS);
    let (pins, seen) = value("BindPaths").split_once(':').expect("from, and to");
    let bpffs = seen
        .strip_suffix("/packetwatch")
        .expect("the name of the pins");
    assert_eq!(pins, "/sys/fs/bpf/packetwatch");
    assert!(value("ExecStart").ends_with(&format!(" --bpffs {bpffs}")));
    let tmpfiles = read("packetwatch.tmpfiles");
    for directory in [packetwatch::dataplane::LOCKS, pins] {
        assert!(tmpfiles.contains(&format!("d {directory} ")), "{tmpfiles}");
    }
    assert!(read("packetwatch.sysusers").contains("u packetwatch "));
}
