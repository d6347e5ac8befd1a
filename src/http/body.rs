//! Reads a request body completely, up to the size limit of its hook.
//!
//! Whatever the head reveals is refused before any byte of the body is read, and before `100 Continue`
//! is sent, which the first poll of the body does. `edge` limits the time: it ends a body that is too
//! slow with a time-out.

use std::error::Error as StdError;
use std::io::ErrorKind;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt as _;
use hyper::body::Body;

/// Reason why a body was not read completely. Nothing more can be read from its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The body is longer than allowed, or declares to be.
    #[error("the body is longer than {max} bytes")]
    TooLarge {
        /// The limit in bytes.
        max: u64,
    },
    /// The body has a content encoding.
    #[error("the body has a Content-Encoding")]
    Encoded,
    /// The body did not arrive in time.
    #[error("the body came too slowly")]
    TooSlow,
    /// The body has a malformed chunk.
    #[error("the body is cut into chunks that HTTP does not know")]
    Malformed,
    /// The connection ended within the body.
    #[error("the body ended too early")]
    Aborted,
    /// There is no memory for it now.
    #[error("there is no room for the body now")]
    NoRoom,
}

/// Initial buffer for a body of unknown length, in bytes; doubled when it is full.
const STEP: usize = 16 * 1024;

/// Checks by the head alone whether the body can be accepted.
///
/// # Errors
/// [`Error::Encoded`], and [`Error::TooLarge`] when the declared length is too large.
pub fn check(headers: &HeaderMap, body: &impl Body, max: u64) -> Result<(), Error> {
    let plain = |value: &http::HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        value.is_empty() || value.eq_ignore_ascii_case(b"identity")
    };
    if !headers.get_all(CONTENT_ENCODING).iter().all(plain) {
        Err(Error::Encoded)
    } else if body.size_hint().lower() > max {
        Err(Error::TooLarge { max })
    } else {
        Ok(())
    }
}

/// Reads a body of at most `max` bytes. `take_room` is asked to reserve memory before it is used: for
/// the whole body if its length is known, else step by step.
///
/// # Errors
/// All of [`Error`]; those of [`check`] before anything is read, [`Error::NoRoom`] when `take_room`
/// refuses.
pub async fn read<B>(
    headers: &HeaderMap,
    mut body: B,
    max: u64,
    mut take_room: impl FnMut(usize) -> bool,
) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: StdError + 'static,
{
    check(headers, &body, max)?;
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut whole = BytesMut::new();
    let mut room = 0;
    let mut make_room = |whole: &mut BytesMut, wanted: usize| {
        if wanted > room && !take_room(wanted - room) {
            return Err(Error::NoRoom);
        }
        room = room.max(wanted);
        whole.reserve(room - whole.len());
        Ok(room)
    };
    let mut room = make_room(&mut whole, declared)?;
    while let Some(piece) = next(&mut body).await? {
        let len = whole.len() + piece.len();
        within(len, max)?;
        if len > room {
            room = make_room(&mut whole, len.max(2 * room).max(STEP))?;
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

fn within(len: usize, max: u64) -> Result<(), Error> {
    match u64::try_from(len) {
        Ok(len) if len <= max => Ok(()),
        _ => Err(Error::TooLarge { max }),
    }
}

/// The next data frame that is not empty. Trailers are skipped.
async fn next<B>(body: &mut B) -> Result<Option<Bytes>, Error>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: StdError + 'static,
{
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| cause(&error))?.into_data() {
            Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
            _ => {}
        }
    }
    Ok(None)
}

/// Translates an error of the connection.
fn cause(error: &(dyn StdError + 'static)) -> Error {
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return match error.kind() {
            ErrorKind::TimedOut => Error::TooSlow,
            ErrorKind::InvalidInput | ErrorKind::InvalidData => Error::Malformed,
            _ => Error::Aborted,
        };
    }
    error.source().map_or(Error::Aborted, cause)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;

    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    fn pieces(
        pieces: Vec<io::Result<&'static [u8]>>,
    ) -> impl Body<Data = Bytes, Error = io::Error> + Unpin {
        let frame =
            |piece: io::Result<&'static [u8]>| piece.map(|p| Frame::data(Bytes::from_static(p)));
        StreamBody::new(futures_util::stream::iter(
            pieces.into_iter().map(frame).collect::<Vec<_>>(),
        ))
    }

    async fn read<B>(headers: &HeaderMap, body: B, max: u64) -> Result<Bytes, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: StdError + 'static,
    {
        super::read(headers, body, max, |_| true).await
    }

    #[tokio::test]
    async fn room_is_taken_before_bytes_are_read_and_refused_when_there_is_none() {
        let none = HeaderMap::new();
        let known = || Full::new(Bytes::from(vec![7; 512]));
        let mut taken = 0;
        let take = |bytes| {
            taken += bytes;
            true
        };
        super::read(&none, known(), 512, take).await.unwrap();
        assert_eq!(taken, 512, "all of it, and once");
        let nothing = |_| false;
        assert_eq!(
            super::read(&none, known(), 512, nothing).await,
            Err(Error::NoRoom)
        );
        let unknown = |each: usize| pieces((0..each).map(|_| Ok(&[7; 9_000][..])).collect());
        let mut left = 3 * STEP;
        let take = |bytes| {
            let has_room = bytes <= left;
            left -= if has_room { bytes } else { 0 };
            has_room
        };
        let few = super::read(&none, unknown(3), 1 << 20, take).await;
        assert_eq!(few.unwrap().len(), 27_000);
        assert_eq!(left, STEP);
        let take = |bytes| bytes <= left;
        let many = super::read(&none, unknown(9), 1 << 20, take).await;
        assert_eq!(many, Err(Error::NoRoom));
    }

    #[tokio::test]
    async fn pieces_are_put_together_up_to_the_limit_and_not_a_byte_beyond() {
        let sent = || pieces(vec![Ok(b""), Ok(b"abc"), Ok(b""), Ok(b"de"), Ok(b"f")]);
        assert_eq!(read(&HeaderMap::new(), sent(), 6).await.unwrap(), "abcdef");
        for max in 0..6 {
            assert_eq!(
                read(&HeaderMap::new(), sent(), max).await,
                Err(Error::TooLarge { max })
            );
        }
        assert_eq!(
            read(&HeaderMap::new(), pieces(vec![]), 0).await.unwrap(),
            ""
        );
    }

    #[tokio::test]
    async fn a_length_over_the_limit_and_an_encoding_are_refused_unread() {
        let unread = || Full::new(Bytes::from_static(b"abc"));
        assert_eq!(
            read(&HeaderMap::new(), unread(), 2).await,
            Err(Error::TooLarge { max: 2 })
        );
        for (encoding, plain) in [
            ("gzip", false),
            ("identity, br", false),
            (" Identity", true),
            ("", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, encoding.parse().unwrap());
            assert_eq!(check(&headers, &unread(), 3).is_ok(), plain, "{encoding}");
        }
    }

    #[tokio::test]
    async fn the_cause_of_a_broken_body_is_told() {
        for (kind, error) in [
            (ErrorKind::TimedOut, Error::TooSlow),
            (ErrorKind::InvalidInput, Error::Malformed),
            (ErrorKind::UnexpectedEof, Error::Aborted),
            (ErrorKind::ConnectionReset, Error::Aborted),
        ] {
            let broken = pieces(vec![Ok(b"abc"), Err(kind.into())]);
            assert_eq!(read(&HeaderMap::new(), broken, 9).await, Err(error));
        }
    }
}
