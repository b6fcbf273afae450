//! What cargo cannot do. `make help` lists the targets that call it.

mod install;
mod kernels;
mod lint;
mod route;
mod setup;
mod tests_run;

use std::process::ExitCode;

use setup::Purpose;

const USAGE: &str = "usage: xtask setup [--for run|test|lint|bench] | default-interface | test | lint-ebpf \
     | test-kernels [6.1|6.12|all [WORD...]]";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["setup"] | ["setup", "--for", "run"] => setup::setup(Purpose::Run),
        ["setup", "--for", "test"] => setup::setup(Purpose::Test),
        ["setup", "--for", "lint"] => setup::setup(Purpose::Lint),
        ["setup", "--for", "bench"] => setup::setup(Purpose::Bench),
        ["default-interface"] => route::default_interface().map(|name| println!("{name}")),
        ["test"] => tests_run::test(),
        ["test-kernels"] => kernels::test_kernels("all", &[]),
        ["test-kernels", series, ref words @ ..] => kernels::test_kernels(series, words),
        ["lint-ebpf"] => lint::lint_ebpf(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error:#}", words[0]);
            ExitCode::FAILURE
        }
    }
}
