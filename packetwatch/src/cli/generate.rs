//! What is made from the program itself: completions, manual pages, the API's description.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap_complete::Shell;

use super::{
    command,
    output::{Format, Out},
};

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell that shall complete
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Write a page for every command to this directory instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "packetwatch", &mut script);
    print(&String::from_utf8(script)?)
}

pub(super) fn man(args: ManArgs) -> anyhow::Result<()> {
    if let Some(dir) = args.dir {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        return clap_mangen::generate_to(command(), &dir)
            .with_context(|| format!("cannot write manual pages to {}", dir.display()));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command()).render(&mut page)?;
    print(&String::from_utf8(page)?)
}

pub(super) fn openapi() -> anyhow::Result<()> {
    print(&crate::api::openapi().to_pretty_json()?)
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = Out::new(Format::Table);
    out.line(text.trim_end())?;
    out.flush()
}
