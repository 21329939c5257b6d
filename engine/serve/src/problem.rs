//! Error responses: each has a status, a code for programs and a message for people, in JSON.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Characters of what a client sent that are quoted in a message.
const QUOTED: usize = 80;

/// An error response.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The part of the request that is wrong, where a client of OpenAI's API looks for its name.
    pub(crate) param: Option<&'static str>,
}

/// The code of a problem, kept with its response for metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Code(pub(crate) &'static str);

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), param: None }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    pub(crate) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "this server is about to end")
    }

    fn is_to_be_tried_again(&self) -> bool {
        matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
    }

    pub(crate) fn body(&self) -> String {
        let &Self { code, ref message, param, .. } = self;
        let kind = param.map(|_| "invalid_request_error");
        let body = Body { error: Told { code, message, param, kind } };
        serde_json::to_string(&body).unwrap_or_default()
    }
}

/// Written straight out: under overload most answers are one of these.
#[derive(Serialize)]
struct Body<'a> {
    error: Told<'a>,
}

#[derive(Serialize)]
struct Told<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response =
            (self.status, [(CONTENT_TYPE, "application/json")], self.body()).into_response();
        if self.is_to_be_tried_again() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let ask = HeaderValue::from_static("Basic realm=\"paraloom\", charset=\"UTF-8\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, ask);
        }
        response.extensions_mut().insert(Code(self.code));
        response
    }
}

/// The start of a text that a client sent, for a message.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The answer that goes out in the place of `head`, if that is the one without a body with which the HTTP parser refuses what it
/// cannot read. No answer of ours that is an error has an empty body.
pub(crate) fn of_the_parser(head: &[u8]) -> Option<Vec<u8>> {
    let head = std::str::from_utf8(head).ok()?;
    let (line, headers) = head.strip_suffix("\r\n\r\n")?.split_once("\r\n")?;
    let status = line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let status = StatusCode::from_u16(status).ok()?;
    // Those that it gives. Others are ours.
    if ![400, 414, 431].contains(&status.as_u16()) {
        return None;
    }
    let is_empty = headers.split("\r\n").any(|line| line.eq_ignore_ascii_case("content-length: 0"));
    if !is_empty {
        return None;
    }
    let (code, message) = match status {
        StatusCode::URI_TOO_LONG => ("too_large", "the address of the request is too long"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
            "too_large",
            "a head of 64 KiB and 100 headers, and a body of 512 KiB, are the most that a request has",
        ),
        _ => ("bad_request", "this is not a request that can be read as HTTP/1.1"),
    };
    let date = headers.split("\r\n").find(|line| line.to_ascii_lowercase().starts_with("date:"));
    let date = date.map(|date| format!("{date}\r\n")).unwrap_or_default();
    Some(written(line, &date, &Problem::new(status, code, message)))
}

/// An answer as it goes over the wire, the last one of its connection.
fn written(line: &str, date: &str, problem: &Problem) -> Vec<u8> {
    let body = problem.body();
    let length = body.len();
    let answer = format!(
        "{line}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\
         x-content-type-options: nosniff\r\n{date}\r\n{body}"
    );
    answer.into_bytes()
}

/// The answer to a client that begins with HTTP/2. The HTTP parser has none.
pub(crate) fn of_http2() -> Vec<u8> {
    let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
    let message = "this server speaks HTTP/1.1, and no HTTP/2 without a proxy before it";
    let problem = Problem::new(status, "http_version", message);
    written("HTTP/1.1 505 HTTP Version Not Supported", "", &problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_parser_gets_a_body() {
        let head = |status: &str, length: usize| {
            format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\ndate: x\r\n\r\n"
            )
        };
        let cases = [
            ("400 Bad Request", 0, Some("bad_request")),
            ("431 Request Header Fields Too Large", 0, Some("too_large")),
            ("414 URI Too Long", 0, Some("too_large")),
            ("404 Not Found", 7, None),
            ("405 Method Not Allowed", 0, None),
            ("400 Bad Request", 7, None),
            ("200 OK", 0, None),
            ("999 ?", 0, None),
        ];
        for (status, length, code) in cases {
            let answer = of_the_parser(head(status, length).as_bytes());
            let answer = answer.map(|answer| String::from_utf8(answer).expect("text"));
            assert_eq!(answer.is_some(), code.is_some(), "{status}");
            if let (Some(answer), Some(code)) = (answer, code) {
                let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
                assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
                assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
                assert!(body.contains(&format!("\"code\":\"{code}\"")), "{body}");
            }
        }
        for bytes in [&b""[..], b"\xff\xfe", b"HTTP/1.1 4", b"5\r\n{\"a\"}\r\n"] {
            assert_eq!(of_the_parser(bytes), None);
        }
    }

    #[test]
    fn what_is_quoted_is_short() {
        assert_eq!(quoted("/v1"), "/v1");
        assert_eq!(quoted(&"\u{e9}".repeat(60_000)).chars().count(), QUOTED + 3);
    }
}
