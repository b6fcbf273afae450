//! Reading requests; what cannot be read becomes a [`Problem`] that names the input.

mod body;

use std::net::IpAddr;

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use ipnet::IpNet;
use serde::{Deserialize, de::DeserializeOwned};

#[cfg(any(test, feature = "fuzz"))]
pub(super) use body::json;
pub(super) use body::{Body, NO_OBJECT, OptionalBody, media_type, told, unsupported};

use super::problem::Problem;
use crate::{
    document,
    prefix::{self, Parsed},
};

/// The prefix at the end of the path, with `/` or `%2F`.
pub(super) struct PathPrefix(pub Parsed);

/// The single address at the end of the path.
pub(super) struct PathAddress(pub IpAddr);

/// The id in the path.
pub(super) struct PathId(pub String);

/// Query parameters; unknown ones are errors if `T` denies them.
pub(super) struct Params<T>(pub T);

/// For calls without query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParams {}

impl<S: Send + Sync> FromRequestParts<S> for PathPrefix {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = last_of_path(parts, state, "prefix").await?;
        let parsed = prefix::parse(&text).map_err(|e| Problem::bad("prefix", e.to_string()))?;
        Ok(Self(parsed))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        last_of_path(parts, state, "id").await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathAddress {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = last_of_path(parts, state, "address").await?;
        address(&text)
            .map(Self)
            .map_err(|detail| Problem::bad("address", detail))
    }
}

/// One address; a prefix of full length is one too.
///
/// # Errors
/// A message that quotes the text and says what to write.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let Parsed { prefix, .. } = prefix::parse(text).map_err(|error| error.to_string())?;
    if prefix.prefix_len() != prefix.max_prefix_len() {
        return Err(format!(
            "{text:?} is a prefix of many addresses: write one address, such as {}",
            first_host(prefix)
        ));
    }
    Ok(prefix.addr())
}

fn first_host(prefix: IpNet) -> IpAddr {
    prefix.hosts().next().unwrap_or(prefix.addr())
}

async fn last_of_path<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    field: &'static str,
) -> Result<String, Problem> {
    let Path(text) = Path::<String>::from_request_parts(parts, state)
        .await
        .map_err(|rejection| Problem::bad(field, format!("{rejection}: write it in plain text")))?;
    Ok(text)
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(params) = Query::try_from_uri(&parts.uri).map_err(|rejection| {
            let text = document::plain(&rejection.body_text());
            let cause = text.strip_prefix("Failed to deserialize query string: ");
            let cause = cause.unwrap_or(&text);
            let place = cause.split_once(": ").map(|(place, _)| place);
            let field = body::named_field(cause)
                .or(place)
                .unwrap_or("query")
                .to_owned();
            Problem::bad(field, format!("query: {cause}"))
        })?;
        Ok(Self(params))
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        body::{Body as HttpBody, to_bytes},
        extract::Request,
        http::{StatusCode, Uri},
        routing::get,
    };
    use tower::ServiceExt as _;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Few {
        #[serde(default)]
        limit: Option<u8>,
    }

    async fn answer(router: Router, request: Request) -> (StatusCode, serde_json::Value) {
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 100_000).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_path_takes_a_prefix_with_a_slash_either_way() {
        async fn shown(PathPrefix(parsed): PathPrefix) -> axum::Json<(String, bool)> {
            axum::Json((parsed.to_string(), parsed.host_bits_cleared))
        }
        let router = Router::new().route("/v1/allow/{*prefix}", get(shown));
        let table = [
            ("198.51.100.0/24", "198.51.100.0/24", false),
            ("198.51.100.0%2F24", "198.51.100.0/24", false),
            ("198.51.100.0%2f24", "198.51.100.0/24", false),
            ("198.51.100.7", "198.51.100.7/32", false),
            ("2001:db8::/32", "2001:db8::/32", false),
            ("2001%3Adb8%3A%3A%2F32", "2001:db8::/32", false),
            ("10.0.0.7/8", "10.0.0.0/8", true),
        ];
        for (written, canonical, cleared) in table {
            let uri: Uri = format!("/v1/allow/{written}").parse().unwrap();
            let request = Request::get(uri).body(HttpBody::empty()).unwrap();
            let expected = (StatusCode::OK, serde_json::json!([canonical, cleared]));
            assert_eq!(answer(router.clone(), request).await, expected, "{written}");
        }
        for written in ["198.51.100.0/33", "a%ff", "1/2/3", "198.51.100.0%252F24"] {
            let uri: Uri = format!("/v1/allow/{written}").parse().unwrap();
            let request = Request::get(uri).body(HttpBody::empty()).unwrap();
            let (status, problem) = answer(router.clone(), request).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{written}");
            assert_eq!(problem["field"], "prefix", "{written}");
        }
    }

    #[test]
    fn an_address_is_one() {
        assert_eq!(
            address("198.51.100.7/32"),
            Ok("198.51.100.7".parse().unwrap())
        );
        assert_eq!(
            address("::ffff:198.51.100.7"),
            Ok("198.51.100.7".parse().unwrap())
        );
        let error = address("198.51.100.0/24").unwrap_err();
        assert!(error.ends_with("such as 198.51.100.1"), "{error}");
    }

    #[tokio::test]
    async fn a_query_problem_names_the_parameter() {
        async fn shown(Params(few): Params<Few>) -> axum::Json<Option<u8>> {
            axum::Json(few.limit)
        }
        let router = Router::new().route("/", get(shown));
        let table = [
            ("/?limit=x", "limit"),
            ("/?limit=256", "limit"),
            ("/?size=1", "size"),
        ];
        for (uri, field) in table {
            let request = Request::get(uri).body(HttpBody::empty()).unwrap();
            let (status, problem) = answer(router.clone(), request).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
            assert_eq!(problem["field"], field, "{problem}");
        }
    }
}
