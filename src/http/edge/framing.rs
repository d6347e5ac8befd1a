//! Follows the bytes of a connection from head to body to head, and checks each head before hyper gets
//! it.
//!
//! ```text
//!   head ──▶ body of known length ──▶ head
//!     └────▶ chunks, trailers ──────────┘
//! ```
//! Bytes go on unchanged. A head that comes in pieces is kept back until it is whole. In place of a head
//! that is refused hyper gets [`SUBSTITUTE`], so that the refusal is answered in its turn, behind the
//! answers of requests that came before it. A broken chunk is left to hyper, which ends the connection.

use bytes::{Buf as _, BytesMut};

use super::head::{self, Head, Length};
use super::limits::Limits;
use crate::http::error::Error;

/// Passed to hyper in place of a refused head. Only our own refusal ever answers it.
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nhost: hooklane\r\nconnection: close\r\n\r\n";

/// A refusal, with the number of the request on its connection that it answers, from 0.
pub(super) type Refusal = (u64, Error);

#[derive(Debug, Default)]
pub(super) struct Framing {
    place: Place,
    /// Number of heads passed on.
    heads: u64,
    /// Beginning of an incomplete head.
    held: BytesMut,
    /// Bytes for hyper to read.
    ready: BytesMut,
    /// True once a head was refused; later bytes are ignored.
    is_refused: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    /// Number of body bytes still to come.
    Body(u64),
    Chunks(Chunk),
    /// Malformed input; hyper will end the connection.
    Lost,
}

/// Position in a chunked body (RFC 9112, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Start,
    Size(u64),
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    Line,
    Trailer,
    TrailerEnd,
    End,
}

/// Result of a walk through some bytes.
enum Walked {
    All,
    /// An incomplete head begins at this offset.
    Partial(usize),
    /// The head at this offset is refused.
    Refused(usize, Error),
}

impl Framing {
    /// Examines new bytes. Returns how many of them hyper may have at once; the others are kept until
    /// [`Framing::read`].
    pub(super) fn arrived(&mut self, new: &[u8], limits: &Limits) -> (usize, Option<Refusal>) {
        if self.held.is_empty() {
            return match self.walk(new, limits) {
                Walked::All => (new.len(), None),
                Walked::Partial(at) => {
                    self.held.extend_from_slice(&new[at..]);
                    (at, None)
                }
                Walked::Refused(at, error) => (at, Some(self.refuse(error))),
            };
        }
        let before = self.held.len();
        self.held.extend_from_slice(new);
        // A head is parsed only when it may be complete, so one that comes byte by byte costs no more
        // than others.
        if !has_blank_line(&self.held[before.saturating_sub(2)..])
            && self.held.len() <= limits.head_max
        {
            return (0, None);
        }
        let mut held = std::mem::take(&mut self.held);
        let refusal = match self.walk(&held, limits) {
            Walked::All => {
                self.ready.unsplit(held);
                None
            }
            Walked::Partial(at) => {
                self.held = held.split_off(at);
                self.ready.unsplit(held);
                None
            }
            Walked::Refused(at, error) => {
                held.truncate(at);
                self.ready.unsplit(held);
                Some(self.refuse(error))
            }
        };
        (0, refusal)
    }

    /// True if [`Framing::read`] has bytes, or no more will come.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty() || self.is_refused
    }

    /// Passes bytes to hyper.
    pub(super) fn read(&mut self, buf: &mut tokio::io::ReadBuf<'_>) {
        let len = self.ready.len().min(buf.remaining());
        buf.put_slice(&self.ready[..len]);
        self.ready.advance(len);
        if self.ready.is_empty() {
            // Frees the buffer of a long head.
            self.ready = BytesMut::new();
        }
    }

    /// True within an incomplete head.
    pub(super) fn is_mid_head(&self) -> bool {
        !self.held.is_empty()
    }

    fn refuse(&mut self, error: Error) -> Refusal {
        self.is_refused = true;
        self.ready.extend_from_slice(SUBSTITUTE);
        (self.heads, error)
    }

    fn walk(&mut self, bytes: &[u8], limits: &Limits) -> Walked {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match &mut self.place {
                Place::Head => match head::judge(rest, limits) {
                    Head::Partial => return Walked::Partial(at),
                    Head::Refused(error) => return Walked::Refused(at, error),
                    Head::Whole { len, body } => {
                        self.heads += 1;
                        self.place = Place::of(body);
                        len
                    }
                },
                Place::Body(left) => {
                    let taken = left_of(left, rest);
                    self.place = Place::of(Length::Fixed(*left));
                    taken
                }
                Place::Chunks(Chunk::Data(left)) => {
                    let taken = left_of(left, rest);
                    if *left == 0 {
                        self.place = Place::Chunks(Chunk::DataCr);
                    }
                    taken
                }
                Place::Chunks(chunk) => {
                    self.place = chunk.then(rest[0]);
                    1
                }
                Place::Lost => return Walked::All,
            };
        }
        Walked::All
    }
}

/// Consumes body bytes.
fn left_of(left: &mut u64, there: &[u8]) -> usize {
    let taken = there
        .len()
        .min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= taken as u64;
    taken
}

fn has_blank_line(bytes: &[u8]) -> bool {
    let lines = |window: &[u8]| window == b"\n\n" || window == b"\n\r";
    bytes.windows(2).any(lines)
}

impl Place {
    fn of(body: Length) -> Self {
        match body {
            Length::Fixed(0) => Self::Head,
            Length::Fixed(length) => Self::Body(length),
            Length::Chunked => Self::Chunks(Chunk::Start),
        }
    }
}

impl Chunk {
    fn then(self, byte: u8) -> Place {
        let next = match (self, byte) {
            (Self::Start | Self::Size(_), _) if byte.is_ascii_hexdigit() => {
                let size = if let Self::Size(size) = self { size } else { 0 };
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                let size = size.checked_mul(16).map(|size| size | u64::from(digit));
                let Some(size) = size else {
                    return Place::Lost;
                };
                Self::Size(size)
            }
            (Self::Size(size), b' ' | b'\t' | b';') => Self::Extension(size),
            (Self::Size(size) | Self::Extension(size), b'\r') => Self::SizeEnd(size),
            (Self::Extension(size), _) if byte != b'\n' => Self::Extension(size),
            (Self::SizeEnd(0), b'\n') => Self::Line,
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Start,
            (Self::Line, b'\r') => Self::End,
            (Self::Trailer, b'\r') => Self::TrailerEnd,
            (Self::Line | Self::Trailer, _) => Self::Trailer,
            (Self::TrailerEnd, b'\n') => Self::Line,
            (Self::End, b'\n') => return Place::Head,
            _ => return Place::Lost,
        };
        Place::Chunks(next)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const POST: &str = "POST /in/a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    const CHUNKS: &str = "POST /in/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
        3\r\nabc\r\n00A;x=\"\r\n0123456789\r\n0\r\nx-trailer: y\r\n\r\n";
    const BAD: &str = "GET / HTTP/1.1\r\n\r\n";

    /// Feeds the bytes in pieces; returns what hyper would read, and the refusal.
    fn through(sent: &[u8], pieces: &[usize]) -> (Vec<u8>, Option<Refusal>) {
        let limits = Limits::default();
        let mut framing = Framing::default();
        let (mut read, mut refused) = (Vec::new(), None);
        let mut rest = sent;
        let mut pieces = pieces.iter().copied().cycle();
        while !rest.is_empty() && !framing.is_refused {
            let (piece, after) = rest.split_at(pieces.next().unwrap().clamp(1, rest.len()));
            rest = after;
            let (at_once, refusal) = framing.arrived(piece, &limits);
            read.extend_from_slice(&piece[..at_once]);
            refused = refused.or(refusal);
            let mut room = [0; 7];
            while !framing.ready.is_empty() {
                let mut buf = tokio::io::ReadBuf::new(&mut room);
                framing.read(&mut buf);
                read.extend_from_slice(buf.filled());
            }
        }
        (read, refused)
    }

    proptest! {
        #[test]
        fn requests_go_on_unchanged_however_they_are_cut(
            order in prop::collection::vec(0..3_usize, 1..6),
            pieces in prop::collection::vec(1..90_usize, 1..9),
        ) {
            let sent: String = order.iter().map(|which| [GET, POST, CHUNKS][*which]).collect();
            let (read, refused) = through(sent.as_bytes(), &pieces);
            prop_assert_eq!(String::from_utf8(read).unwrap(), sent);
            prop_assert!(refused.is_none());
        }

        #[test]
        fn a_refused_head_is_found_behind_any_others_and_nothing_after_it_goes_on(
            order in prop::collection::vec(0..3_usize, 0..6),
            pieces in prop::collection::vec(1..90_usize, 1..9),
        ) {
            let before: String = order.iter().map(|which| [GET, POST, CHUNKS][*which]).collect();
            let sent = format!("{before}{BAD}{GET}");
            let (read, refused) = through(sent.as_bytes(), &pieces);
            let (number, error) = refused.unwrap();
            prop_assert_eq!((number, error.status().as_u16()), (order.len() as u64, 400));
            let wanted = [before.as_bytes(), SUBSTITUTE].concat();
            prop_assert_eq!(read, wanted);
        }

        #[test]
        fn garbage_of_any_kind_is_followed_without_a_panic(
            sent in prop::collection::vec(any::<u8>(), 0..200),
            pieces in prop::collection::vec(1..90_usize, 1..9),
        ) {
            let wire = [CHUNKS.as_bytes()[..90].to_vec(), sent].concat();
            through(&wire, &pieces);
        }
    }
}
