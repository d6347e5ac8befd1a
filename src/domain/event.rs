//! What arrived, byte for byte, and the id it got.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::position::Seq;
use super::time::Timestamp;

/// Which stream, as the database numbers them; a number is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub i64);

/// The id of an event: a UUIDv7 (RFC 9562), shown as `evt_` and 26 digits of Crockford's base 32.
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

    /// An id as the database keeps it.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id as the database keeps it.
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

/// A text that is no event id.
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

/// One accepted webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The stream it stands in.
    pub stream: StreamId,
    /// Its place there.
    pub seq: Seq,
    /// Its id, the same for ever.
    pub id: EventId,
    /// When its last byte was in.
    pub received_at: Timestamp,
    /// The access key it came with; none when it came through the socket.
    pub key_id: Option<i64>,
    /// The delivery id or idempotency key its sender gave.
    pub dedupe_key: Option<String>,
    /// Its headers as one JSON object of lower-case names and texts, without credentials.
    pub headers: Arc<str>,
    /// Its body, byte for byte.
    pub body: Bytes,
    /// It was read, and is not what was stored: its checksum differs. Nothing may be made of its headers and body.
    pub is_damaged: bool,
}

/// The checksum that is stored with an event: CRC-32 of its id, its time, its headers and its body. One changed byte, and
/// any run of up to four, is always found.
pub fn checksum(id: EventId, received_at: Timestamp, headers: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&id.0);
    crc.update(&received_at.as_millis().to_be_bytes());
    // The length tells where headers end and the body begins.
    crc.update(&(headers.len() as u64).to_be_bytes());
    crc.update(headers);
    crc.update(body);
    crc.finalize()
}

#[cfg(test)]
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
