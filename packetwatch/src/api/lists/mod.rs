//! `/v1/allow` and `/v1/deny`: two lists, and one set of handlers for both.
//!
//! The handlers are on `/v1/{list}` by their attributes; [`routes()`] puts them on the path of each
//! list, which they learn from the extension [`List`]. `entry` is one entry at a time, `whole` the
//! list; `body`, `read` and `feed` are what is sent, `answer` what is answered.

mod answer;
mod body;
mod entry;
mod feed;
#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz;
mod read;
mod whole;

use axum::{Extension, http::StatusCode};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouter},
    routes,
};

pub use answer::{Change, ListEntry, ListPage, Removed, WrittenEntry};
pub(super) use body::FieldError;
pub use body::{EntryBody, ListedBody, time_to_live};

use super::{App, pending::in_the_way, problem::Problem};
use crate::lists::{List, WriteError};

/// What stands for the name of the list in the attributes of the handlers.
const NAME: &str = "{list}";

pub(super) fn routes() -> OpenApiRouter<App> {
    let lists = [List::Allow, List::Deny].into_iter();
    lists.fold(OpenApiRouter::new(), |router, list| {
        let whole = routes!(whole::show, whole::add, whole::replace);
        let entry = routes!(entry::put, entry::remove);
        router.routes(of(list, whole)).routes(of(list, entry))
    })
}

/// The handlers on the paths of this list, and described under operation ids of its own.
fn of(list: List, routes: UtoipaMethodRouter<App>) -> UtoipaMethodRouter<App> {
    let (schemas, mut paths, handlers) = routes;
    let named = |text: &str| text.replace(NAME, list.as_str());
    let items = std::mem::take(&mut paths.paths).into_iter();
    paths.paths = items
        .map(|(path, mut item)| {
            for operation in operations(&mut item) {
                let words = [
                    &mut operation.operation_id,
                    &mut operation.summary,
                    &mut operation.description,
                ];
                for text in words.into_iter().flatten() {
                    *text = named(text);
                }
            }
            (named(&path), item)
        })
        .collect();
    (schemas, paths, handlers.layer(Extension(list)))
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem {
        get,
        put,
        post,
        delete,
        ..
    } = item;
    [get, put, post, delete].into_iter().flatten()
}

/// Why the lists did not take a write, as an answer.
pub(super) fn refusal(app: &App, error: WriteError) -> Problem {
    let detail = error.to_string();
    match error {
        WriteError::NotFound { .. } => Problem::new(StatusCode::NOT_FOUND, detail).about("prefix"),
        WriteError::Protected { .. } => Problem::new(StatusCode::CONFLICT, detail).about("prefix"),
        WriteError::InTheWay(error) => in_the_way(&error),
        WriteError::Ttl { .. } => Problem::refused("ttl", detail),
        WriteError::Cursor { .. } => Problem::bad("cursor", detail),
        WriteError::Full { list, .. } => {
            app.counters.map_full(list);
            if let Some(refused) = app.refusals.note(app.clock.monotonic_ns()) {
                tracing::error!(
                    error.message = %detail,
                    "API: {refused} writes of the lists have found no room since this was last said"
                );
            }
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail)
        }
        WriteError::Journal(_) | WriteError::TakenBack(_) => {
            tracing::error!(error.message = %detail, "API: a write was refused");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
        // Nobody asks for protection here.
        error @ WriteError::Unprotected { .. } => Problem::internal("protect the host", &error),
        WriteError::Kernel(error) => {
            app.counters.map_error(error.map(), "write");
            Problem::internal("write the lists", &error)
        }
    }
}
