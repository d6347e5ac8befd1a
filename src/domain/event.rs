//! An event: what arrived, byte for byte, and its id.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::position::Seq;
use super::time::Timestamp;
use super::version::Late;

/// Number of a stream in the database; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub i64);

/// Id of an event: a UUIDv7 (RFC 9562), written as `evt_` and 26 digits of Crockford's base 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId([u8; 16]);

const PREFIX: &str = "evt_";
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_LEN: usize = 26;

impl EventId {
    /// A new id for an event received at `at`.
    pub fn new(at: Timestamp) -> Self {
        let millis = u64::try_from(at.as_millis()).unwrap_or(0);
        let uuid = uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid();
        Self(uuid.into_bytes())
    }

    /// An id read from the database.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u128::from_be_bytes(self.0);
        let mut text = [0_u8; PREFIX.len() + TEXT_LEN];
        text[..PREFIX.len()].copy_from_slice(PREFIX.as_bytes());
        for digit in text[PREFIX.len()..].iter_mut().rev() {
            *digit = DIGITS[(rest & 31) as usize];
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or(PREFIX))
    }
}

/// A text that is not an event id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an event id: evt_ and 26 digits")]
pub struct InvalidEventId(String);

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let wrong = || InvalidEventId(text.chars().take(80).collect());
        let digits = text.strip_prefix(PREFIX).ok_or_else(wrong)?;
        if digits.len() != TEXT_LEN || digits.as_bytes()[0] > b'7' {
            return Err(wrong());
        }
        let mut value = 0_u128;
        for byte in digits.bytes() {
            let digit = DIGITS.iter().position(|d| *d == byte).ok_or_else(wrong)?;
            value = value << 5 | digit as u128;
        }
        Ok(Self(value.to_be_bytes()))
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Name under which the query of the URL is stored among the headers. As with the pseudo-headers of
/// HTTP/2, no real header's name has a colon.
pub const QUERY: &str = ":query";

/// An accepted webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its stream.
    pub stream: StreamId,
    /// Its place in the stream.
    pub seq: Seq,
    /// Its id, which never changes.
    pub id: EventId,
    /// Time at which its last byte arrived.
    pub received_at: Timestamp,
    /// Number of the access key that it was sent with; `None` through the socket.
    pub key_id: Option<i64>,
    /// Delivery id or idempotency key given by the sender.
    pub dedupe_key: Option<String>,
    /// Headers as one JSON object of lower-case names and texts, without credentials. If the URL had a
    /// query, it stands first, under [`QUERY`].
    pub headers: Arc<str>,
    /// Body, byte for byte.
    pub body: Bytes,
    /// Policy of its hook for late events, if it is late; `None` if it is not.
    pub late: Option<Late>,
    /// True if the stored event differs from its checksum. Headers and body must not be used then.
    pub is_damaged: bool,
}

/// Checksum stored with an event: CRC-32 of id, receive time, headers and body. Detects every change of
/// one byte and every run of up to four changed bytes.
pub fn checksum(id: EventId, received_at: Timestamp, headers: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&id.0);
    crc.update(&received_at.as_millis().to_be_bytes());
    // The length marks the border between headers and body.
    crc.update(&(headers.len() as u64).to_be_bytes());
    crc.update(headers);
    crc.update(body);
    crc.finalize()
}

impl Event {
    /// True if its handlers are told that it is late.
    pub fn is_marked_late(&self) -> bool {
        self.late == Some(Late::Mark)
    }

    /// Query of the URL to which it was posted, as sent and without `?`; empty when there was none.
    pub fn query(&self) -> String {
        self.split_headers().0.unwrap_or_default()
    }

    /// Headers without the query, as one JSON object.
    pub fn headers_alone(&self) -> Cow<'_, str> {
        match self.split_headers() {
            (Some(_), rest) => format!("{{{}", rest.strip_prefix(',').unwrap_or(rest)).into(),
            (None, whole) => whole.into(),
        }
    }

    /// The query and the text after it; `None` and the whole text when there is no query.
    fn split_headers(&self) -> (Option<String>, &str) {
        let whole = &*self.headers;
        let query = whole.strip_prefix("{\":query\":").and_then(|rest| {
            let mut texts = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let query = texts.next()?.ok()?;
            Some((Some(query), rest.get(texts.byte_offset()..)?))
        });
        query.unwrap_or((None, whole))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_written() {
        for bytes in [
            [0; 16],
            [255; 16],
            *EventId::new(Timestamp::now()).as_bytes(),
        ] {
            let id = EventId::from_bytes(bytes);
            assert_eq!(id.to_string().len(), 30);
            assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for wrong in [
            "",
            "evt_",
            "evt_8zzzzzzzzzzzzzzzzzzzzzzzzz",
            "evt_ilou0000000000000000000000",
            "evt_€€€€€€€€",
        ] {
            assert!(wrong.parse::<EventId>().is_err(), "{wrong}");
        }
    }
}
