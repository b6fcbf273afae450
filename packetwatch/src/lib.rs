//! The daemon and command line of Packetwatch.

pub mod config;
pub mod dataplane;
mod document;
pub mod prefix;
pub mod rules;
