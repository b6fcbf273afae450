//! The list as a whole: read by pages, added to and replaced by bodies.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use serde::Deserialize;

use super::{Change, ListEntry, ListPage, ListedBody, entry::pending, feed::Feed, read, refusal};
use crate::{
    api::{
        App, Asker, blocking,
        extract::{Params, media_type, unsupported},
        page::PageParams,
        pending::{confirm, in_the_way},
        problem::Problem,
        refusals::{BadBody, BadParameter, Failed, Full, Gated, NoPlace, Protected, Slow},
        upload::{LIST_BODY, Uploads},
        would_drop::Watched,
    },
    lists::List,
};

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BodyParams {
    /// Apply the good entries and list the others, instead of all or nothing.
    #[serde(default)]
    partial: bool,
    /// Take the change back after this time, 1s to 1h, unless it is confirmed.
    #[serde(default, deserialize_with = "confirm")]
    #[param(value_type = Option<String>, example = "60s")]
    confirm: Option<Duration>,
}

/// List the entries of the {list} list.
#[utoipa::path(get, path = "/v1/{list}", operation_id = "list_{list}", tag = "lists", security(("token" = ["read"])),
    params(PageParams),
    responses((status = 200, description = "a page of the list", body = ListPage), BadParameter, Gated, Failed, Slow))]
pub(super) async fn show(
    State(app): State<App>,
    Extension(list): Extension<List>,
    Params(params): Params<PageParams>,
) -> Result<Json<ListPage>, Problem> {
    let query = params.query()?;
    let page = blocking(move || app.lists.page(list, query).map_err(|e| refusal(&app, e)));
    let page = page.await?;
    Ok(Json(ListPage {
        entries: page.entries.into_iter().map(ListEntry::from).collect(),
        next: page.next,
    }))
}

/// Add entries to the {list} list, all or nothing: JSON, or text with one prefix a line. Text without a
/// line is refused.
#[utoipa::path(post, path = "/v1/{list}", operation_id = "add_{list}", tag = "lists", security(("token" = ["lists"])),
    params(BodyParams),
    request_body(content((Vec<ListedBody> = "application/json"), (String = "text/plain"))),
    responses((status = 200, description = "what became of the list", body = Change), BadBody, Protected, NoPlace, Full, Gated, Failed, Slow))]
pub(super) async fn add(
    State(app): State<App>,
    Extension(list): Extension<List>,
    Extension(uploads): Extension<Uploads>,
    asker: Asker,
    Params(params): Params<BodyParams>,
    request: Request,
) -> Result<Json<Change>, Problem> {
    written(app, list, uploads, asker, params, request, Write::Add).await
}

/// Replace the {list} list in one step: no packet sees half of it. Text without a line is refused, since it
/// is what a failed download leaves: `[]` as JSON, or a line with a comment, empties the list.
#[utoipa::path(put, path = "/v1/{list}", operation_id = "replace_{list}", tag = "lists", security(("token" = ["lists"])),
    params(BodyParams),
    request_body(content((Vec<ListedBody> = "application/json"), (String = "text/plain"))),
    responses((status = 200, description = "what became of the list", body = Change), BadBody, Protected, NoPlace, Full, Gated, Failed, Slow))]
pub(super) async fn replace(
    State(app): State<App>,
    Extension(list): Extension<List>,
    Extension(uploads): Extension<Uploads>,
    asker: Asker,
    Params(params): Params<BodyParams>,
    request: Request,
) -> Result<Json<Change>, Problem> {
    written(app, list, uploads, asker, params, request, Write::Replace).await
}

#[derive(Clone, Copy)]
enum Write {
    Add,
    Replace,
}

async fn written(
    app: App,
    list: List,
    uploads: Uploads,
    asker: Asker,
    params: BodyParams,
    request: Request,
    write: Write,
) -> Result<Json<Change>, Problem> {
    let media = media_type(request.headers());
    let parse = match media.as_deref() {
        Some("application/json") => read::from_json,
        Some("text/plain") => read::from_text,
        other => return Err(unsupported(other, "application/json or text/plain")),
    };
    let body = uploads.read_list(request, LIST_BODY).await?;
    let place = uploads.place(&body).await?;
    let change = blocking(move || {
        let feed = parse(body.bytes())?;
        drop(body);
        let change = apply(&app, list, feed, asker, params, write);
        // Held to the end of the work, though who asked for it may have gone.
        drop(place);
        change
    });
    change.await.map(Json)
}

fn apply(
    app: &App,
    list: List,
    mut feed: Feed,
    asker: Asker,
    BodyParams { partial, confirm }: BodyParams,
    write: Write,
) -> Result<Change, Problem> {
    let _turn = app.trials.begin(confirm).map_err(|e| in_the_way(&e))?;
    app.peers.protect(&app.lists);
    if list == List::Deny {
        let prefixes = feed.entries.iter().map(|entry| entry.prefix);
        feed.refuse_protected(&app.lists.protected_among(prefixes));
    }
    if feed.refused > 0 && !partial {
        return Err(feed.problem());
    }
    let change = Change {
        note: feed.note(),
        refused: partial.then_some(feed.refused),
        errors: feed.faults,
        ..Change::default()
    };
    let watched = Watched::of(app, asker)?;
    let writing = app.lists.confirming(confirm);
    let done = match write {
        Write::Add => writing.add(list, feed.entries).map(|done| Change {
            added: done.added,
            updated: done.updated,
            ..change
        }),
        Write::Replace => writing.replace(list, feed.entries).map(|done| Change {
            added: done.added,
            updated: done.updated,
            removed: Some(done.removed),
            ..change
        }),
    };
    let change = done.map_err(|error| refusal(app, error))?;
    Ok(Change {
        would_drop: watched.dropped_since(app)?,
        pending: pending(app, confirm),
        ..change
    })
}
