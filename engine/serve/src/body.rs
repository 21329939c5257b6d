//! Bodies of requests, within the limits on size, time and memory.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use flate2::read::MultiGzDecoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{Problem, quoted};

/// Bytes of one request at most: 128 rows of 512 tokens.
pub(crate) const MAX_BYTES: usize = 512 << 10;
/// Bytes of all requests that are read or worked on at a time.
pub(crate) const BUDGET: usize = 64 << 20;
/// Timeout for receiving the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The unit in which the budget is dealt out.
const UNIT: usize = 1 << 10;

/// Memory for the bodies of requests.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Semaphore>);

/// The body of a request; its memory is counted until this is dropped.
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    _memory: OwnedSemaphorePermit,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET / UNIT)))
    }

    /// Reads a body. What is too long is refused before it is read.
    pub(crate) async fn read(&self, head: &Parts, body: Body) -> Result<Received, Problem> {
        check_transfer(&head.headers)?;
        let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let length = length.and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| length > MAX_BYTES as u64) {
            return Err(too_long());
        }
        let is_packed = is_gzip(&head.headers)?;
        let most = match length {
            Some(length) if !is_packed => length as usize,
            _ => MAX_BYTES,
        };
        let units = u32::try_from(most.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.0).try_acquire_many_owned(units);
        let memory = memory.map_err(|_| {
            Problem::busy("too many long requests are being worked on; try again in a second")
        })?;
        let bytes = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BYTES)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) if is_too_long(&error) => return Err(too_long()),
            Ok(Err(error)) => {
                let reason = innermost(&error);
                return Err(Problem::bad_request(format!("the request broke off: {reason}")));
            }
            Err(_) => {
                let message = format!("the request took more than {} s", BODY_TIMEOUT.as_secs());
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", message));
            }
        };
        let bytes = if is_packed { unpack(&bytes)? } else { bytes };
        Ok(Received { bytes, _memory: memory })
    }
}

fn too_long() -> Problem {
    Problem::too_large(format!("a request has {MAX_BYTES} bytes at most; send fewer rows"))
}

/// A body comes as it is or in chunks. Of several codings the parser minds the last one alone, and a proxy before it another.
fn check_transfer(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_known = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    let message = "`Transfer-Encoding` is `chunked` here and nothing else";
    if is_known { Ok(()) } else { Err(Problem::bad_request(message)) }
}

/// What an error comes from at last.
fn innermost(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>)
}

/// Whether a body is packed with gzip.
fn is_gzip(headers: &HeaderMap) -> Result<bool, Problem> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(false) };
    match coding.to_str().map(|coding| coding.trim().to_ascii_lowercase()).as_deref() {
        Ok("identity" | "") if codings.next().is_none() => Ok(false),
        Ok("gzip" | "x-gzip") if codings.next().is_none() => Ok(true),
        _ => {
            let coding = quoted(&String::from_utf8_lossy(coding.as_bytes()));
            let message = format!("a request is plain or packed with gzip, not with {coding:?}");
            Err(Problem::unsupported(message))
        }
    }
}

/// What tells a client how requests may be packed.
pub(crate) fn accepted_coding() -> (HeaderName, HeaderValue) {
    (ACCEPT_ENCODING, HeaderValue::from_static("gzip"))
}

fn unpack(packed: &[u8]) -> Result<Bytes, Problem> {
    let mut bytes = Vec::new();
    let read = MultiGzDecoder::new(packed).take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Problem::bad_request(format!("this is not gzip: {error}")))?;
    if bytes.len() > MAX_BYTES { Err(too_long()) } else { Ok(bytes.into()) }
}

/// The media type of a request, in small letters, without its parameters; empty if it has none. What the parameters say of how the
/// body is written must be so: it would be read as something else otherwise.
pub(crate) fn media_type(headers: &HeaderMap) -> Result<String, Problem> {
    let mut all = headers.get_all(CONTENT_TYPE).iter();
    let sent = all.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    if all.next().is_some() {
        return Err(Problem::bad_request("the header `Content-Type` is there twice"));
    }
    let mut parts = sent.split(';').map(|part| part.trim().to_ascii_lowercase());
    let kind = parts.next().unwrap_or_default();
    for parameter in parts {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        let value = value.trim_matches('"');
        match name {
            "charset" if !["utf-8", "utf8", "us-ascii"].contains(&value) => {
                let value = quoted(value);
                let message = format!("texts are in UTF-8 here, not in {value:?} (`charset`)");
                return Err(Problem::unsupported(message));
            }
            "header" if kind == "text/csv" && value == "absent" => {
                let message = "CSV begins with a line of the columns' names here (`header`)";
                return Err(Problem::unsupported(message));
            }
            _ => {}
        }
    }
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::http::Request;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        packer.write_all(bytes).expect("to memory");
        packer.finish().expect("to memory")
    }

    type Case<'a> = (&'a [(&'a str, &'a str)], Vec<u8>, Result<Vec<u8>, u16>);

    /// The body, or the status of the problem.
    fn read(headers: &[(&str, &str)], body: Vec<u8>) -> Result<Vec<u8>, u16> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, body) = request.body(Body::from(body)).expect("a request").into_parts();
        let read = runtime.expect("it starts").block_on(Budget::new().read(&head, body));
        read.map(|read| read.bytes.to_vec()).map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn bodies_are_plain_or_packed_and_not_too_long() {
        let gz = ("content-encoding", "gzip");
        let bomb = gzip(&vec![b'a'; 10 * MAX_BYTES]);
        assert!(bomb.len() < MAX_BYTES / 10);
        let chunked = ("transfer-encoding", "Chunked");
        let cases: [Case; 13] = [
            (&[chunked], b"abc".to_vec(), Ok(b"abc".to_vec())),
            (&[chunked, chunked], b"abc".to_vec(), Err(400)),
            (&[("transfer-encoding", "chunked, chunked")], b"abc".to_vec(), Err(400)),
            (&[("transfer-encoding", "gzip, chunked")], b"abc".to_vec(), Err(400)),
            (&[], b"abc".to_vec(), Ok(b"abc".to_vec())),
            (&[("content-encoding", "identity")], b"abc".to_vec(), Ok(b"abc".to_vec())),
            (&[gz], gzip(b"abc"), Ok(b"abc".to_vec())),
            (&[gz], b"abc".to_vec(), Err(400)),
            (&[gz], gzip(b"abc")[..15].to_vec(), Err(400)),
            (&[gz], bomb, Err(413)),
            (&[("content-encoding", "br")], b"abc".to_vec(), Err(415)),
            (&[gz, gz], gzip(&gzip(b"abc")), Err(415)),
            (&[("content-length", "9000000")], Vec::new(), Err(413)),
        ];
        for (headers, body, expected) in cases {
            assert_eq!(read(headers, body), expected, "{headers:?}");
        }
        assert_eq!(read(&[], vec![b'a'; MAX_BYTES + 1]), Err(413));
    }

    #[test]
    fn what_the_type_says_of_the_body_is_minded() {
        let typed = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_TYPE, HeaderValue::from_str(value).expect("a value"));
            }
            media_type(&headers).map_err(|problem| problem.status.as_u16())
        };
        let cases: [(&[&str], Result<&str, u16>); 10] = [
            (&[], Ok("")),
            (&["Application/JSON; Charset=\"UTF-8\""], Ok("application/json")),
            (&["text/csv; charset=us-ascii;header=present"], Ok("text/csv")),
            (&["application/json;"], Ok("application/json")),
            (&["application/json; version=2; charset"], Ok("application/json")),
            (&["text/csv; charset=iso-8859-1"], Err(415)),
            (&["application/json;charset=utf-16"], Err(415)),
            (&["text/csv; header=absent"], Err(415)),
            (&["application/json", "text/csv"], Err(400)),
            (&["application/json", "application/json"], Err(400)),
        ];
        for (values, expected) in cases {
            assert_eq!(typed(values), expected.map(str::to_owned), "{values:?}");
        }
    }
}
