//! `packetwatch mode` and `packetwatch bypass`.

use reqwest::Method;

use super::{
    Asking,
    output::{Format, when},
    trials::{ConfirmArgs, tell},
};
use crate::api::{Bypass, ModeState, NewBypass, NewMode, time_to_bypass};

const MODE: &str = "/v1/mode";
const BYPASS: &str = "/v1/bypass";

#[derive(Debug, clap::Args)]
pub(super) struct ModeArgs {
    /// What to do [default: show]
    #[arg(value_enum)]
    word: Option<Word>,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Word {
    /// Show the mode
    Show,
    /// Carry verdicts out
    Enforce,
    /// Judge, count and log; drop nothing
    Observe,
    /// Return to the configuration's mode
    Reset,
}

pub(super) async fn run(args: ModeArgs) -> anyhow::Result<()> {
    let ModeArgs {
        word,
        confirm,
        asking,
    } = args;
    let (client, mut out) = asking.open()?;
    let path = confirm.on(MODE);
    let put = |mode: &str| NewMode {
        mode: mode.to_owned(),
    };
    let state: ModeState = match word.unwrap_or(Word::Show) {
        Word::Show => client.get(MODE).await?,
        Word::Enforce => client.send(Method::PUT, &path, &put("enforce")).await?,
        Word::Observe => client.send(Method::PUT, &path, &put("observe")).await?,
        Word::Reset => client.ask(Method::DELETE, &path).await?,
    };
    tell(&state.would_drop, state.pending.as_ref());
    match out.format {
        Format::Json | Format::Jsonl => out.json(&state)?,
        Format::Table => {
            eprintln!("mode from: {}", state.mode_from);
            out.line(&state.mode)?;
        }
    }
    out.flush()
}

#[derive(Debug, clap::Args)]
pub(super) struct BypassArgs {
    /// How long, 1s to 24h; or off
    #[arg(value_name = "TIME|off", value_parser = length)]
    length: String,
    #[command(flatten)]
    asking: Asking,
}

fn length(text: &str) -> Result<String, String> {
    if text != "off" {
        time_to_bypass(text)?;
    }
    Ok(text.to_owned())
}

pub(super) async fn bypass(args: BypassArgs) -> anyhow::Result<()> {
    let BypassArgs { length, asking } = args;
    let (client, mut out) = asking.open()?;
    if length == "off" {
        client.delete(BYPASS).await?;
        eprintln!("lists, bans and rules count again");
        return out.flush();
    }
    let begun: Bypass = client
        .send(Method::POST, BYPASS, &NewBypass { length })
        .await?;
    match out.format {
        Format::Json | Format::Jsonl => out.json(&begun)?,
        Format::Table => out.line(&format!("every packet passes until {}", when(begun.until)))?,
    }
    out.flush()
}
