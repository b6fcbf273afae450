//! `packetwatch token`.

use reqwest::Method;

use super::{
    Asking,
    client::path_of,
    output::{Format, table, until, when},
};
use crate::{
    api::{ListedToken, MadeToken, TokenBody, TokenList, check_name, time_to_live},
    tokens::{Scope, Token},
};

#[derive(Debug, clap::Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Make a token and print it, this once
    Create {
        /// What it is good for; several by commas, or repeated
        #[arg(
            long = "scope",
            value_name = "SCOPE",
            required = true,
            value_delimiter = ','
        )]
        scopes: Vec<Scope>,
        /// How long it is good, 1s to 10y [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = ttl)]
        ttl: Option<String>,
        /// What the log is to call who uses it [default: its id]
        #[arg(long, value_name = "NAME", value_parser = name)]
        name: Option<String>,
    },
    /// Show the tokens, without their text
    List,
    /// End a token
    Revoke {
        /// Its id or name, as `packetwatch token list` shows them
        token: String,
    },
}

fn ttl(text: &str) -> Result<String, String> {
    time_to_live(text).map(|_| text.to_owned())
}

fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

pub(super) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let (client, mut out) = args.asking.open()?;
    let path = "/v1/tokens";
    match args.command {
        TokenCommand::Create { scopes, ttl, name } => {
            let body = TokenBody { scopes, name, ttl };
            let made: MadeToken = client.send(Method::POST, path, &body).await?;
            match out.format {
                Format::Json | Format::Jsonl => out.json(&made)?,
                Format::Table => {
                    let Token {
                        id,
                        name,
                        scopes,
                        expires_at,
                        ..
                    } = &made.token;
                    out.line(&made.text)?;
                    eprintln!(
                        "token {name} (id {id}), {}, good until {}: keep it, it is not shown again",
                        words(scopes),
                        end(*expires_at)
                    );
                }
            }
        }
        TokenCommand::List => {
            let list: TokenList = client.get(path).await?;
            match out.format {
                Format::Json => out.json(&list)?,
                Format::Jsonl => list.tokens.iter().try_for_each(|token| out.json(token))?,
                Format::Table => match token_table(&list.tokens) {
                    Some(table) => out.line(&table)?,
                    None => eprintln!("there is no token: nobody may ask over TCP"),
                },
            }
        }
        TokenCommand::Revoke { token } => {
            client.delete(&path_of(path, &token)).await?;
            eprintln!("token {token} is good no more");
        }
    }
    out.flush()
}

fn token_table(tokens: &[ListedToken]) -> Option<String> {
    let heads = ["ID", "NAME", "SCOPES", "MADE", "UNTIL", "LAST USED"];
    let rows = tokens.iter().map(|listed| {
        let Token {
            id,
            name,
            scopes,
            created_at,
            expires_at,
        } = &listed.token;
        vec![
            id.clone(),
            name.clone(),
            words(scopes),
            when(*created_at),
            end(*expires_at),
            listed.last_used_at.map_or_else(|| "-".to_owned(), when),
        ]
    });
    table(&heads, rows)
}

fn words(scopes: &[Scope]) -> String {
    let words: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    words.join(",")
}

fn end(at: Option<time::OffsetDateTime>) -> String {
    at.map_or_else(|| "revoked".to_owned(), |at| until(Some(at)))
}
