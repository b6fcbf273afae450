//! Bodies of JSON, and where in them something is wrong.

use axum::{
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::{
    api::{
        problem::Problem,
        upload::{SMALL_BODY, Uploads},
    },
    document::plain,
};

/// A JSON body of at most [`SMALL_BODY`].
pub(in crate::api) struct Body<T>(pub T);

/// A JSON body of at most [`SMALL_BODY`] that may be missing.
pub(in crate::api) struct OptionalBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media = media_type(request.headers());
        let body = Uploads::of(&request).read(request, SMALL_BODY).await?;
        expect_json(media.as_deref())?;
        json(&body).map(Self)
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media = media_type(request.headers());
        let body = Uploads::of(&request).read(request, SMALL_BODY).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        expect_json(media.as_deref())?;
        json(&body).map(Self)
    }
}

/// The media type in lower case, without its parameters.
pub(in crate::api) fn media_type(headers: &HeaderMap) -> Option<String> {
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
pub(in crate::api) fn unsupported(media: Option<&str>, taken: &str) -> Problem {
    let given = media.map_or("no content type".to_owned(), |media| format!("{media:?}"));
    let detail = format!("the body has {given}: send it as {taken}");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).about("Content-Type")
}

/// Reads JSON: 400 for what is no JSON, 422 for JSON of another shape.
///
/// Serde reads a struct from an array too, by the order of its fields, which nobody is told of: what is
/// documented as an object is taken as one alone.
pub(in crate::api) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        let read = serde_json::from_slice::<IgnoredAny>(body);
        read.map_err(|error| no_json(&error))?;
        return Err(Problem::refused("body", NO_OBJECT));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json);
    let value = read.map_err(|error| {
        if !error.inner().is_data() {
            return no_json(error.inner());
        }
        let (field, detail) = told(&error);
        Problem::refused(field.as_deref().unwrap_or("body"), detail)
    })?;
    json.end().map_err(|error| no_json(&error))?;
    Ok(value)
}

/// What is wrong with an array in the place of an object.
pub(in crate::api) const NO_OBJECT: &str =
    "it is an array: write an object, with the names of its fields, such as {\"name\": \"value\"}";

fn no_json(error: &serde_json::Error) -> Problem {
    Problem::bad("body", format!("the body is no JSON: {error}"))
}

/// Where in a document serde found something wrong, and what.
pub(in crate::api) fn told(
    error: &serde_path_to_error::Error<serde_json::Error>,
) -> (Option<String>, String) {
    let place = place_of(error).as_deref().map(plain);
    (place, plain(&error.inner().to_string()))
}

/// As `ttl` or `rules[0].within`; `None` for the document itself.
fn place_of(error: &serde_path_to_error::Error<serde_json::Error>) -> Option<String> {
    let path = error.path().to_string();
    let message = error.inner().to_string();
    // A field that is missing is not on the way to where it is missed.
    match (path.as_str(), named_field(&message)) {
        (".", None) => None,
        (".", Some(name)) => Some(name.to_owned()),
        (_, Some(name)) if !path.ends_with(name) => Some(format!("{path}.{name}")),
        _ => Some(path),
    }
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
        body::{Body as HttpBody, to_bytes},
        routing::put,
    };
    use serde::Deserialize;
    use tower::ServiceExt as _;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Few {
        #[serde(default)]
        limit: Option<u8>,
        #[serde(default)]
        #[serde(rename = "nested")]
        _nested: Vec<Nested>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nested {
        #[serde(rename = "name")]
        _name: String,
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
            (" [1]", Some("application/json"), 422, Some("body")),
            ("[1", Some("application/json"), 400, Some("body")),
            ("[1] 2", Some("application/json"), 400, Some("body")),
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
            let response = router.clone().oneshot(request).await.unwrap();
            let got = response.status();
            let answer = to_bytes(response.into_body(), SMALL_BODY).await.unwrap();
            let problem: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(got.as_u16(), status, "{media:?} {problem}");
            assert_eq!(
                problem.get("field").and_then(|f| f.as_str()),
                field,
                "{problem}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place() {
        let place = |body: &str| json::<Few>(body.as_bytes()).unwrap_err().field;
        let table = [
            (r#"{"limit":"x"}"#, "limit"),
            (r#"{"limit":256}"#, "limit"),
            (r#"{"limit":1,"limit":2}"#, "limit"),
            (r#"{"size":1}"#, "size"),
            (r#"{"nested":7}"#, "nested"),
            (r#"{"nested":[7]}"#, "nested[0]"),
            (r#"{"nested":[{"name":"a"},{"name":7}]}"#, "nested[1].name"),
            (r#"{"nested":[{}]}"#, "nested[0].name"),
            (r#"{"nested":[{"name":"a","size":1}]}"#, "nested[0].size"),
            ("7", "body"),
            (r#"{"limit":"#, "body"),
            (r#"{} {}"#, "body"),
        ];
        for (body, field) in table {
            assert_eq!(place(body).as_deref(), Some(field), "{body}");
        }
    }
}
