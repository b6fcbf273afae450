//! The REST contract, asked of the real daemon: every route, every refusal, who may ask.
//!
//! * `routes`: the paths and methods there are, and what the daemon says of itself.
//! * `entries`: one entry of a list at a time; `inputs`: what may be written in it.
//! * `bulk`: whole lists; `pages`: reading them; `bounds`: what the log says of those that are full.
//! * `described`: every answer there is to bad input, against the description.
//! * `made_up`: requests that a program makes up from the description.
//! * `access`: tokens, peers, and requests that take their time.
//! * `matrix`: every operation, asked by holders of every scope and by those who hold none.
//! * `tokens`: making, listing and revoking them.
//! * `limits`: how often one may be wrong, and how many connections one may hold.
//! * `tls`: certificates, and who is told to use them; `peers`: API clients that a deny would cut off.
//! * `backup`: what is saved and restored; `scan`: the first scan of a host, from outside.
//! * `audit`: on whose order something was changed, and what the log and a core do not show.
//! * `rules`: reading, setting and resetting them, over a restart.
//! * `verdicts`: bans, callers, explanations and events of real calls; `metrics`: their counters.
//!
//! `stage` is the daemon that most ask, `secure` one that another host asks over TLS.
//!
//! Most tests share one daemon and keep to prefixes of their own; those that change what is everybody's
//! start their own.

mod access;
mod audit;
mod backup;
mod bounds;
mod bulk;
mod described;
mod entries;
mod inputs;
mod limits;
mod made_up;
mod matrix;
mod metrics;
mod pages;
mod peers;
mod routes;
mod rules;
mod scan;
mod secure;
mod stage;
mod tls;
mod tokens;
mod verdicts;
