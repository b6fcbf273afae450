//! The errors of the calls, as the description lists them: each status that a call may answer.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses, ToSchema as _,
    openapi::{Content, Ref, RefOr, Response, ResponseBuilder},
};

use super::problem::Problem;

/// A call's `responses` name these types, each of which stands for the errors in its row.
macro_rules! refusals {
    ($($(#[$doc:meta])+ $name:ident { $($status:literal: $words:literal,)+ })+) => {$(
        $(#[$doc])+
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                [$(($status, $words)),+].into_iter().map(refusal).collect()
            }
        }
    )+};
}

refusals! {
    /// Of every call, the open one too.
    Failed {
        429: "over TCP: too many requests from this address, or too many without a right token; \
              Retry-After says when to repeat it",
        500: "the daemon failed; its log says why",
    }
    /// Of every call whose answer has an end.
    Slow {
        504: "it took too long, and may still take effect",
    }
    /// Of every call but the open one.
    Gated {
        401: "over TCP: no token, or a wrong, expired or revoked one",
        403: "over TCP: a token without the scope that this takes; over the unix socket: a user \
              that may not use it",
    }
    /// Of calls with parameters, in the path or behind it.
    BadParameter {
        400: "a parameter that cannot be read; field names it",
    }
    /// Of calls with a body.
    BadBody {
        400: "a parameter or body that cannot be read; field names it",
        408: "the body came too slowly",
        413: "the body is too large",
        415: "the body is of another media type",
        422: "what the body says is wrong; nothing was changed",
    }
    /// Of calls with the body of a whole list.
    NoPlace {
        503: "other bodies take all the room, or the state directory cannot be written; \
              Retry-After says when to repeat it",
    }
    /// Of calls that write to the journal.
    NotWritten {
        503: "the state directory cannot be written; Retry-After says when to repeat it",
    }
    /// Of calls that add to a list.
    Full {
        507: "at capacity; nothing was changed",
    }
    /// Of calls on one entry.
    NotThere {
        404: "there is no such entry",
    }
    /// Of calls on a list.
    Protected {
        409: "it is protected: a deny of exactly that takes force, and its allow entry cannot be \
              removed; or another change waits to be confirmed, which detail names",
    }
    /// Of calls that put a backup back.
    CutsOff {
        409: "it cuts off peers, which errors names and which takes force; or it denies exactly a \
              protected prefix, has bans of too many different prefix lengths, or another change waits to \
              be confirmed; detail says which",
    }
    /// Of calls that change what may be on trial.
    InTheWay {
        409: "another change waits to be confirmed; detail names it",
    }
    /// Of calls that change the rules.
    TooManyLengths {
        409: "bans of too many different prefix lengths would stand; or another change waits to be \
              confirmed; detail says which",
    }
    /// Of calls on a change on trial.
    NotPending {
        404: "no change of this id waits to be confirmed",
        409: "the change cannot be settled; detail says why",
    }
}

fn refusal((status, words): (u16, &str)) -> (String, RefOr<Response>) {
    let problem = Ref::from_schema_name(Problem::name());
    let response = ResponseBuilder::new()
        .description(words)
        .content("application/problem+json", Content::new(Some(problem)))
        .build();
    (status.to_string(), response.into())
}
