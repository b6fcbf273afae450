//! The results, as they are kept.

use serde::{Deserialize, Serialize};

use crate::{
    curve::Curve, exact::Exactness, idle::Idle, instructions::Instructions, laden::Laden,
    latency::BanLatency, limit::Limited, machine::Machine, path::Speed, program::Cost,
    start::Start,
};

/// What was measured: parts that were not asked for are left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) machine: Option<Machine>,
    /// fewer rounds, samples and places: for a look, not for a claim
    pub(crate) quick: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle: Option<Idle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) program: Option<Vec<Cost>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<Vec<Speed>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ban_latency: Option<BanLatency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prefixes: Option<Curve>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sources: Option<Curve>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rules: Option<Curve>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interfaces: Option<Curve>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) laden: Option<Laden>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<Start>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exact: Option<Exactness>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<Limited>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<Size>,
    /// what the project promises itself, and whether it keeps it
    pub(crate) bars: Vec<crate::bars::Bar>,
}

/// How large the program is now, and in the record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) now: Instructions,
    pub(crate) recorded: Instructions,
}
