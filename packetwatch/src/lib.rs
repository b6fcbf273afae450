//! The daemon and command line of Packetwatch.

pub mod config;
mod document;
pub mod prefix;
pub mod rules;
