//! Reading requests; what cannot be read becomes a [`Problem`] that names the input.

use std::{net::IpAddr, time::Duration};

use axum::{
    body::{Bytes, to_bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::prefix::{self, Parsed};

/// Bodies that are no lists.
pub(super) const SMALL_BODY: usize = 64 * 1024;
/// From the first to the last byte of a body.
const BODY_TIME: Duration = Duration::from_secs(60);

/// The prefix at the end of the path, with `/` or `%2F`.
pub(super) struct PathPrefix(pub Parsed);

/// The single address at the end of the path.
pub(super) struct PathAddress(pub IpAddr);

/// Query parameters; unknown ones are errors if `T` denies them.
pub(super) struct Params<T>(pub T);

/// A JSON body of at most [`SMALL_BODY`].
pub(super) struct Body<T>(pub T);

/// A JSON body of at most [`SMALL_BODY`] that may be missing.
pub(super) struct OptionalBody<T>(pub T);

impl<S: Send + Sync> FromRequestParts<S> for PathPrefix {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = last_of_path(parts, state, "prefix").await?;
        let parsed = prefix::parse(&text).map_err(|e| Problem::bad("prefix", e.to_string()))?;
        Ok(Self(parsed))
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
pub fn address(text: &str) -> Result<IpAddr, String> {
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
            let text = rejection.body_text();
            let cause = text.strip_prefix("Failed to deserialize query string: ");
            let cause = cause.unwrap_or(&text);
            let place = cause.split_once(": ").map(|(place, _)| place);
            let field = named_field(cause).or(place).unwrap_or("query").to_owned();
            Problem::bad(field, format!("query: {cause}"))
        })?;
        Ok(Self(params))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media = media_type(request.headers());
        let body = read(request, SMALL_BODY).await?;
        expect_json(media.as_deref())?;
        json(&body).map(Self)
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media = media_type(request.headers());
        let body = read(request, SMALL_BODY).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        expect_json(media.as_deref())?;
        json(&body).map(Self)
    }
}

/// The media type in lower case, without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let media = value.split(';').next().unwrap_or_default();
    Some(media.trim().to_ascii_lowercase())
}

fn expect_json(media: Option<&str>) -> Result<(), Problem> {
    if media == Some("application/json") {
        return Ok(());
    }
    Err(unsupported(media, "application/json"))
}

/// 415, with what is taken instead.
pub(super) fn unsupported(media: Option<&str>, taken: &str) -> Problem {
    let given = media.map_or("no content type".to_owned(), |media| format!("{media:?}"));
    let detail = format!("the body has {given}: send it as {taken}");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).about("Content-Type")
}

/// Reads a body whole: 413 beyond `limit` bytes, 408 when it is slower than a minute.
pub(super) async fn read(request: Request, limit: usize) -> Result<Bytes, Problem> {
    read_within(BODY_TIME, request, limit).await
}

async fn read_within(time: Duration, request: Request, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body is larger than {limit} bytes: send it in parts");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).about("body")
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let reading = to_bytes(request.into_body(), limit);
    match tokio::time::timeout(time, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // The one cause besides the limit is a sender that went away, who reads no answer.
        Ok(Err(_)) => Err(too_large()),
        Err(_) => {
            let seconds = time.as_secs();
            let detail = format!("the body was not whole after {seconds} s: send it faster");
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail).about("body"))
        }
    }
}

/// Reads JSON: 400 for what is no JSON, 422 for JSON of another shape.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        let field = named_field(&text).unwrap_or("body").to_owned();
        if error.is_data() {
            Problem::refused(field, text)
        } else {
            Problem::bad(field, format!("the body is no JSON: {text}"))
        }
    })
}

/// The field that serde complains of, where its message names one.
pub(super) fn named_field(message: &str) -> Option<&str> {
    let starts = ["unknown field `", "missing field `", "duplicate field `"];
    let (_, rest) = starts.iter().find_map(|start| message.split_once(start))?;
    rest.split('`').next()
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        body::Body as HttpBody,
        http::Uri,
        routing::{get, put},
    };
    use serde::Deserialize;
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
        let body = to_bytes(response.into_body(), SMALL_BODY).await.unwrap();
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

    #[tokio::test]
    async fn bodies_are_judged_by_type_size_and_shape() {
        async fn shown(OptionalBody(few): OptionalBody<Few>) -> axum::Json<Option<u8>> {
            axum::Json(few.limit)
        }
        let router = Router::new().route("/", put(shown));
        let padded = |n: usize| format!("{{\"limit\":1}}{}", " ".repeat(n - 11));
        let table = [
            ("", None, 200, None),
            ("{}", Some("application/json; charset=utf-8"), 200, None),
            ("{}", Some("APPLICATION/JSON"), 200, None),
            ("{}", Some("text/plain"), 415, Some("Content-Type")),
            ("{}", None, 415, Some("Content-Type")),
            ("{", Some("application/json"), 400, Some("body")),
            ("{\"size\":1}", Some("application/json"), 422, Some("size")),
            ("[\"no\"]", Some("application/json"), 422, Some("body")),
            (&padded(SMALL_BODY), Some("application/json"), 200, None),
            (
                &padded(SMALL_BODY + 1),
                Some("application/json"),
                413,
                Some("body"),
            ),
        ];
        for (body, media, status, field) in table {
            let mut request = Request::put("/");
            if let Some(media) = media {
                request = request.header(header::CONTENT_TYPE, media);
            }
            let request = request.body(HttpBody::from(body.to_owned())).unwrap();
            let (got, problem) = answer(router.clone(), request).await;
            assert_eq!(got.as_u16(), status, "{media:?} {problem}");
            assert_eq!(
                problem.get("field").and_then(|f| f.as_str()),
                field,
                "{problem}"
            );
        }
    }

    #[tokio::test]
    async fn a_slow_body_is_given_up() {
        let endless = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let request = Request::put("/")
            .body(HttpBody::from_stream(endless))
            .unwrap();
        let time = Duration::from_millis(1);
        let problem = read_within(time, request, SMALL_BODY).await.unwrap_err();
        assert_eq!(problem.status, 408);
    }
}
