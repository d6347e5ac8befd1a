//! Checks the head of a request strictly by RFC 9110 and RFC 9112, before hyper parses it.
//!
//! Hyper answers a malformed head with a bare status, and accepts some that a server must refuse. Every
//! head that passes here is accepted by hyper, so all refusals have the form of [`Error`].

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use http::{StatusCode, Uri};

use super::limits::Limits;
use crate::http::error::Error;

/// Result of examining the beginning of a head.
#[derive(Debug)]
pub(super) enum Head {
    /// The blank line at its end has not arrived.
    Partial,
    /// The head takes `len` bytes; the body that follows is framed as `body`.
    Whole { len: usize, body: Length },
    /// Answer with this and close the connection, because the beginning of the next request is
    /// uncertain.
    Refused(Error),
}

/// Framing of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// This number of bytes.
    Fixed(u64),
    /// Chunked; ends with the chunk of length 0.
    Chunked,
}

/// Number of headers that hyper parses; [`Limits::headers_max`] may be lower.
const PARSED_MAX: usize = 100;

/// Examines bytes that begin with a head.
pub(super) fn judge(bytes: &[u8], limits: &Limits) -> Head {
    let mut headers = [const { MaybeUninit::uninit() }; PARSED_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut headers);
    let len = match parsed {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() > limits.head_max => {
            return Head::Refused(too_large(bytes));
        }
        Ok(httparse::Status::Partial) => return Head::Partial,
        Err(error) => return Head::Refused(unparsed(error, limits)),
    };
    if len > limits.head_max {
        return Head::Refused(too_large(&bytes[..len]));
    }
    if request.headers.len() > limits.headers_max {
        return Head::Refused(Error::head_too_large(limits.headers_max));
    }
    match length(&request) {
        Ok(body) => Head::Whole { len, body },
        Err(refused) => Head::Refused(refused),
    }
}

fn unparsed(error: httparse::Error, limits: &Limits) -> Error {
    match error {
        httparse::Error::TooManyHeaders => Error::head_too_large(limits.headers_max),
        httparse::Error::Version => Error::closing(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "version",
            "this is HTTP/1.1 and HTTP/1.0 only",
        ),
        other => bad(format!("the request is not HTTP: {other}")),
    }
}

/// The error of a head that exceeds the limit. The target is to blame if not even the first line is
/// complete.
fn too_large(bytes: &[u8]) -> Error {
    match bytes.trim_ascii_start().contains(&b'\n') {
        true => Error::closing(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "head_too_large",
            "the head of the request is too large",
        ),
        false => Error::closing(
            StatusCode::URI_TOO_LONG,
            "uri_too_long",
            "the first line of the request is too long",
        ),
    }
}

/// Checks target, `Host` and framing as RFC 9112 requires, and determines the length of the body (its
/// section 6.3).
fn length(request: &httparse::Request<'_, '_>) -> Result<Length, Error> {
    let is_old = request.version == Some(0);
    if request.path.is_none_or(|path| Uri::try_from(path).is_err()) {
        return Err(bad("the target of the request is no URI"));
    }
    let mut hosts = 0;
    let mut fixed = None;
    let mut codings = None;
    for header in request.headers.iter() {
        let (name, value) = (header.name, header.value);
        if name.eq_ignore_ascii_case("host") {
            hosts += 1;
            if hosts > 1 || !is_host(value) {
                let message = "the Host header must be one, and a host with or without a port";
                return Err(bad(message));
            }
        } else if name.eq_ignore_ascii_case("content-length") {
            let length = content_length(value)?;
            if fixed.replace(length).is_some_and(|other| other != length) {
                return Err(bad("there are two Content-Lengths"));
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            codings = Some(codings.unwrap_or(0) + chunked(value)?);
        }
    }
    if hosts == 0 && !is_old {
        return Err(bad("there is no Host header"));
    }
    match (codings, fixed) {
        (Some(_), _) if is_old => Err(bad("HTTP/1.0 has no Transfer-Encoding")),
        (Some(1), _) => Ok(Length::Chunked),
        (Some(_), _) => Err(bad("the body must be chunked once")),
        (None, Some(length)) => Ok(Length::Fixed(length)),
        // An HTTP/1.0 client ends such a body by closing, which looks the same as a broken connection.
        (None, None) if is_old && has_body(request.method) => Err(Error::closing(
            StatusCode::LENGTH_REQUIRED,
            "length_required",
            "a body needs a Content-Length",
        )),
        (None, None) => Ok(Length::Fixed(0)),
    }
}

fn has_body(method: Option<&str>) -> bool {
    matches!(method, Some("POST" | "PUT" | "PATCH"))
}

/// Accepts digits only: signs, lists and spaces enable request smuggling.
fn content_length(value: &[u8]) -> Result<u64, Error> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad("the Content-Length is no number"));
    }
    let length = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse::<i64>().ok());
    let length = length.and_then(|length| u64::try_from(length).ok());
    length.ok_or_else(|| {
        let message = "the Content-Length is larger than any body may be";
        Error::closing(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    })
}

/// Number of times that `Transfer-Encoding` contains `chunked`, the only supported coding.
fn chunked(value: &[u8]) -> Result<u32, Error> {
    let mut times = 0;
    for coding in value.split(|byte| *byte == b',') {
        match coding.trim_ascii() {
            b"" => {}
            coding if coding.eq_ignore_ascii_case(b"chunked") => times += 1,
            _ => {
                return Err(Error::closing(
                    StatusCode::NOT_IMPLEMENTED,
                    "transfer_encoding",
                    "the only Transfer-Encoding that is understood is chunked",
                ));
            }
        }
    }
    Ok(times)
}

/// Checks `uri-host [ ":" port ]` of RFC 9110, section 7.2; empty where the target has no authority.
fn is_host(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    let is_port = |rest: &str| {
        rest.is_empty()
            || rest
                .strip_prefix(':')
                .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if let Some(literal) = text.strip_prefix('[') {
        let Some((address, rest)) = literal.split_once(']') else {
            return false;
        };
        return address.parse::<Ipv6Addr>().is_ok() && is_port(rest);
    }
    let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    name.bytes().all(is_name) && is_port(rest)
}

fn bad(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::closing(StatusCode::BAD_REQUEST, "malformed", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(head: &str) -> u16 {
        match judge(head.as_bytes(), &Limits::default()) {
            Head::Partial => 0,
            Head::Whole { .. } => 200,
            Head::Refused(error) => error.status().as_u16(),
        }
    }

    #[test]
    fn a_host_is_one_and_a_host() {
        let get =
            |version: &str, hosts: &str| status_of(&format!("GET / HTTP/{version}\r\n{hosts}\r\n"));
        assert_eq!(get("1.1", ""), 400);
        assert_eq!(get("1.0", ""), 200);
        for (hosts, status) in [
            ("host: a\r\n", 200),
            ("host:\r\n", 200),
            ("HOST: a.example:8420\r\n", 200),
            ("host: 127.0.0.1:\r\n", 200),
            ("host: [::1]:8420\r\n", 200),
            ("host: a\r\nhost: a\r\n", 400),
            ("host: a\r\nHost: b\r\n", 400),
            ("host: a b\r\n", 400),
            ("host: a/b\r\n", 400),
            ("host: me@a\r\n", 400),
            ("host: a:80x\r\n", 400),
            ("host: a:1:2\r\n", 400),
            ("host: [::1\r\n", 400),
            ("host: [::g]\r\n", 400),
            ("host: \u{fc}\r\n", 400),
        ] {
            assert_eq!(get("1.1", hosts), status, "{hosts:?}");
            assert_eq!(get("1.0", hosts), status, "{hosts:?}");
        }
    }

    #[test]
    fn the_end_of_a_body_is_certain_or_the_request_is_refused() {
        let post = |version: &str, more: &str| {
            status_of(&format!("POST / HTTP/{version}\r\nhost: a\r\n{more}\r\n"))
        };
        for (more, status, old) in [
            ("", 200, 411),
            ("content-length: 0\r\n", 200, 200),
            ("content-length: 5\r\ncontent-length: 5\r\n", 200, 200),
            ("content-length: 5\r\ncontent-length: 6\r\n", 400, 400),
            ("content-length: 5, 5\r\n", 400, 400),
            ("content-length: +5\r\n", 400, 400),
            ("content-length: -1\r\n", 400, 400),
            ("content-length: \r\n", 400, 400),
            ("content-length: 0x5\r\n", 400, 400),
            ("content-length: 9223372036854775807\r\n", 200, 200),
            ("content-length: 18446744073709551615\r\n", 413, 413),
            ("content-length: 18446744073709551616\r\n", 413, 413),
            ("content-length: 99999999999999999999999\r\n", 413, 413),
            ("transfer-encoding: chunked\r\n", 200, 400),
            ("transfer-encoding: , Chunked\r\n", 200, 400),
            ("transfer-encoding: gzip\r\n", 501, 501),
            ("transfer-encoding: identity\r\n", 501, 501),
            ("transfer-encoding: gzip, chunked\r\n", 501, 501),
            (
                "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
                501,
                501,
            ),
            ("transfer-encoding: chunked, chunked\r\n", 400, 400),
            ("transfer-encoding:\r\n", 400, 400),
        ] {
            assert_eq!(post("1.1", more), status, "{more:?}");
            assert_eq!(post("1.0", more), old, "HTTP/1.0: {more:?}");
        }
    }

    #[test]
    fn a_head_is_measured_and_its_version_known() {
        for (head, status) in [
            ("GET / HT", 0),
            ("\r\n\r\n", 0),
            ("GET / HTTP/1.1\r\nhost: a\r\n", 0),
            ("\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 200),
            ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", 200),
            ("GET http://a/b?c HTTP/1.1\r\nhost: a\r\n\r\n", 200),
            ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
            ("GET / HTTP/1.2\r\nhost: a\r\n\r\n", 505),
            ("GET\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n", 400),
        ] {
            assert_eq!(status_of(head), status, "{head:?}");
        }
        let long = "x".repeat(33_000);
        assert_eq!(status_of(&format!("GET /{long}")), 414);
        assert_eq!(status_of(&format!("GET / HTTP/1.1\r\nx: {long}")), 431);
        let many = "x: y\r\n".repeat(64);
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n");
        assert_eq!(status_of(&head), 431);
    }
}
