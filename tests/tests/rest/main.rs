//! The REST contract, asked of the real daemon: every route, every refusal, who may ask.
//!
//! * `routes`: the paths and methods there are, and what the daemon says of itself.
//! * `entries`: one entry of a list at a time; `inputs`: what may be written in it.
//! * `bulk`: whole lists; `pages`: reading them.
//! * `described`: every answer there is to bad input, against the description.
//! * `access`: tokens, peers, and connections that are held open.
//! * `rules`: reading, setting and resetting them, over a restart.
//! * `verdicts`: bans, callers, explanations and events of real calls; `metrics`: their counters.
//!
//! Most tests share one daemon and keep to prefixes of their own; those that change what is everybody's
//! start their own.

mod access;
mod backup;
mod bulk;
mod described;
mod entries;
mod inputs;
mod metrics;
mod pages;
mod routes;
mod rules;
mod scan;
mod stage;
mod verdicts;
