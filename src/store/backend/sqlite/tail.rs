//! The tail of the log in memory: the rows that the index does not have yet, and the newest events in
//! full, so that a turn right after its commit reads no file.
//!
//! It holds committed events only. A reader must ask the tail first and the index after it: an entry
//! leaves the tail only once the index has it, so no event can be missed between the two.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::event::{Event, StreamId};
use crate::domain::position::Seq;

/// Bytes of full events in memory.
const KEPT_BYTES_MAX: usize = 24 * 1024 * 1024;

/// Estimated bytes of an event besides its body and headers.
const OVERHEAD: usize = 200;

/// One event of the tail.
#[derive(Clone)]
pub struct Entry {
    pub seq: Seq,
    /// Row number in the log.
    pub n: i64,
    /// The event in full, unless it was evicted.
    pub event: Option<Arc<Event>>,
}

/// The newest events of one stream, without a gap. The first `bare` entries have no event any more.
#[derive(Default)]
struct Recent {
    entries: VecDeque<Entry>,
    bare: usize,
}

#[derive(Default)]
struct Inner {
    streams: HashMap<StreamId, Recent>,
    /// Streams of the events kept in full, oldest event first.
    whole: VecDeque<StreamId>,
    bytes: usize,
    /// Newest row that the index has.
    indexed: i64,
}

#[derive(Default)]
pub struct Tail(Mutex<Inner>);

impl Tail {
    /// Adds events that have just been committed, in the order of the log.
    pub fn push(&self, events: impl Iterator<Item = (i64, Arc<Event>)>) {
        let inner = &mut *self.0.lock();
        for (n, event) in events {
            inner.bytes += size(&event);
            inner.whole.push_back(event.stream);
            let recent = inner.streams.entry(event.stream).or_default();
            recent.entries.push_back(Entry {
                seq: event.seq,
                n,
                event: Some(event),
            });
        }
        while inner.bytes > KEPT_BYTES_MAX {
            inner.strip_oldest();
        }
    }

    /// At most `limit` entries of `stream` after `after`, and the first seq of the stream in the tail.
    /// If that is beyond `after + 1`, the events in between are in the index.
    pub fn after(&self, stream: StreamId, after: Seq, limit: usize) -> (Option<Seq>, Vec<Entry>) {
        let inner = self.0.lock();
        let Some(recent) = inner.streams.get(&stream) else {
            return (None, Vec::new());
        };
        let Some(first) = recent.entries.front().map(|entry| entry.seq) else {
            return (None, Vec::new());
        };
        let skip = usize::try_from(after.0 + 1 - first.0).unwrap_or(0);
        let entries = recent.entries.iter().skip(skip).take(limit);
        (Some(first), entries.cloned().collect())
    }

    /// Newest seq of `stream` in the tail. `None` means that all its events are indexed: its row, read
    /// after this call, has the head.
    pub fn last(&self, stream: StreamId) -> Option<Seq> {
        let inner = self.0.lock();
        let last = inner.streams.get(&stream)?.entries.back()?;
        Some(last.seq)
    }

    /// Records that the index has every row up to `n`, and drops what is no longer needed.
    pub fn indexed(&self, n: i64) {
        let inner = &mut *self.0.lock();
        inner.indexed = n;
        inner.streams.retain(|_, recent| {
            recent.forget_indexed(n);
            !recent.entries.is_empty()
        });
    }

    /// Drops the events of streams that are being deleted.
    pub fn forget(&self, streams: &[StreamId]) {
        let inner = &mut *self.0.lock();
        for stream in streams {
            if let Some(recent) = inner.streams.remove(stream) {
                let whole = recent.entries.iter().filter_map(|e| e.event.as_deref());
                inner.bytes -= whole.map(size).sum::<usize>();
                inner.whole.retain(|kept| kept != stream);
            }
        }
    }
}

impl Inner {
    fn strip_oldest(&mut self) {
        let Some(stream) = self.whole.pop_front() else {
            self.bytes = 0;
            return;
        };
        let Some(recent) = self.streams.get_mut(&stream) else {
            return;
        };
        if let Some(event) = recent.strip() {
            self.bytes -= size(&event);
        }
        recent.forget_indexed(self.indexed);
        if recent.entries.is_empty() {
            self.streams.remove(&stream);
        }
    }
}

impl Recent {
    /// Evicts the oldest full event; its entry keeps the row number.
    fn strip(&mut self) -> Option<Arc<Event>> {
        let event = self.entries.get_mut(self.bare)?.event.take();
        self.bare += 1;
        event
    }

    /// Drops entries from the front that are evicted and indexed.
    fn forget_indexed(&mut self, indexed: i64) {
        while self.bare > 0 && self.entries.front().is_some_and(|e| e.n <= indexed) {
            self.entries.pop_front();
            self.bare -= 1;
        }
    }
}

fn size(event: &Event) -> usize {
    OVERHEAD + event.body.len() + event.headers.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventId;
    use crate::domain::time::Timestamp;

    fn event(stream: i64, seq: i64, bytes: usize) -> Arc<Event> {
        Arc::new(Event {
            stream: StreamId(stream),
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

    fn seqs(entries: &[Entry]) -> Vec<i64> {
        entries.iter().map(|entry| entry.seq.0).collect()
    }

    #[test]
    fn what_is_neither_indexed_nor_whole_is_still_found() {
        let tail = Tail::default();
        let huge = KEPT_BYTES_MAX / 4;
        tail.push((1..=8).map(|n| (n, event(1, n, huge))));
        let (first, entries) = tail.after(StreamId(1), Seq(0), 100);
        assert_eq!(
            (first, seqs(&entries)),
            (Some(Seq(1)), (1..=8).collect::<Vec<_>>())
        );
        let whole: Vec<_> = entries.iter().map(|e| e.event.is_some()).collect();
        assert_eq!(whole.iter().filter(|w| **w).count(), 3);
        assert!(whole.is_sorted(), "the oldest make room first");

        tail.indexed(4);
        let (first, entries) = tail.after(StreamId(1), Seq(0), 100);
        assert_eq!((first, seqs(&entries)), (Some(Seq(5)), vec![5, 6, 7, 8]));
        let (_, entries) = tail.after(StreamId(1), Seq(6), 1);
        assert_eq!(seqs(&entries), [7]);
        let (_, entries) = tail.after(StreamId(1), Seq(8), 9);
        assert!(entries.is_empty());
    }

    #[test]
    fn whole_events_stay_after_they_were_indexed_until_they_must_make_room() {
        let tail = Tail::default();
        tail.push((1..=3).map(|n| (n, event(n, 1, 10))));
        tail.indexed(3);
        assert_eq!(tail.after(StreamId(2), Seq(0), 1).1.len(), 1);
        tail.push(std::iter::once((4, event(9, 1, KEPT_BYTES_MAX))));
        assert!(tail.after(StreamId(2), Seq(0), 1).1.is_empty());
        assert_eq!(tail.0.lock().bytes, 0);
        tail.forget(&[StreamId(9)]);
        assert!(tail.0.lock().streams.is_empty());
    }
}
