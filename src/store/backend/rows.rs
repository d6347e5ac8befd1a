//! Columns that both databases spell the same way, and what they say.

use crate::domain::cursor::Condition;
use crate::domain::time::Timestamp;

/// A condition as its row spells it.
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
