//! Late and held back events of a hook or a stream, in words.

use crate::api::OrderCounts;
use crate::text::counted;

/// Counts of the provider's order in words.
pub fn told(counts: &OrderCounts) -> String {
    let late = counted(counts.late, "event was late", "events were late");
    let Some(next) = counts.next_due_at.filter(|_| counts.held_back > 0) else {
        return late;
    };
    let held = counted(counts.held_back, "event is", "events are");
    format!("{late}; {held} held back, the first until {next}")
}
