//! Requests that Schemathesis makes up from `/openapi.json`: none is answered 5xx, and none otherwise
//! than the description says.

use std::env;
use std::path::PathBuf;

use packetwatch_tests::skip;
use tempfile::TempDir;

use crate::stage::Stage;

/// Some twenty seconds on an idle host.
const LIMIT_SECONDS: &str = "240";

/// What `xtask setup --for test` installs.
fn program() -> Option<PathBuf> {
    let this = env::current_exe().expect("an executable knows its path");
    let mut directories = this.ancestors().skip(1);
    directories.find_map(|directory| {
        let program = directory.join("schemathesis/bin/schemathesis");
        program.is_file().then_some(program)
    })
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn made_up_requests_are_answered_as_described() {
    let Some(program) = program() else {
        skip("there is no schemathesis in the target directory (`make test` asks PyPI)");
        return;
    };
    let stage = Stage::own();
    let home = TempDir::new().expect("a directory");
    let output = stage
        .lan
        .host
        .command("timeout")
        .arg(LIMIT_SECONDS)
        .arg(program)
        .args(["run", "http://127.0.0.1:7300/openapi.json", "--header"])
        .arg(format!("Authorization: Bearer {}", stage.first_token()))
        .args(["--checks", "not_a_server_error,status_code_conformance"])
        .args([
            "--checks",
            "content_type_conformance,response_schema_conformance",
        ])
        // The one answer that does not end; `verdicts` and `described` read it.
        .args(["--exclude-path", "/v1/events"])
        // It writes no JSON lines; `backup` and `described` do.
        .args(["--exclude-path", "/v1/restore"])
        .args([
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "10",
        ])
        // Every run the same; more than one worker trips over the parser of some Pythons.
        .args(["--generation-deterministic", "--workers", "1"])
        .args(["--suppress-health-check", "all", "--no-color"])
        .current_dir(home.path())
        .output()
        .expect("run nsenter (package util-linux)");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{said}", output.status);
    let passed = said.lines().find(|line| line.contains(" generated, "));
    let count = passed.and_then(|line| line.split_whitespace().next()?.parse().ok());
    assert!(count.is_some_and(|count: u32| count > 300), "{said}");
}
