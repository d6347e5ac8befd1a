//! The bounded queue between HTTP and the committers. A full queue refuses events; an accepted event is
//! never dropped.
//!
//! One limit covers the bytes of a body from before its first byte is read until its event is
//! committed. No one waits for room: a body without room is refused, so slow bodies cannot block each
//! other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::domain::hook::HookId;
use crate::domain::name::OrderingKey;
use crate::store::{Appended, Error, NewEvent};

/// Number of events that may wait for their commit.
pub const EVENTS_MAX: usize = 4_096;

/// Bytes of bodies being read, and of bodies and headers that wait for their commit.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;

/// One hook may use a quarter of the queue, so that a flood leaves room for the others.
const SHARE_OF_ONE_HOOK: usize = 4;

/// Number of events in one commit.
const BATCH_EVENTS_MAX: usize = 512;

/// Bytes in one commit.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Number of events of one stream in one commit; the others go into the next one.
const BATCH_STREAM_MAX: usize = 64;

/// Reason why an event was not accepted. It is certainly not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue is full: the disk is too slow at present.
    #[error("the queue is full")]
    Full,
    /// The hook has used its share of the queue.
    #[error("this hook has filled its share of the queue")]
    HookFull,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Outcome of an accepted event.
pub type Answer = Result<Appended, Arc<Error>>;

/// An event that waits for its commit.
pub struct Waiting {
    /// The event.
    pub event: NewEvent,
    /// Channel for the answer.
    pub answer: oneshot::Sender<Answer>,
}

/// The queue. It has a line for each committer. A stream always uses the same line, so its events are
/// committed in the order in which they arrived.
pub struct Intake {
    queue: Mutex<Queue>,
    filled: Vec<Notify>,
}

#[derive(Default)]
struct Queue {
    lines: Vec<VecDeque<Waiting>>,
    /// Events that wait or are being committed; the bytes also include bodies being read.
    load: Load,
    of_hook: HashMap<HookId, Load>,
    stopping: bool,
}

#[derive(Clone, Copy, Default)]
struct Load {
    events: usize,
    bytes: usize,
}

impl Load {
    /// True if a share of the queue has room for one more event of this many bytes.
    fn fits(self, share: usize, bytes: usize) -> bool {
        self.events < EVENTS_MAX / share && self.bytes.saturating_add(bytes) <= BYTES_MAX / share
    }

    fn is_nothing(self) -> bool {
        self.events == 0 && self.bytes == 0
    }
}

/// Memory reserved for a body that is being read; released when dropped.
pub struct Room<'i> {
    intake: &'i Intake,
    hook: HookId,
    bytes: usize,
}

impl Room<'_> {
    /// Reserves memory for more bytes, before they are read.
    ///
    /// # Errors
    /// [`Refused`]; the reservation keeps its size.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refused> {
        let mut queue = self.intake.queue.lock();
        queue.room(self.hook, bytes)?;
        queue.takes(self.hook, 0, bytes);
        self.bytes += bytes;
        Ok(())
    }

    /// Accepts the event that the room was for. Its place in the queue is its place among the events of
    /// its stream, so this is called once its last byte has arrived and all checks have passed.
    ///
    /// # Errors
    /// [`Refused`]; the event is not stored.
    pub fn let_in(mut self, event: NewEvent) -> Result<oneshot::Receiver<Answer>, Refused> {
        let (answer, wait) = oneshot::channel();
        let intake = self.intake;
        let line = usize::from(event.slot.0) % intake.filled.len();
        let mut queue = intake.queue.lock();
        queue.gives(self.hook, 0, std::mem::take(&mut self.bytes));
        queue.room(event.hook, size(&event))?;
        queue.takes(event.hook, 1, size(&event));
        queue.lines[line].push_back(Waiting { event, answer });
        drop(queue);
        intake.filled[line].notify_one();
        Ok(wait)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.intake.queue.lock().gives(self.hook, 0, self.bytes);
        }
    }
}

impl Intake {
    /// An empty queue for this many committers, at least one.
    pub fn new(committers: usize) -> Self {
        let lines = 0..committers.max(1);
        Self {
            filled: lines.clone().map(|_| Notify::new()).collect(),
            queue: Mutex::new(Queue {
                lines: lines.map(|_| VecDeque::new()).collect(),
                ..Queue::default()
            }),
        }
    }

    /// Reserves room for an event of `hook` before its body is read; `bytes` is the length of the body,
    /// if known.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn room(&self, hook: HookId, bytes: usize) -> Result<Room<'_>, Refused> {
        let mut room = Room {
            intake: self,
            hook,
            bytes: 0,
        };
        room.grow(bytes).map(|()| room)
    }

    /// Accepts an event whose body was not read in a [`Room`].
    ///
    /// # Errors
    /// As for [`Room::let_in`].
    pub fn let_in(&self, event: NewEvent) -> Result<oneshot::Receiver<Answer>, Refused> {
        self.room(event.hook, 0)?.let_in(event)
    }

    /// Waits until a committer's line has an event; `false` when the node is stopping and the line is
    /// empty.
    pub async fn is_filled(&self, line: usize) -> bool {
        loop {
            {
                let queue = self.queue.lock();
                if !queue.lines[line].is_empty() {
                    return true;
                }
                if queue.stopping {
                    return false;
                }
            }
            self.filled[line].notified().await;
        }
    }

    /// Takes the events of one commit from the front of a line.
    pub fn take_batch(&self, line: usize) -> Vec<Waiting> {
        take_batch(&mut self.queue.lock().lines[line])
    }

    /// Releases the room of a batch after its commit.
    pub fn committed(&self, batch: &[(HookId, usize)]) {
        let mut queue = self.queue.lock();
        for (hook, bytes) in batch {
            queue.gives(*hook, 1, *bytes);
        }
    }

    /// Refuses all further events.
    pub fn stop(&self) {
        self.queue.lock().stopping = true;
        self.filled.iter().for_each(Notify::notify_one);
    }

    /// Number of events that wait or are being committed, and bytes of them and of bodies being read.
    pub fn depth(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        (queue.load.events, queue.load.bytes)
    }
}

impl Queue {
    /// A body larger than its hook's share is accepted when the hook has nothing else in flight.
    fn room(&self, hook: HookId, bytes: usize) -> Result<(), Refused> {
        if self.stopping {
            return Err(Refused::Stopping);
        }
        if !self.load.fits(1, bytes) {
            return Err(Refused::Full);
        }
        let of_hook = self.of_hook.get(&hook).copied().unwrap_or_default();
        match of_hook.fits(SHARE_OF_ONE_HOOK, bytes) || of_hook.is_nothing() {
            true => Ok(()),
            false => Err(Refused::HookFull),
        }
    }

    fn takes(&mut self, hook: HookId, events: usize, bytes: usize) {
        if events + bytes == 0 {
            return;
        }
        for load in [&mut self.load, self.of_hook.entry(hook).or_default()] {
            load.events += events;
            load.bytes += bytes;
        }
    }

    fn gives(&mut self, hook: HookId, events: usize, bytes: usize) {
        self.load.events -= events;
        self.load.bytes -= bytes;
        if let Some(load) = self.of_hook.get_mut(&hook) {
            load.events -= events;
            load.bytes -= bytes;
            if load.is_nothing() {
                self.of_hook.remove(&hook);
            }
        }
    }
}

/// Takes the events of one commit from the front. Events beyond a limit keep their order.
fn take_batch(line: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut batch = Vec::with_capacity(line.len().min(BATCH_EVENTS_MAX));
    let mut bytes = 0;
    let mut of_stream: HashMap<(HookId, OrderingKey), usize> = HashMap::new();
    let mut left = VecDeque::new();
    while batch.len() < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
        let Some(waiting) = line.pop_front() else {
            break;
        };
        let stream = (waiting.event.hook, waiting.event.key.clone());
        let taken = of_stream.entry(stream).or_default();
        if *taken == BATCH_STREAM_MAX {
            left.push_back(waiting);
            continue;
        }
        *taken += 1;
        bytes += size(&waiting.event);
        batch.push(waiting);
    }
    left.append(line);
    *line = left;
    batch
}

/// Bytes of an event in the queue.
pub fn size(event: &NewEvent) -> usize {
    event.body.len() + event.headers.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventId;
    use crate::domain::lane::Slot;
    use crate::domain::time::Timestamp;

    fn event(hook: i64, key: &str, bytes: usize) -> NewEvent {
        NewEvent {
            hook: HookId(hook),
            key: OrderingKey::new(key.as_bytes()),
            slot: Slot(0),
            id: EventId::from_bytes([0; 16]),
            received_at: Timestamp::default(),
            key_id: None,
            dedupe_key: None,
            headers: "".into(),
            body: vec![0; bytes].into(),
            provided: None,
        }
    }

    fn room_of(batch: &[Waiting]) -> Vec<(HookId, usize)> {
        batch
            .iter()
            .map(|w| (w.event.hook, size(&w.event)))
            .collect()
    }

    impl Intake {
        fn has_room(&self, hook: HookId) -> Result<(), Refused> {
            self.room(hook, 1).map(drop)
        }
    }

    #[tokio::test]
    async fn one_hook_fills_its_share_and_leaves_room_for_the_others() {
        let intake = Intake::new(1);
        for _ in 0..EVENTS_MAX / SHARE_OF_ONE_HOOK {
            intake.let_in(event(1, "", 1)).unwrap();
        }
        assert_eq!(intake.has_room(HookId(1)), Err(Refused::HookFull));
        intake
            .let_in(event(2, "", BYTES_MAX / SHARE_OF_ONE_HOOK))
            .unwrap();
        assert_eq!(intake.has_room(HookId(2)), Err(Refused::HookFull));
        assert_eq!(intake.has_room(HookId(3)), Ok(()));

        let mut taken = 0;
        while taken < EVENTS_MAX / SHARE_OF_ONE_HOOK + 1 {
            let batch = intake.take_batch(0);
            assert!(!batch.is_empty() && batch.len() <= BATCH_EVENTS_MAX);
            taken += batch.len();
            intake.committed(&room_of(&batch));
        }
        assert_eq!(intake.depth(), (0, 0));
        assert_eq!(intake.has_room(HookId(1)), Ok(()));
        intake.stop();
        assert!(!intake.is_filled(0).await);
        assert_eq!(intake.has_room(HookId(1)), Err(Refused::Stopping));
    }

    #[test]
    fn bytes_that_are_being_read_count_and_nobody_waits_for_them() {
        let intake = Intake::new(1);
        let (slow, other) = (HookId(1), HookId(2));
        let share = BYTES_MAX / SHARE_OF_ONE_HOOK;
        let mut first = intake.room(slow, share / 2).unwrap();
        let second = intake.room(slow, share / 2).unwrap();
        assert_eq!(intake.has_room(slow), Err(Refused::HookFull));
        assert_eq!(first.grow(1), Err(Refused::HookFull));
        assert_eq!(intake.has_room(other), Ok(()));
        drop(second);
        assert_eq!(first.grow(1), Ok(()));
        first.let_in(event(1, "", 7)).unwrap();
        assert_eq!(intake.depth(), (1, 7), "what was read too much is free");
        intake.committed(&room_of(&intake.take_batch(0)));
        assert_eq!(intake.depth(), (0, 0));

        let whole: Vec<_> = (3..7)
            .map(|hook| intake.room(HookId(hook), share))
            .collect();
        assert!(whole.iter().all(Result::is_ok));
        assert_eq!(intake.has_room(slow), Err(Refused::Full));
        drop(whole);
        let large = intake.room(slow, share + 1).unwrap();
        assert_eq!(intake.has_room(slow), Err(Refused::HookFull));
        assert_eq!(intake.room(other, BYTES_MAX).err(), Some(Refused::Full));
        drop(large);
        assert_eq!(intake.depth(), (0, 0));
    }

    #[test]
    fn what_exceeds_the_limit_of_a_stream_goes_first_next_time_in_its_order() {
        let intake = Intake::new(1);
        for n in 0..BATCH_STREAM_MAX + 2 {
            intake.let_in(event(1, "hot", n)).unwrap();
        }
        intake.let_in(event(1, "cold", 7)).unwrap();
        let first = intake.take_batch(0);
        assert_eq!(first.len(), BATCH_STREAM_MAX + 1);
        assert_eq!(first[BATCH_STREAM_MAX].event.key.as_str(), "cold");
        let second = intake.take_batch(0);
        let lengths: Vec<_> = second.iter().map(|w| w.event.body.len()).collect();
        assert_eq!(lengths, [BATCH_STREAM_MAX, BATCH_STREAM_MAX + 1]);
    }
}
