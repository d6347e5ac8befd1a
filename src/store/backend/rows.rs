//! Decoding of columns that both databases spell the same way.

use crate::domain::cursor::{Condition, Holder};
use crate::domain::event::{Event, EventId, StreamId, checksum};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

/// The columns of a cursor's condition as read from a database.
pub struct ConditionColumns<'r> {
    pub word: &'r str,
    pub retry_at: Option<i64>,
    pub tries: i64,
    pub reason: Option<String>,
    /// Word of the holder; `None` unless the cursor is held.
    pub held_by: Option<&'r str>,
}

impl ConditionColumns<'_> {
    pub fn condition(self) -> Condition {
        let reason = self.reason.unwrap_or_default();
        match self.word {
            "held" => Condition::Held {
                reason,
                by: match self.held_by {
                    Some(word) if word == Holder::Operator.word() => Holder::Operator,
                    _ => Holder::Failure,
                },
            },
            "waiting" => Condition::Waiting {
                retry_at: Timestamp::from_millis(self.retry_at.unwrap_or(0)),
                tries: u32::try_from(self.tries).unwrap_or(u32::MAX),
                reason,
            },
            _ => Condition::Flowing,
        }
    }
}

/// The column `held_by` of a condition.
pub fn held_by(condition: &Condition) -> Option<&'static str> {
    condition.holder().map(Holder::word)
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
