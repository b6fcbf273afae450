//! What is answered of a list and its entries.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::{
    api::{PendingChange, WouldDrop, problem::Fault},
    lists::Row,
};

/// An entry of the allow or deny list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ListEntry {
    #[schema(value_type = String, example = "198.51.100.0/24")]
    pub prefix: IpNet,
    pub reason: Option<String>,
    /// `api`, or `protect` for the host's own protected addresses.
    pub source: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// Null for an entry that stays.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
    /// Packets for which this was the most specific live entry; null in lists over 100 000.
    pub packets: Option<u64>,
    pub bytes: Option<u64>,
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ListPage {
    pub entries: Vec<ListEntry>,
    /// The cursor of the next page; null on the last.
    pub next: Option<String>,
}

/// An entry as it was written.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WrittenEntry {
    #[schema(value_type = String, example = "198.51.100.0/24")]
    pub prefix: IpNet,
    pub reason: Option<String>,
    pub source: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
    /// Allowed prefixes inside, which a deny works around; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub carved_out: Vec<IpNet>,
    /// What was read otherwise than written, such as cleared host bits, or does not take effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Peers that this cuts off: sessions, API clients, who asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_drop: Vec<WouldDrop>,
    /// It is taken back unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingChange>,
}

/// What became of a removal that waits to be confirmed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    pub pending: PendingChange,
    /// Peers that this cuts off: sessions, API clients, who asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_drop: Vec<WouldDrop>,
}

/// What became of a list body.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Change {
    pub added: usize,
    pub updated: usize,
    /// Entries that the new list no longer has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<usize>,
    /// With `partial`: entries that were wrong, or protected, and left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<usize>,
    /// The faults of those, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
    /// What was read otherwise than written, such as cleared host bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Peers that this cuts off: sessions, API clients, who asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_drop: Vec<WouldDrop>,
    /// It is taken back unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingChange>,
}

impl From<Row> for ListEntry {
    fn from(row: Row) -> Self {
        let Row {
            prefix,
            reason,
            source,
            created_at,
            expires_at,
            packets,
            bytes,
        } = row;
        Self {
            prefix,
            reason,
            source: source.as_str().to_owned(),
            created_at,
            expires_at,
            packets,
            bytes,
        }
    }
}
