//! Decoding of columns that both databases spell the same way.

use crate::domain::cursor::Condition;
use crate::domain::event::{Event, EventId, StreamId, checksum};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

/// A condition from its columns.
pub fn condition_of(word: &str, retry_at: Option<i64>, tries: u32, reason: String) -> Condition {
    match word {
        "held" => Condition::Held { reason },
        "waiting" => Condition::Waiting {
            retry_at: Timestamp::from_millis(retry_at.unwrap_or(0)),
            tries,
            reason,
        },
        _ => Condition::Flowing,
    }
}

/// The columns of an event as read from a database, not yet compared with the checksum.
pub struct EventColumns<'r> {
    pub id: &'r [u8],
    pub received_at: i64,
    pub key_id: Option<i64>,
    pub dedupe_key: Option<String>,
    pub headers: &'r [u8],
    pub body: Vec<u8>,
    /// `None` for events stored before checksums existed.
    pub checksum: Option<i64>,
    /// Treatment of the event if it is late, as a word.
    pub late: Option<String>,
}

impl EventColumns<'_> {
    /// The event, compared with its checksum. It is also marked as damaged when the columns cannot be
    /// decoded.
    pub fn event(self, stream: StreamId, seq: Seq) -> Event {
        let id = <[u8; 16]>::try_from(self.id);
        let headers = std::str::from_utf8(self.headers);
        let is_readable = id.is_ok() && headers.is_ok();
        let id = EventId::from_bytes(id.unwrap_or_default());
        let received_at = Timestamp::from_millis(self.received_at);
        let found = || i64::from(checksum(id, received_at, self.headers, &self.body));
        Event {
            stream,
            seq,
            id,
            received_at,
            key_id: self.key_id,
            dedupe_key: self.dedupe_key,
            is_damaged: !is_readable || self.checksum.is_some_and(|stored| stored != found()),
            headers: headers.unwrap_or("{}").into(),
            body: self.body.into(),
            late: self.late.and_then(|word| word.parse().ok()),
        }
    }
}
