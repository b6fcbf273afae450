//! The REST API: every route, who may ask, and the form of every answer.
//!
//! A request comes over a listener (`listen`; `serve`, with `tls` and `connections` in bounds) from
//! a `peer`, goes through `problem` (the form of errors) and `auth`, which asks for what `access`
//! says within what `throttle` allows, and then to its handler in the file named after its path,
//! who is told its `caller`. `extract` and `upload` read what it sent, `refusals` describes what it
//! may be answered instead.

mod access;
mod auth;
mod backup;
mod bans;
pub mod bursts;
mod caller;
mod callers;
mod connections;
mod events;
mod explain;
mod extract;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod listen;
mod lists;
mod memory;
mod mode;
mod page;
mod peer;
mod pending;
mod probes;
mod problem;
mod refusals;
mod rules;
mod serve;
mod shares;
mod status;
mod throttle;
mod tls;
mod tokens;
mod upload;
pub mod windows;
mod would_drop;

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

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

pub use backup::restore::RestoreAnswer;
pub use bans::{Ban, BanPage};
pub use callers::{CallerEntry, CallerState, Callers, Sort};
pub use explain::{Because, Explanation, RuleCount, Verdict};
pub use listen::{BindError, Listeners};
pub use lists::{
    Change, EntryBody, ListEntry, ListPage, ListedBody, Removed, WrittenEntry, time_to_live,
};
pub use memory::{MapStatus, Memory};
pub use mode::{Bypass, ModeState, NewBypass, NewMode, time_to_bypass};
pub use page::MAX_LIMIT;
pub use pending::{PendingChange, PendingChanges};
pub use probes::Probe;
pub use problem::{Fault, Problem};
pub use rules::{NewRules, Rules};
pub use serve::serve;
pub use status::{
    CertificateStatus, ChainedStatus, Counting, InterfaceStatus, LeftoverStatus, ListCounts,
    Observed, ObservedReason, ObservedRule, PacketCounts, Status,
};
pub use tls::{Certificate, TlsError, Validity};
pub use tokens::{ListedToken, MadeToken, TokenBody, TokenList, check_name};
pub use would_drop::{Peers, WouldDrop};

use crate::{
    clock::Clock,
    daemon::{Readiness, Refusals, RulesControl, Trials},
    dataplane::Dataplane,
    log::LogHandle,
    metrics::Counters,
    tokens::{Scope, Tokens},
};
use access::Access;
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
    /// What the TCP listener shows; empty without TLS, and until it can be read.
    pub certificate: Arc<OnceLock<Certificate>>,
    pub log: LogHandle,
    pub counters: Counters,
    /// Writes that found no room.
    pub refusals: Refusals,
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
            parameters are errors. Over TCP every path but /healthz asks for a bearer token with \
            the scope that its operation names, or the scope admin; over the unix socket the \
            kernel says who asks, and who may ask may do everything.\n\n\
            The head of a request has at most 16 KiB and 64 fields, else it is answered 431.",
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
        (name = "tokens", description = "Who may ask for what over TCP."),
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
        components.add_security_scheme(access::SCHEME, SecurityScheme::Http(scheme));
        // Of what declares nothing itself, which no operation should.
        let all = SecurityRequirement::new(access::SCHEME, [Scope::Admin.as_str()]);
        openapi.security = Some(vec![all]);
    }
}

/// Every path but the event stream, which alone may take its time.
fn answering() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(status::status))
        .routes(routes!(tokens::list_tokens, tokens::create_token))
        .routes(routes!(tokens::revoke_token))
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
        .routes(routes!(backup::restore::restore))
        .routes(routes!(pending::list_pending))
        .routes(routes!(pending::confirm_pending))
        .routes(routes!(pending::roll_back_pending))
        .routes(routes!(mode::get_mode, mode::put_mode, mode::reset_mode))
        .routes(routes!(mode::begin_bypass, mode::end_bypass))
        .routes(routes!(probes::healthz))
        .routes(routes!(probes::readyz))
        .routes(routes!(probes::metrics))
        .routes(routes!(probes::openapi_json))
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
/// Requests must carry `ConnectInfo<Peer>`, and should carry their `Place`, as those of [`serve()`]
/// do.
pub fn router(app: App, shutdown: CancellationToken) -> Router {
    let access = Access::of(&answering().merge(streaming()).into_openapi());
    let gate = Gate::new(access, app.tokens.clone(), app.counters.clone());
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

/// Work that blocks on the journal or the maps, off the threads that serve. What it logs says who
/// asked.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let order = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || order.in_scope(work)).await;
    done.unwrap_or_else(|panic| Err(Problem::internal("finish the request", &panic)))
}

#[cfg(test)]
mod tests;
