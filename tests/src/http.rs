//! As much HTTP/1.1 as one request on one connection needs.

use std::io::{self, Read, Write};

use serde_json::Value;

use crate::patience::uninterrupted;

/// An answer longer than this is an error: no answer of the daemon to a test comes near.
const MAX_ANSWER: u64 = 64 << 20;

/// A request with an optional body.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Path and query, as they go on the wire.
    pub path: &'a str,
    /// Besides `Host`, `Connection` and `Content-Length`.
    pub headers: Vec<(&'a str, &'a str)>,
    pub body: Vec<u8>,
}

/// An answer, with its body put together.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl<'a> Request<'a> {
    /// A request without headers or body of its own.
    pub fn new(method: &'a str, path: &'a str) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Sends the request and reads the answer to the end of the connection.
    ///
    /// # Errors
    /// Those of the stream, its time-out among them, and `InvalidData` for what is not HTTP.
    pub fn exchange(&self, mut stream: impl Read + Write) -> io::Result<Response> {
        let Self {
            method,
            path,
            headers,
            body,
        } = self;
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(&[request.as_bytes(), body].concat())?;
        Response::read(stream)
    }
}

impl Response {
    /// Reads an answer to the end of the connection.
    ///
    /// # Errors
    /// As [`Request::exchange`].
    pub fn read(stream: impl Read) -> io::Result<Self> {
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Self::parse(&answer).ok_or_else(|| {
            let start = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("no complete HTTP answer: {start:?}"),
            )
        })
    }

    /// The value of a header, named in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text; panics when it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON; panics with the body when it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("body is not JSON ({error}): {self:?}"))
    }

    fn parse(answer: &[u8]) -> Option<Self> {
        let end_of_head = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&answer[..end_of_head]).ok()?;
        let rest = &answer[end_of_head + 4..];
        let mut lines = head.split("\r\n");
        let status = lines
            .next()?
            .strip_prefix("HTTP/1.1 ")?
            .get(..3)?
            .parse()
            .ok()?;
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Option<Vec<_>>>()?;
        let mut response = Self {
            status,
            headers,
            body: Vec::new(),
        };
        response.body = if response.header("transfer-encoding") == Some("chunked") {
            unchunk(rest)?
        } else if let Some(length) = response.header("content-length") {
            rest.get(..length.parse().ok()?)?.to_vec()
        } else {
            rest.to_vec()
        };
        Some(response)
    }
}

/// Puts the chunks of a body together; `None` when the last is missing.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end_of_size = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end_of_size]).ok()?;
        // What follows a semicolon is an extension.
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[end_of_size + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

/// Asks on a connection that stays open: the answer as it comes, up to where it ends with `last`.
///
/// # Errors
/// Those of the stream, its time-out among them; `UnexpectedEof` where it ends before that.
pub fn ask_on(stream: &mut (impl Read + Write), path: &str, last: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while !answer.ends_with(last.as_bytes()) {
        match uninterrupted(|| stream.read(&mut piece))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&piece[..read]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Whether the daemon says so on a connection that stays open.
pub fn is_healthy(stream: &mut (impl Read + Write)) -> bool {
    let answer = ask_on(stream, "/healthz", "{\"status\":\"ok\"}");
    answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_known_length_ends_there() {
        let response =
            Response::parse(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong!").unwrap();
        assert_eq!((response.status, response.text()), (200, "pong"));
    }

    #[test]
    fn chunks_are_put_together() {
        let response = Response::parse(
            b"HTTP/1.1 422 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n3;a=b\r\n,2]\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!(response.json(), serde_json::json!([1, 2]));
    }

    #[test]
    fn a_cut_answer_is_no_answer() {
        for cut in [
            &b"HTTP/1.1 200 OK\r\nContent-Le"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npon",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npong\r\n",
        ] {
            assert!(Response::parse(cut).is_none());
        }
    }
}
