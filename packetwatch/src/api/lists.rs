//! `/v1/allow` and `/v1/deny`.

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::ToSchema;

use super::{
    App, blocking,
    entries::{self, EntryBody, LIST_BODY, ListedBody},
    extract::{self, OptionalBody, Params, PathPrefix, media_type, unsupported},
    page::PageParams,
    problem::{Fault, Problem},
};
use crate::{
    lists::{Entry, Force, List, NewEntry, Put, Row, WriteError},
    prefix,
};

/// Whole-list bodies held in memory at a time, with what is made of them.
const LIST_UPLOADS: usize = 2;
static UPLOADS: Semaphore = Semaphore::const_new(LIST_UPLOADS);

/// An entry of the allow or deny list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ListEntry {
    #[schema(value_type = String, example = "198.51.100.0/24")]
    pub prefix: IpNet,
    pub reason: Option<String>,
    /// `api`, `config`, or `protect` for the host's own protected addresses.
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
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BodyParams {
    /// Apply the good entries and list the others, instead of all or nothing.
    #[serde(default)]
    partial: bool,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ForceParams {
    /// Deny even an address that is protected, and end its protection for as long.
    #[serde(default)]
    force: bool,
}

/// For calls without query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParams {}

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

fn list_page(app: &App, list: List, params: PageParams) -> Result<ListPage, Problem> {
    let page = app
        .lists
        .page(list, params.query()?)
        .map_err(|e| refusal(app, e))?;
    Ok(ListPage {
        entries: page.entries.into_iter().map(ListEntry::from).collect(),
        next: page.next,
    })
}

async fn put(
    app: App,
    list: List,
    written: prefix::Parsed,
    body: EntryBody,
    force: bool,
) -> Result<Response, Problem> {
    let (reason, ttl) = body
        .checked()
        .map_err(|(field, detail)| Problem::refused(field, detail))?;
    let prefix = written.prefix;
    let entry = NewEntry {
        prefix,
        reason,
        ttl,
    };
    let put = blocking(move || {
        let put = app.lists.put(list, entry, Force(force));
        put.map_err(|error| refusal(&app, error))
    });
    let Put {
        entry,
        created,
        carved_out,
        carved_out_total,
        overruled_by,
    } = put.await?;
    let Entry {
        prefix,
        reason,
        source,
        created_at,
        expires_at,
    } = entry;
    let mut notes = Vec::new();
    if written.host_bits_cleared {
        notes.push(format!("host bits cleared: the entry is {prefix}"));
    }
    if let Some(allowed) = overruled_by {
        notes.push(format!(
            "it has no effect under {allowed}, which is allowed"
        ));
    }
    if carved_out_total > carved_out.len() {
        let shown = carved_out.len();
        notes.push(format!(
            "{carved_out_total} prefixes inside are allowed, the first {shown} are named"
        ));
    }
    let entry = WrittenEntry {
        prefix,
        reason,
        source: source.as_str().to_owned(),
        created_at,
        expires_at,
        carved_out,
        note: (!notes.is_empty()).then(|| notes.join("; ")),
    };
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(entry)).into_response())
}

async fn remove(app: App, list: List, prefix: IpNet) -> Result<StatusCode, Problem> {
    blocking(move || {
        let removed = app.lists.remove(list, prefix);
        removed.map_err(|error| refusal(&app, error))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Clone, Copy)]
enum Write {
    Add,
    Replace,
}

async fn write(
    app: App,
    list: List,
    write: Write,
    partial: bool,
    request: Request,
) -> Result<Json<Change>, Problem> {
    let media = media_type(request.headers());
    let read = match media.as_deref() {
        Some("application/json") => entries::from_json,
        Some("text/plain") => |body: &[u8]| Ok(entries::from_text(body)),
        other => return Err(unsupported(other, "application/json or text/plain")),
    };
    let _place = upload_place()?;
    let body = extract::read(request, LIST_BODY).await?;
    let change = blocking(move || {
        let mut parsed = read(&body)?;
        drop(body);
        if list == List::Deny {
            let prefixes = parsed.entries.iter().map(|entry| entry.prefix);
            parsed.refuse_protected(&app.lists.protected_among(prefixes));
        }
        if parsed.refused > 0 && !partial {
            return Err(parsed.problem());
        }
        let change = Change {
            note: parsed.note(),
            refused: partial.then_some(parsed.refused),
            errors: parsed.faults,
            ..Change::default()
        };
        let done = match write {
            Write::Add => app.lists.add(list, parsed.entries).map(|done| Change {
                added: done.added,
                updated: done.updated,
                ..change
            }),
            Write::Replace => app.lists.replace(list, parsed.entries).map(|done| Change {
                added: done.added,
                updated: done.updated,
                removed: Some(done.removed),
                ..change
            }),
        };
        done.map_err(|error| refusal(&app, error))
    });
    change.await.map(Json)
}

fn upload_place() -> Result<SemaphorePermit<'static>, Problem> {
    UPLOADS.try_acquire().map_err(|_| {
        let detail = format!("{LIST_UPLOADS} list uploads are under way: repeat this one later");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })
}

/// Why the lists did not take a write, as an answer.
pub(super) fn refusal(app: &App, error: WriteError) -> Problem {
    let detail = error.to_string();
    match error {
        WriteError::NotFound { .. } => Problem::new(StatusCode::NOT_FOUND, detail).about("prefix"),
        WriteError::Protected { .. } => Problem::new(StatusCode::CONFLICT, detail).about("prefix"),
        WriteError::Ttl { .. } => Problem::refused("ttl", detail),
        WriteError::Cursor { .. } => Problem::bad("cursor", detail),
        WriteError::Full { list, .. } => {
            app.counters.map_full(list);
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail)
        }
        WriteError::Journal(_) => {
            tracing::error!(error.message = %detail, "API: a write was refused");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
        WriteError::Kernel(error) => {
            app.counters.map_error(error.map(), "write");
            Problem::internal("write the lists", &error)
        }
    }
}

/// The two lists have the same calls; their handlers differ in name, path and the words.
macro_rules! handlers {
    ($list:ident, $value:expr, $base:literal, $entry:literal) => {
        #[doc = concat!("The calls on `", $base, "`.")]
        pub(super) mod $list {
            use super::*;

            /// List entries.
            #[utoipa::path(get, path = $base, operation_id = concat!("list_", stringify!($list)),
                tag = "lists", params(PageParams), responses(
                (status = 200, body = ListPage),
                (status = "4XX", body = Problem, content_type = "application/problem+json"),
            ))]
            pub(in crate::api) async fn list(
                State(app): State<App>,
                Params(params): Params<PageParams>,
            ) -> Result<Json<ListPage>, Problem> {
                blocking(move || list_page(&app, $value, params)).await.map(Json)
            }

            /// Add entries, all or nothing: JSON, or text with one prefix a line.
            #[utoipa::path(post, path = $base, operation_id = concat!("add_", stringify!($list)),
                tag = "lists", params(BodyParams),
                request_body(content(
                    (Vec<ListedBody> = "application/json"), (String = "text/plain"),
                )),
                responses(
                (status = 200, body = Change),
                (status = 422, description = "every bad line, and nothing was changed",
                    body = Problem, content_type = "application/problem+json"),
                (status = "4XX", body = Problem, content_type = "application/problem+json"),
                (status = 507, description = "at capacity, and nothing was changed",
                    body = Problem, content_type = "application/problem+json"),
            ))]
            pub(in crate::api) async fn add(
                State(app): State<App>,
                Params(BodyParams { partial }): Params<BodyParams>,
                request: Request,
            ) -> Result<Json<Change>, Problem> {
                write(app, $value, Write::Add, partial, request).await
            }

            /// Replace the list in one step: no packet sees half of it.
            #[utoipa::path(put, path = $base, operation_id = concat!("replace_", stringify!($list)),
                tag = "lists", params(BodyParams),
                request_body(content(
                    (Vec<ListedBody> = "application/json"), (String = "text/plain"),
                )),
                responses(
                (status = 200, body = Change),
                (status = 422, description = "every bad line, and nothing was changed",
                    body = Problem, content_type = "application/problem+json"),
                (status = "4XX", body = Problem, content_type = "application/problem+json"),
                (status = 507, description = "at capacity, and nothing was changed",
                    body = Problem, content_type = "application/problem+json"),
            ))]
            pub(in crate::api) async fn replace(
                State(app): State<App>,
                Params(BodyParams { partial }): Params<BodyParams>,
                request: Request,
            ) -> Result<Json<Change>, Problem> {
                write(app, $value, Write::Replace, partial, request).await
            }

            /// Remove an entry.
            #[utoipa::path(delete, path = $entry, operation_id = concat!("remove_", stringify!($list)),
                tag = "lists",
                params(("prefix" = String, Path, description = "an address or prefix; `/` or `%2F`")),
                responses(
                (status = 204),
                (status = "4XX", body = Problem, content_type = "application/problem+json"),
            ))]
            pub(in crate::api) async fn remove(
                State(app): State<App>,
                PathPrefix(written): PathPrefix,
                Params(NoParams {}): Params<NoParams>,
            ) -> Result<StatusCode, Problem> {
                super::remove(app, $value, written.prefix).await
            }
        }
    };
}

handlers!(allow, List::Allow, "/v1/allow", "/v1/allow/{*prefix}");
handlers!(deny, List::Deny, "/v1/deny", "/v1/deny/{*prefix}");

/// Allow a prefix; replaces the whole entry.
#[utoipa::path(put, path = "/v1/allow/{*prefix}", tag = "lists",
    params(("prefix" = String, Path, description = "an address or prefix; `/` or `%2F`")),
    request_body(content = Option<EntryBody>),
    responses(
    (status = 201, description = "new", body = WrittenEntry),
    (status = 200, description = "changed", body = WrittenEntry),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
    (status = 507, description = "at capacity", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn put_allow(
    State(app): State<App>,
    PathPrefix(written): PathPrefix,
    Params(NoParams {}): Params<NoParams>,
    OptionalBody(body): OptionalBody<EntryBody>,
) -> Result<Response, Problem> {
    put(app, List::Allow, written, body, false).await
}

/// Deny a prefix; replaces the whole entry.
#[utoipa::path(put, path = "/v1/deny/{*prefix}", tag = "lists",
    params(("prefix" = String, Path, description = "an address or prefix; `/` or `%2F`"), ForceParams),
    request_body(content = Option<EntryBody>),
    responses(
    (status = 201, description = "new", body = WrittenEntry),
    (status = 200, description = "changed", body = WrittenEntry),
    (status = 409, description = "protected, and not forced",
        body = Problem, content_type = "application/problem+json"),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
    (status = 507, description = "at capacity", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn put_deny(
    State(app): State<App>,
    PathPrefix(written): PathPrefix,
    Params(ForceParams { force }): Params<ForceParams>,
    OptionalBody(body): OptionalBody<EntryBody>,
) -> Result<Response, Problem> {
    put(app, List::Deny, written, body, force).await
}
