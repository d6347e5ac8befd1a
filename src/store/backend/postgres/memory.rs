//! Cache of what this node has just stored and moved, so that a turn right after a commit of this node
//! needs no query.
//!
//! Other nodes store events and move cursors too, without telling this one. So the cache answers only
//! for a cursor that this node read or moved last, and only with events directly after its position;
//! everything else is read from the server. Three rules make a stale answer harmless. A step computed
//! from it loses its compare-and-set, and then the row is read. A turn is never told that nothing is
//! left below a head that was seen before, because cached heads only grow. And a caller that learns of
//! work by anything but a commit of this node calls [`Memory::invalidate`] before it passes the hint on, so
//! that the turn after the hint reads from the server.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::cursor::{Cursor, CursorId};
use crate::domain::event::{Event, StreamId};
use crate::domain::position::Seq;
use crate::store::backend::ops::{Input, InputRequest};

/// Bytes and number of cached events.
const EVENT_BYTES_MAX: usize = 24 * 1024 * 1024;
const EVENTS_MAX: usize = 65_536;

/// Bytes of cached cursors; when there are more, the cache of cursors is cleared.
const CURSOR_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Estimated bytes of an event or a cursor besides its texts.
const OVERHEAD: usize = 200;

#[derive(Default)]
pub struct Memory(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// The newest events of each stream, without a gap.
    runs: HashMap<StreamId, VecDeque<Arc<Event>>>,
    /// Every cached event, oldest first; entries of events that have left their run remain until they
    /// come to the front.
    order: VecDeque<(StreamId, Seq)>,
    event_bytes: usize,
    cursors: HashMap<CursorId, CachedCursor>,
    cursor_bytes: usize,
}

/// A cursor that this node reads or moves.
#[derive(Default)]
struct CachedCursor {
    /// The cursor after its last move; `None` while a turn has it or reads it.
    cursor: Option<Cursor>,
    /// Highest head of its stream that a turn has been given.
    head: Seq,
}

impl Memory {
    /// Caches events that this node has just committed.
    pub fn stored(&self, events: impl Iterator<Item = Arc<Event>>) {
        let inner = &mut *self.0.lock();
        events.for_each(|event| inner.keep(event));
        while inner.event_bytes > EVENT_BYTES_MAX || inner.order.len() > EVENTS_MAX {
            inner.drop_oldest();
        }
    }

    /// Input of a turn, if everything it needs is cached. Takes the cursor out until [`Memory::moved`]
    /// puts it back.
    pub fn input(&self, want: &InputRequest) -> Option<Input> {
        let inner = &mut *self.0.lock();
        let seen = inner.cursors.get_mut(&want.cursor)?;
        let cursor = seen.cursor.take()?;
        inner.cursor_bytes -= size_of_cursor(&cursor);
        let run = inner.runs.get(&want.cursor.stream)?;
        let (first, last) = (run.front()?.seq, run.back()?.seq);
        let due = cursor.position.next();
        if first > due || last < due {
            return None;
        }
        seen.head = seen.head.max(last);
        let skip = usize::try_from(due.0 - first.0).unwrap_or(usize::MAX);
        Some(Input {
            head: seen.head,
            events: run
                .iter()
                .skip(skip)
                .take(want.events_max)
                .cloned()
                .collect(),
            cursor,
        })
    }

    /// Records that a turn reads this cursor. Must be called before the read begins.
    pub fn reads(&self, cursor: CursorId) {
        let inner = &mut *self.0.lock();
        inner.forget_cursor(cursor);
        inner.cursors.insert(cursor, CachedCursor::default());
        inner.cursor_bytes += OVERHEAD;
        inner.make_room();
    }

    /// Records the head that a turn has read. Ignored if the cursor was doubted meanwhile.
    pub fn has_read(&self, cursor: CursorId, head: Seq) {
        if let Some(seen) = self.0.lock().cursors.get_mut(&cursor) {
            seen.head = seen.head.max(head);
        }
    }

    /// Caches a cursor that a turn of this node has moved. Ignored if it was doubted meanwhile.
    pub fn moved(&self, cursor: Cursor) {
        let inner = &mut *self.0.lock();
        let Some(seen) = inner.cursors.get_mut(&cursor.id) else {
            return;
        };
        inner.cursor_bytes += size_of_cursor(&cursor);
        if let Some(older) = seen.cursor.replace(cursor) {
            inner.cursor_bytes -= size_of_cursor(&older);
        }
        inner.make_room();
    }

    /// Drops a cursor, so that its next turn reads it and its events.
    pub fn invalidate(&self, cursor: CursorId) {
        self.0.lock().forget_cursor(cursor);
    }

    /// Empties the cache.
    pub fn clear(&self) {
        *self.0.lock() = Inner::default();
    }

    /// Drops the events and cursors of streams that no longer exist.
    pub fn forget(&self, streams: &[StreamId]) {
        let inner = &mut *self.0.lock();
        streams.iter().for_each(|stream| inner.forget_run(*stream));
        let of_streams = |id: &&CursorId| streams.contains(&id.stream);
        let gone: Vec<_> = inner.cursors.keys().filter(of_streams).copied().collect();
        gone.into_iter()
            .for_each(|cursor| inner.forget_cursor(cursor));
    }
}

impl Inner {
    /// Appends an event to its run. After a gap left by other nodes' events it begins a new run. An
    /// event that comes out of order removes the run, because the events in between are unknown.
    fn keep(&mut self, event: Arc<Event>) {
        let last = self.runs.get(&event.stream).and_then(|run| run.back());
        let last = last.map_or(Seq(0), |last| last.seq);
        if last.0 + 1 != event.seq.0 {
            self.forget_run(event.stream);
        }
        if event.seq <= last {
            return;
        }
        self.event_bytes += size_of_event(&event);
        self.order.push_back((event.stream, event.seq));
        self.runs.entry(event.stream).or_default().push_back(event);
    }

    fn drop_oldest(&mut self) {
        let Some((stream, seq)) = self.order.pop_front() else {
            self.event_bytes = 0;
            return;
        };
        let Some(run) = self.runs.get_mut(&stream) else {
            return;
        };
        if run.front().is_some_and(|first| first.seq <= seq) {
            self.event_bytes -= run.pop_front().map_or(0, |event| size_of_event(&event));
        }
        if run.is_empty() {
            self.runs.remove(&stream);
        }
    }

    fn forget_run(&mut self, stream: StreamId) {
        let run = self.runs.remove(&stream).unwrap_or_default();
        self.event_bytes -= run.iter().map(|event| size_of_event(event)).sum::<usize>();
    }

    fn forget_cursor(&mut self, cursor: CursorId) {
        if let Some(seen) = self.cursors.remove(&cursor) {
            self.cursor_bytes -= OVERHEAD + seen.cursor.as_ref().map_or(0, size_of_cursor);
        }
    }

    fn make_room(&mut self) {
        if self.cursor_bytes > CURSOR_BYTES_MAX {
            self.cursors.clear();
            self.cursor_bytes = 0;
        }
    }
}

fn size_of_event(event: &Event) -> usize {
    OVERHEAD + event.body.len() + event.headers.len()
}

/// Estimated bytes of a cursor, without its map entry.
fn size_of_cursor(cursor: &Cursor) -> usize {
    OVERHEAD + cursor.state.as_ref().map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventId;
    use crate::domain::hook::HandlerId;
    use crate::domain::position::Position;
    use crate::domain::time::Timestamp;

    const CURSOR: CursorId = CursorId {
        stream: StreamId(1),
        handler: HandlerId(1),
    };

    fn event(seq: i64, bytes: usize) -> Arc<Event> {
        Arc::new(Event {
            stream: CURSOR.stream,
            seq: Seq(seq),
            id: EventId::from_bytes([0; 16]),
            received_at: Timestamp::default(),
            key_id: None,
            dedupe_key: None,
            headers: "{}".into(),
            body: vec![0; bytes].into(),
            late: None,
            is_damaged: false,
        })
    }

    fn store(memory: &Memory, seqs: &[i64]) {
        memory.stored(seqs.iter().map(|seq| event(*seq, 10)));
    }

    fn at(position: i64) -> Cursor {
        Cursor {
            position: Position(position),
            ..Cursor::new(CURSOR)
        }
    }

    /// A cursor at `position`, whose turn was told `head`.
    fn memory_at(position: i64, head: i64) -> Memory {
        let memory = Memory::default();
        memory.reads(CURSOR);
        memory.has_read(CURSOR, Seq(head));
        memory.moved(at(position));
        memory
    }

    /// The seqs that memory gives a turn, and the head.
    fn answer(memory: &Memory, events_max: usize) -> Option<(Vec<i64>, i64)> {
        let want = InputRequest {
            cursor: CURSOR,
            events_max,
        };
        let input = memory.input(&want)?;
        let seqs = input.events.iter().map(|event| event.seq.0).collect();
        Some((seqs, input.head.0))
    }

    #[test]
    fn events_that_begin_right_behind_a_known_position_are_the_answer_and_no_others() {
        let memory = memory_at(4, 4);
        assert_eq!(answer(&memory, 9), None, "nothing is stored");
        memory.moved(at(4));
        store(&memory, &[5, 6, 7]);
        assert_eq!(answer(&memory, 2), Some((vec![5, 6], 7)));
        assert_eq!(answer(&memory, 9), None, "a turn has the cursor");
        memory.moved(at(6));
        assert_eq!(answer(&memory, 9), Some((vec![7], 7)));
        memory.moved(at(7));
        assert_eq!(
            answer(&memory, 9),
            None,
            "what is at its head may be behind another node's"
        );
    }

    #[test]
    fn events_of_another_node_between_two_of_ours_are_not_stepped_over() {
        let memory = memory_at(4, 4);
        store(&memory, &[5, 7]);
        assert_eq!(answer(&memory, 9), None);
        // One that comes late tells nothing of what stands behind it.
        let memory = memory_at(4, 4);
        store(&memory, &[6, 5]);
        assert_eq!(answer(&memory, 9), None);
    }

    #[test]
    fn a_head_that_was_read_stays_the_goal() {
        let memory = memory_at(4, 9);
        store(&memory, &[5]);
        assert_eq!(answer(&memory, 9), Some((vec![5], 9)));
    }

    #[test]
    fn a_doubted_cursor_is_read_even_if_a_turn_has_it_or_reads_it_meanwhile() {
        let memory = memory_at(4, 4);
        store(&memory, &[5, 6]);
        memory.invalidate(CURSOR);
        assert_eq!(answer(&memory, 9), None);

        let memory = memory_at(4, 4);
        store(&memory, &[5, 6]);
        assert_eq!(answer(&memory, 1), Some((vec![5], 6)));
        memory.invalidate(CURSOR);
        memory.moved(at(5));
        assert_eq!(answer(&memory, 9), None);

        let memory = Memory::default();
        store(&memory, &[5, 6]);
        memory.reads(CURSOR);
        memory.invalidate(CURSOR);
        memory.has_read(CURSOR, Seq(4));
        memory.moved(at(4));
        assert_eq!(answer(&memory, 9), None);
    }

    #[test]
    fn the_oldest_make_room_and_nothing_is_counted_that_is_gone() {
        let memory = memory_at(0, 0);
        memory.stored((1..=8).map(|seq| event(seq, EVENT_BYTES_MAX / 4)));
        assert_eq!(answer(&memory, 9), None, "the first have made room");
        memory.moved(at(6));
        assert_eq!(answer(&memory, 9), Some((vec![7, 8], 8)));
        memory.forget(&[CURSOR.stream]);
        memory.invalidate(CURSOR);
        let inner = memory.0.lock();
        assert_eq!((inner.event_bytes, inner.cursor_bytes), (0, 0));
        drop(inner);
        // Runs that are broken again and again leave nothing behind for ever.
        memory.stored(
            (1..)
                .step_by(2)
                .take(EVENTS_MAX * 2)
                .map(|seq| event(seq, 1)),
        );
        assert!(memory.0.lock().order.len() <= EVENTS_MAX);
    }
}
