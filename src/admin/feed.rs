//! The events of all streams in one order, and the states of all streams: for feeds and exports.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::{Admin, Error};
use crate::api::{ExportedState, FeedEvent, LogPage, PullEvent};
use crate::domain::event::StreamId;
use crate::domain::feed::{FeedCursor, LogPlace};
use crate::domain::hook::HookId;
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::time::Timestamp;
use crate::store::{FeedEnd, FeedFloor, FeedPart, FeedRange, Stored, StoredState};

/// Bytes of bodies and headers after which a page ends.
const BYTES_MAX: i64 = 4 * 1024 * 1024;

/// Time after which a page ends, although no event was found yet.
const SCAN_MAX: Duration = Duration::from_secs(1);

/// Number of states in a page; a state may be large.
const STATES_MAX: i64 = 50;

/// Selects a page of the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct FeedRequest {
    /// Only events of this hook.
    pub hook: Option<HookId>,
    /// Only events behind this cursor; without it, from the earliest event that is kept.
    pub after: Option<FeedCursor>,
    /// Only events up to this cursor.
    pub until: Option<FeedCursor>,
    /// Only events received at or after this time.
    pub since: Option<Timestamp>,
    /// Number of events at most.
    pub limit: i64,
}

impl Admin {
    /// A page of events in the order of the log. Each stream is in its order, and no event is skipped or
    /// repeated by a reader that goes on at [`LogPage::next`].
    ///
    /// # Errors
    /// [`Error::Gone`] if events behind the cursor cannot be read any more. The cursor in it goes on
    /// behind the gap.
    pub async fn feed(&self, request: &FeedRequest) -> Result<LogPage<FeedEvent>, Error> {
        let known = self.floor(request.hook).await?;
        let place = request.after.map(|cursor| cursor.place);
        let end = self.store.feed_end(place.unwrap_or_default()).await?;
        let from = match request.after {
            Some(cursor) => is_of(cursor, &end, known)?,
            None => beginning(&end, known),
        };
        let limit = request.until.map_or(end.place, |until| until.place);
        let until = end.place.min(limit).max(from.place);
        let part = self.first_part(request, from.place, until).await?;
        // Read after the events, so that a removal in between is noticed.
        let floor = match until > from.place {
            true => self.floor(request.hook).await?,
            false => known,
        };
        let cuts = match request.after {
            Some(_) => is_kept(from, floor)?,
            None => known.cuts,
        };
        page(part, FeedCursor { cuts, ..from }, until, end.at)
    }

    /// The first part of a range that has an event, or the end of what was scanned.
    async fn first_part(
        &self,
        request: &FeedRequest,
        after: LogPlace,
        until: LogPlace,
    ) -> Result<FeedPart, Error> {
        let began = Instant::now();
        let mut range = FeedRange {
            hook: request.hook,
            since: request.since,
            after,
            until,
            limit: request.limit,
            bytes_max: BYTES_MAX,
        };
        while range.after < until && began.elapsed() < SCAN_MAX {
            let part = self.store.feed_part(&range).await?;
            if !part.events.is_empty() {
                return Ok(part);
            }
            range.after = part.reached;
        }
        Ok(FeedPart {
            events: Vec::new(),
            reached: range.after,
        })
    }

    /// Removals from a hook. A reader of all hooks reads whatever is kept.
    async fn floor(&self, hook: Option<HookId>) -> Result<FeedFloor, Error> {
        match hook {
            Some(hook) => Ok(self.store.feed_floor(hook).await?),
            None => Ok(FeedFloor::default()),
        }
    }

    /// A page of folded states, in the order in which their streams began.
    pub async fn states(
        &self,
        hook: Option<HookId>,
        since: Option<Timestamp>,
        after: StreamId,
    ) -> Result<LogPage<ExportedState>, Error> {
        let at = Timestamp::now();
        let end = self.store.last_stream().await?;
        let states = self.store.states(hook, since, after, STATES_MAX).await?;
        let is_full = i64::try_from(states.len()).is_ok_and(|count| count == STATES_MAX);
        let next = match states.last() {
            Some(last) if is_full => last.stream,
            _ => end.0.max(after.0),
        };
        let items: Result<_, _> = states.into_iter().map(exported).collect();
        let end = end.0.max(next);
        let left = u64::try_from(end - next).unwrap_or(0);
        Ok(LogPage::new(
            at,
            items?,
            next.to_string(),
            end.to_string(),
            left,
        ))
    }

    /// Id of the hook with this name.
    ///
    /// # Errors
    /// [`Error::Missing`]
    pub async fn hook_id(&self, name: &Name) -> Result<HookId, Error> {
        Ok(self.hook(name).await?.id)
    }
}

fn beginning(end: &FeedEnd, floor: FeedFloor) -> FeedCursor {
    FeedCursor {
        log: end.log,
        place: LogPlace(0),
        cuts: floor.cuts,
    }
}

/// Refuses a cursor that this database cannot have given.
fn is_of(cursor: FeedCursor, end: &FeedEnd, floor: FeedFloor) -> Result<FeedCursor, Error> {
    let is_ahead = cursor.place > end.highest;
    let message = match cursor.log == end.log {
        true if !is_ahead => return Ok(cursor),
        true => "the cursor is behind the last event: the database was restored from an older copy",
        false => "the cursor is of another database",
    };
    Err(Error::Gone {
        message: message.to_owned(),
        cursor: beginning(end, floor),
    })
}

/// The number of removals for the next cursor, if no event behind this one was removed since it was
/// given.
fn is_kept(cursor: FeedCursor, floor: FeedFloor) -> Result<i64, Error> {
    if cursor.place >= floor.place || cursor.cuts == floor.cuts {
        return Ok(floor.cuts);
    }
    let message = "events behind the cursor are past the hook's --keep and were removed";
    Err(Error::Gone {
        message: message.to_owned(),
        cursor: FeedCursor {
            cuts: floor.cuts,
            ..cursor
        },
    })
}

fn page(
    part: FeedPart,
    from: FeedCursor,
    until: LogPlace,
    at: Timestamp,
) -> Result<LogPage<FeedEvent>, Error> {
    let cursor = |place: LogPlace| FeedCursor { place, ..from };
    let mut items = Vec::with_capacity(part.events.len());
    let mut reached = part.reached.max(from.place);
    let mut before = from.place;
    for (place, stored) in part.events {
        if stored.event.is_damaged {
            if items.is_empty() {
                return Err(damaged(&stored, cursor(place)));
            }
            reached = before;
            break;
        }
        items.push(feed_event(&stored, cursor(place))?);
        before = place;
    }
    let end = until.max(reached);
    let left = u64::try_from(end.0 - reached.0).unwrap_or(0);
    let (next, end) = (cursor(reached).to_string(), cursor(end).to_string());
    Ok(LogPage::new(at, items, next, end, left))
}

fn damaged(stored: &Stored, cursor: FeedCursor) -> Error {
    let (id, seq) = (stored.event.id, stored.event.seq);
    let message = Error::Damaged { id, seq }.to_string();
    tracing::error!(error = message, "hash mismatch");
    Error::Gone { message, cursor }
}

fn feed_event(stored: &Stored, cursor: FeedCursor) -> Result<FeedEvent, Error> {
    Ok(FeedEvent {
        cursor: cursor.to_string(),
        stream: stream_name(&stored.hook, stored.ordering_key.clone())?,
        event: PullEvent::from(&stored.event),
    })
}

fn stream_name(hook: &str, key: String) -> Result<StreamName, Error> {
    Ok(StreamName {
        hook: hook.parse().map_err(|_| Error::missing("hook", hook))?,
        key: OrderingKey::stored(key),
    })
}

fn exported(stored: StoredState) -> Result<ExportedState, Error> {
    let (position, head) = (stored.position(), stored.head());
    let malformed = |_| {
        Error::Invalid(format!(
            "the state of a stream of {} is no JSON",
            stored.hook
        ))
    };
    let state = stored.state.clone().map(RawValue::from_string);
    Ok(ExportedState {
        cursor: stored.stream.to_string(),
        position,
        era: stored.era,
        head,
        state: state.transpose().map_err(malformed)?,
        updated_at: stored.updated_at(),
        stream: stream_name(&stored.hook, stored.ordering_key)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(place: i64, cuts: i64) -> FeedCursor {
        FeedCursor {
            log: 1,
            place: LogPlace(place),
            cuts,
        }
    }

    #[test]
    fn a_cursor_is_good_until_an_event_behind_it_may_have_been_removed() {
        let floor = FeedFloor {
            place: LogPlace(10),
            cuts: 3,
        };
        assert_eq!(is_kept(cursor(10, 0), floor).ok(), Some(3));
        assert_eq!(is_kept(cursor(4, 3), floor).ok(), Some(3), "nothing since");
        let Err(Error::Gone { cursor: onward, .. }) = is_kept(cursor(4, 2), floor) else {
            panic!("events were removed since");
        };
        assert_eq!(onward, cursor(4, 3));
        assert_eq!(is_kept(onward, floor).ok(), Some(3), "it goes on");
    }

    #[test]
    fn a_cursor_of_another_database_is_refused() {
        let end = FeedEnd {
            log: 1,
            place: LogPlace(5),
            at: Timestamp::default(),
            highest: LogPlace(9),
        };
        let floor = FeedFloor::default();
        assert!(
            is_of(cursor(9, 0), &end, floor).is_ok(),
            "another node gave it"
        );
        assert!(is_of(cursor(10, 0), &end, floor).is_err());
        let other = FeedCursor {
            log: 2,
            ..cursor(3, 0)
        };
        assert!(is_of(other, &end, floor).is_err());
    }
}
