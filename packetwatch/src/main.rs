use std::process::ExitCode;

use packetwatch::{
    cli::{self, Handlers},
    daemon,
};

fn main() -> ExitCode {
    let handlers = Handlers {
        run: daemon::run,
        detach: daemon::detach,
    };
    cli::main(std::env::args_os(), &handlers)
}
