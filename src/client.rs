//! HTTP client of the command line: HTTP/1.1 over the daemon's socket, or over TCP with a key, with TLS
//! for https URLs.
//!
//! Promises: one connection for requests, and one for each stream that is followed; a request is sent
//! once and never repeated; every wait has a time limit. A malformed key is refused here, before
//! anything is sent. Callers define the requests.

mod tls;

use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::write::GzDecoder;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HOST, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::api;
use crate::domain::key::{Malformed, Presented};

/// Size limit of an answer, in bytes.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// Size limit of one server-sent event, in bytes.
const FOLLOWED_MAX: usize = 64 * 1024 * 1024;

/// Address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A socket on this machine. Opening it needs permission, but no key.
    Socket(PathBuf),
    /// A TCP address.
    Tcp {
        /// Scheme of the URL.
        scheme: Scheme,
        /// Host and port to connect to.
        authority: String,
        /// Path prefix: empty, or `/…` without a trailing slash.
        prefix: String,
    },
}

/// Protocol of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// TLS, with a certificate that this machine trusts.
    Https,
}

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

impl Target {
    /// Parses `http[s]://host[:port][/prefix]`.
    ///
    /// # Errors
    /// [`Error::Url`] with the reason.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Url(crate::text::masked_url(url), why.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong("it is not a URL"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(wrong("it does not begin with http:// or https://")),
        };
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| wrong("it has no host"))?;
        Ok(Self::Tcp {
            scheme,
            authority: format!("{host}:{}", uri.port_u16().unwrap_or(scheme.port())),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    fn host(&self) -> &str {
        match self {
            Self::Socket(_) => "localhost",
            Self::Tcp { authority, .. } => authority,
        }
    }

    fn prefix(&self) -> &str {
        match self {
            Self::Socket(_) => "",
            Self::Tcp { prefix, .. } => prefix,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp {
                scheme,
                authority,
                prefix,
            } => write!(f, "{scheme}://{authority}{prefix}"),
        }
    }
}

/// A complete access key, ready to be sent. It cannot be printed.
#[derive(Clone)]
pub struct Secret(HeaderValue);

impl Secret {
    /// Parses a key; surrounding white space is ignored.
    ///
    /// # Errors
    /// [`Malformed`] when it is no key, or not a complete one.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let text = text.trim();
        Presented::parse(text)?;
        let mut value = HeaderValue::try_from(format!("Bearer {text}"))
            .map_err(|_| Malformed::Damaged(text.chars().count()))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// Reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be used; nothing was sent.
    #[error("{0} cannot be used: {1}")]
    Url(String, String),
    /// No daemon answers; nothing was done.
    #[error("no daemon at {target} ({why})")]
    Unreachable {
        /// Address of the daemon.
        target: Target,
        /// Message of the system.
        why: String,
    },
    /// The socket's file denies this user access; nothing was sent.
    #[error("this user may not use {target} (permission denied)")]
    Forbidden {
        /// Address of the daemon.
        target: Target,
    },
    /// The answer did not come in time; the outcome is unknown.
    #[error("no answer from {target} within {}s", .after.as_secs_f64())]
    TimedOut {
        /// Address of the daemon.
        target: Target,
        /// Time that was waited.
        after: Duration,
    },
    /// The connection ended early; the outcome is unknown.
    #[error("the connection to {target} was closed: {why}")]
    BrokeOff {
        /// Address of the daemon.
        target: Target,
        /// Error of the connection.
        why: String,
    },
    /// The daemon refused the request.
    #[error("{error}")]
    Refused {
        /// Status of the answer.
        status: StatusCode,
        /// Error in the answer.
        error: api::Error,
    },
    /// The answer cannot be read; it may not come from a daemon of this version.
    #[error("{target} gave an answer that cannot be read: {why}")]
    Garbled {
        /// Address of the daemon.
        target: Target,
        /// The fault of the answer.
        why: String,
    },
}

/// The connection shared by all requests of a client.
type Sender = SendRequest<Full<Bytes>>;

/// A client of one daemon.
pub struct Client {
    target: Target,
    key: Option<Secret>,
    patience: Duration,
    sender: Mutex<Option<Sender>>,
}

impl Client {
    /// A client that waits `patience` for each answer. It connects with its first request.
    pub fn new(target: Target, key: Option<Secret>, patience: Duration) -> Self {
        Self {
            target,
            key,
            patience,
            sender: Mutex::new(None),
        }
    }

    /// Address of its daemon.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Connects without a request, to find out early whether a daemon answers.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when none does.
    pub async fn greet(&self) -> Result<(), Error> {
        let connected = timeout(self.patience, self.connect()).await;
        let sender = connected.map_err(|_| self.timed_out(self.patience))??;
        *self.sender.lock().await = Some(sender);
        Ok(())
    }

    /// Sends `request`, whose URI is a path, and reads the whole answer, whatever its status. `longer`
    /// is extra time for a request that lets the daemon wait.
    ///
    /// # Errors
    /// All of [`Error`] except [`Error::Refused`], which the caller finds in the answer.
    pub async fn exchange(
        &self,
        request: Request<Bytes>,
        longer: Duration,
    ) -> Result<Response<Bytes>, Error> {
        let after = self.patience.saturating_add(longer);
        match timeout(after, self.ask(request)).await {
            Ok(answer) => answer,
            // The next request must not use a connection whose answer is still outstanding.
            Err(_) => {
                *self.sender.lock().await = None;
                Err(self.timed_out(after))
            }
        }
    }

    async fn ask(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let request = self.addressed(request)?;
        let mut shared = self.sender.lock().await;
        let mut sender = match shared.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        sender.ready().await.map_err(|e| self.broke_off(&e))?;
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(|e| self.broke_off(&e))?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|e| self.broke_off(&*e))?.to_bytes();
        *shared = Some(sender);
        Ok(Response::from_parts(head, body))
    }

    /// Follows the server-sent events at `path`.
    ///
    /// # Errors
    /// All of [`Error`], including [`Error::Refused`].
    pub async fn follow(&self, path: &str) -> Result<Followed, Error> {
        let request = Request::get(path).header("accept", "text/event-stream");
        let request = request.header(ACCEPT_ENCODING, "gzip");
        let request = request.body(Bytes::new()).map_err(|e| self.garbled(&e))?;
        let request = self.addressed(request)?;
        let answer = timeout(self.patience, async {
            let mut sender = self.connect().await?;
            let answer = sender.send_request(request).await;
            answer.map_err(|e| self.broke_off(&e))
        });
        let answer = answer.await.map_err(|_| self.timed_out(self.patience))??;
        if answer.status() != StatusCode::OK {
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await;
            let body = body.map_err(|e| self.broke_off(&*e))?.to_bytes();
            return Err(refused(head.status, &body));
        }
        let coding = answer.headers().get(CONTENT_ENCODING);
        let is_compressed = coding.is_some_and(|coding| coding == "gzip");
        Ok(Followed {
            target: self.target.clone(),
            body: answer.into_body(),
            unread: BytesMut::new(),
            decoder: is_compressed.then(|| GzDecoder::new(Vec::new())),
        })
    }

    /// Adds prefix, host, key and user agent to a request.
    fn addressed(&self, request: Request<Bytes>) -> Result<Request<Full<Bytes>>, Error> {
        let (mut head, body) = request.into_parts();
        let path = format!("{}{}", self.target.prefix(), head.uri);
        head.uri = path.parse().map_err(|e| self.garbled(&e))?;
        let host = HeaderValue::try_from(self.target.host());
        head.headers
            .insert(HOST, host.map_err(|e| self.garbled(&e))?);
        let agent = concat!("hooklane/", env!("CARGO_PKG_VERSION"));
        let agent = HeaderValue::from_static(agent);
        head.headers
            .entry(http::header::USER_AGENT)
            .or_insert(agent);
        if let Some(Secret(key)) = &self.key {
            head.headers.insert(AUTHORIZATION, key.clone());
        }
        Ok(Request::from_parts(head, Full::new(body)))
    }

    async fn connect(&self) -> Result<Sender, Error> {
        match &self.target {
            Target::Socket(path) => {
                let stream = UnixStream::connect(path).await;
                self.shake(stream.map_err(|e| self.unreachable(&e))?).await
            }
            Target::Tcp {
                scheme, authority, ..
            } => {
                let stream = TcpStream::connect(authority).await;
                let stream = stream.map_err(|e| self.unreachable(&e))?;
                // Without this, a small request waits for the acknowledgement of the previous one.
                stream.set_nodelay(true).map_err(|e| self.unreachable(&e))?;
                match scheme {
                    Scheme::Http => self.shake(stream).await,
                    Scheme::Https => {
                        let secured = tls::secure(stream, authority).await;
                        self.shake(secured.map_err(|e| self.unreachable(&e))?).await
                    }
                }
            }
        }
    }

    async fn shake<S>(&self, stream: S) -> Result<Sender, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|e| self.broke_off(&e))?;
        // Its errors are returned with the request that they concern.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn unreachable(&self, error: &std::io::Error) -> Error {
        let target = self.target.clone();
        let why = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file".to_owned(),
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            std::io::ErrorKind::PermissionDenied => return Error::Forbidden { target },
            _ => error.to_string(),
        };
        Error::Unreachable { target, why }
    }

    fn timed_out(&self, after: Duration) -> Error {
        let target = self.target.clone();
        Error::TimedOut { target, after }
    }

    fn broke_off(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        broke_off(&self.target, error)
    }

    fn garbled(&self, error: &dyn std::error::Error) -> Error {
        Error::Garbled {
            target: self.target.clone(),
            why: error.to_string(),
        }
    }
}

fn broke_off(target: &Target, error: &(dyn std::error::Error + 'static)) -> Error {
    let target = target.clone();
    let why = error.to_string();
    Error::BrokeOff { target, why }
}

/// The error of an answer that is not a success; without a readable body, the status.
pub fn refused(status: StatusCode, body: &[u8]) -> Error {
    let error = match serde_json::from_slice::<api::Failure>(body) {
        Ok(failure) => failure.error,
        Err(_) => api::Error::new("unexpected_answer", format!("the answer is {status}")),
    };
    Error::Refused { status, error }
}

/// A stream of server-sent events.
pub struct Followed {
    target: Target,
    body: Incoming,
    unread: BytesMut,
    decoder: Option<GzDecoder<Vec<u8>>>,
}

impl Followed {
    /// The data of the next event; `None` when the daemon ends the stream. Comments, which keep the
    /// connection alive, are skipped.
    ///
    /// # Errors
    /// [`Error::BrokeOff`] when the connection ends within an event.
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            while let Some(block) = take_block(&mut self.unread) {
                if let Some(data) = data_of(&block) {
                    return Ok(Some(data));
                }
            }
            if self.unread.len() > FOLLOWED_MAX {
                let error = std::io::Error::other("an event is too long");
                return Err(broke_off(&self.target, &error));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broke_off(&self.target, &error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        let read = self.read(&bytes);
                        read.map_err(|error| broke_off(&self.target, &error))?;
                    }
                }
            }
        }
    }

    fn read(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.decoder {
            None => self.unread.extend_from_slice(bytes),
            Some(decoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                self.unread.extend_from_slice(decoder.get_ref());
                decoder.get_mut().clear();
            }
        }
        Ok(())
    }
}

/// Takes the text before the first empty line.
fn take_block(unread: &mut BytesMut) -> Option<String> {
    let end = unread.windows(2).position(|two| two == b"\n\n")?;
    let block = unread.split_to(end + 2);
    Some(String::from_utf8_lossy(&block[..end]).into_owned())
}

/// The `data:` lines of an event, joined; `None` when it has none.
fn data_of(block: &str) -> Option<String> {
    let lines = block.lines().filter_map(|line| line.strip_prefix("data:"));
    let lines: Vec<&str> = lines
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_host_with_an_optional_port_and_prefix() {
        for (url, shown) in [
            ("http://hooks.example", "http://hooks.example:80"),
            ("http://127.0.0.1:8420/", "http://127.0.0.1:8420"),
            ("http://[::1]:8420", "http://[::1]:8420"),
            ("http://a/hl/", "http://a:80/hl"),
            ("https://a", "https://a:443"),
        ] {
            assert_eq!(Target::parse(url).unwrap().to_string(), shown);
        }
        for wrong in ["", "a", "127.0.0.1:8420", "ftp://a", "http://", "https://"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_whole_key_is_ever_sent() {
        let whole = crate::domain::key::mint(crate::domain::key::Kind::Write).text;
        assert!(Secret::parse(&format!("{whole}\n")).is_ok());
        assert!(Secret::parse(&whole[..30]).is_err());
        assert!(Secret::parse("hunter2").is_err());
    }

    #[test]
    fn events_are_told_apart_however_they_are_cut() {
        let sent = b": alive\n\nevent: state\ndata: {\"a\":\ndata: 1}\n\ndata:x\n\nrest";
        let mut unread = BytesMut::new();
        let mut seen = Vec::new();
        for byte in sent {
            unread.extend_from_slice(&[*byte]);
            while let Some(block) = take_block(&mut unread) {
                seen.extend(data_of(&block));
            }
        }
        assert_eq!(seen, ["{\"a\":\n1}", "x"]);
        assert_eq!(&unread[..], b"rest");
    }

    #[test]
    fn a_refusal_is_read_and_garbage_is_told_by_its_status() {
        let body = br#"{"error":{"code":"no_such_hook","message":"no hook \"a\""}}"#;
        let error = refused(StatusCode::NOT_FOUND, body);
        assert_eq!(error.to_string(), "no hook \"a\"");
        let error = refused(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(error.to_string(), "the answer is 502 Bad Gateway");
    }

    #[tokio::test]
    async fn nobody_there_is_told_from_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::Socket(dir.path().join("hooklane.sock"));
        let client = Client::new(target, None, Duration::from_secs(5));
        let request = Request::get("/").body(Bytes::new()).unwrap();
        let answer = client.exchange(request, Duration::ZERO).await;
        assert!(matches!(answer, Err(Error::Unreachable { why, .. }) if why == "no such file"));
        // Root, who may run this test, is denied nothing.
        let forbidden = client.unreachable(&std::io::ErrorKind::PermissionDenied.into());
        assert!(matches!(forbidden, Error::Forbidden { .. }));
    }
}
