//! The REST API: every route, who may ask, and the form of every answer.
//!
//! A request goes through `peer` (connections in bounds), `problem` (the form of errors), `auth`,
//! and then its handler in the file named after its path. `extract` and `upload` read what it sent,
//! `refusals` describes what it may be answered instead.

mod auth;
mod backup;
mod bans;
mod callers;
mod events;
mod explain;
mod extract;
mod lists;
mod mode;
mod page;
mod peer;
mod pending;
mod problem;
mod refusals;
mod rules;
mod serve;
mod status;
mod tokens;
mod upload;
pub(crate) mod windows;
mod would_drop;

use std::{sync::Arc, time::Instant};

use axum::{Extension, Router, http::StatusCode, middleware};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Paths,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use backup::RestoreAnswer;
pub use bans::{Ban, BanPage};
pub use callers::{CallerEntry, CallerState, Callers, Sort};
pub use explain::{Because, Explanation, RuleCount, Verdict};
pub use lists::{
    Change, EntryBody, ListEntry, ListPage, ListedBody, Removed, WrittenEntry, time_to_live,
};
pub use mode::{Bypass, ModeState, NewBypass, NewMode, time_to_bypass};
pub use page::MAX_LIMIT;
pub use pending::{PendingChange, PendingChanges};
pub use problem::{Fault, Problem};
pub use rules::{NewRules, Rules};
pub use serve::{BindError, Listeners, serve};
pub use status::{
    Counting, InterfaceStatus, ListCounts, MapStatus, Memory, Observed, ObservedReason,
    ObservedRule, PacketCounts, Probe, Status,
};
pub use tokens::{TokenError, Tokens};
pub use would_drop::{Peers, WouldDrop};

use crate::{
    clock::Clock,
    daemon::{Readiness, RulesControl, Trials},
    dataplane::Dataplane,
    log::LogHandle,
    metrics::Counters,
};
use auth::Gate;
use events::Streams;
use upload::Uploads;
use would_drop::Asker;

/// From the request's head to the answer's, its body included; event streams have no limit.
const REQUEST_TIME: std::time::Duration = std::time::Duration::from_secs(120);

/// What the handlers work on.
#[derive(Clone)]
pub struct App {
    pub lists: crate::lists::Lists,
    pub dataplane: Dataplane,
    /// The rules and the mode in force.
    pub rules: Arc<RulesControl>,
    /// The change that waits to be confirmed.
    pub trials: Trials,
    pub peers: Peers,
    pub readiness: Readiness,
    pub tokens: Tokens,
    pub log: LogHandle,
    pub counters: Counters,
    pub clock: Clock,
    /// When the daemon started.
    pub started: Instant,
    pub version: &'static str,
    /// The commit that this was built from.
    pub git: &'static str,
}

impl App {
    /// Until when every packet passes, if there is a bypass.
    fn bypass_until(&self) -> Option<time::OffsetDateTime> {
        self.clock.utc_of(self.rules.bypass_until()?)
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Packetwatch",
        description = "Who calls this host, who is banned, and what to do about it.\n\n\
            Prefixes are answered canonical, with their length. Times are UTC. Unknown fields and \
            parameters are errors. Over TCP every path but /healthz asks for a bearer token; over \
            the unix socket the kernel says who asks.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        contact(),
    ),
    tags(
        (name = "lists", description = "The allow and the deny list. Allow beats deny and ban."),
        (name = "bans", description = "What the rules set."),
        (name = "callers", description = "Who calls, and how that is judged."),
        (name = "rules", description = "What leads to a ban."),
        (name = "pending", description = "A change that is taken back unless it is confirmed."),
        (name = "backup", description = "Everything that people and rules have made, and back."),
        (name = "events", description = "The log as it is written."),
        (name = "status", description = "The daemon itself."),
    ),
    // The responses that `refusals` adds refer to them.
    components(schemas(Problem, Fault)),
    modifiers(&BearerToken),
)]
struct Description;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
        let none: [&str; 0] = [];
        openapi.security = Some(vec![SecurityRequirement::new("token", none)]);
    }
}

/// Every path but the event stream, which alone may take its time.
fn answering() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(status::status))
        .merge(lists::routes())
        .routes(routes!(bans::list_bans))
        .routes(routes!(bans::remove_ban))
        .routes(routes!(callers::list_callers))
        .routes(routes!(callers::get_caller))
        .routes(routes!(explain::explain))
        .routes(routes!(
            rules::get_rules,
            rules::put_rules,
            rules::reset_rules
        ))
        .routes(routes!(backup::backup))
        .routes(routes!(backup::restore))
        .routes(routes!(pending::list_pending))
        .routes(routes!(pending::confirm_pending))
        .routes(routes!(pending::roll_back_pending))
        .routes(routes!(mode::get_mode, mode::put_mode, mode::reset_mode))
        .routes(routes!(mode::begin_bypass, mode::end_bypass))
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz))
        .routes(routes!(status::metrics))
        .routes(routes!(status::openapi_json))
}

fn streaming() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(events::events))
}

/// The description of the API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = answering().merge(streaming()).into_openapi();
    let paths = std::mem::take(&mut document.paths);
    let named = |path: String| path.replace("{*", "{");
    let Paths {
        paths, extensions, ..
    } = paths;
    document.paths.paths = paths
        .into_iter()
        .map(|(path, item)| (named(path), item))
        .collect();
    document.paths.extensions = extensions;
    document
}

/// The whole API over `app`. `shutdown` ends the event streams.
///
/// Requests must carry `ConnectInfo<Peer>`, as those of [`serve()`] do.
pub fn router(app: App, shutdown: CancellationToken) -> Router {
    let gate = Gate::new(app.tokens.clone());
    let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, REQUEST_TIME);
    let (answering, _) = answering().split_for_parts();
    let (streaming, _) = streaming().split_for_parts();
    let routes = answering.layer(timeout).merge(streaming);
    guarded(
        routes
            .layer(Extension(Streams::new(shutdown)))
            .layer(Extension(Uploads::default()))
            .with_state(app),
        gate,
    )
}

/// What every request goes through, whether its path exists or not.
fn guarded(routes: Router, gate: Gate) -> Router {
    let layers = ServiceBuilder::new()
        .layer(middleware::from_fn(problem::as_problem))
        .layer(CatchPanicLayer::custom(problem::of_panic))
        .layer(middleware::from_fn_with_state(gate, auth::admit));
    routes.layer(layers)
}

/// Work that blocks on the journal or the maps, off the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Problem::internal("finish the request", &panic)))
}

#[cfg(test)]
mod tests;
