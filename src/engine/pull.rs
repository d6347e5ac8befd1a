//! Pull: consumers request the next events of streams, and the position moves after they acknowledge.
//!
//! A pull cursor takes no turns in a lane. Each node has [`Queues`] for every handler that consumers
//! request: a queue of streams that may have events, and a queue of waiting consumers. On any node, a
//! delivery begins with a compare-and-set in the database. So a queue may be wrong without harm, missed
//! streams are soon found, and a resize or a lost node needs no special treatment.
//!
//! ```text
//! committer, ack, look ──▶ streams ┐
//!                                  ├─▶ read, judge, claim ──▶ handed over ──▶ ack, nack, extend, or lease over
//! pull ──────────────▶ consumers ──┘
//! ```
//! A delivery whose consumer left before the answer is given back.

mod answers;
mod claims;
mod queues;
mod request;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Engine;
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::{Handler, HandlerId};
use crate::store::Error;

pub use answers::{Answer, Answered, Nack};
pub use claims::{Delivered, Deliveries};
use queues::{Queues, Waiter};
pub use request::ConsumerRequest;

/// Interval of queries for streams whose events were stored by another node, or whose time has come,
/// while a consumer waits.
const LOOK_SHARED: Duration = Duration::from_millis(250);

/// Interval of these queries on a single node, which stores every event itself.
const LOOK_ALONE: Duration = Duration::from_secs(1);

/// Queries take at most a fiftieth of a core's time.
const SHARE: u32 = 50;

/// Least interval between the queries of all queues of a node.
const LOOK_APART: Duration = Duration::from_millis(10);

/// Number of streams that a query returns at most.
const FOUND_MAX: i64 = 1_000;

/// The queues of this node, by handler.
#[derive(Default)]
pub struct Pulls {
    by_handler: Mutex<HashMap<HandlerId, Arc<Queues>>>,
    /// Held for reading by each claim, from its check of the configuration to its end.
    claiming: Arc<tokio::sync::RwLock<()>>,
}

impl Pulls {
    /// Reports that a stream may have events. Cheap, and without effect if no consumer has asked.
    pub fn hint(&self, cursor: CursorId) {
        let queues = self.by_handler.lock().get(&cursor.handler).cloned();
        if let Some(queues) = queues {
            queues.push([cursor.stream]);
        }
    }

    /// Waits until the running claims have ended. Later ones use the present configuration.
    pub async fn claims_end(&self) {
        drop(self.claiming.write().await);
    }

    /// Removes the queues of removed handlers; waiting consumers get an empty answer.
    pub fn forget_all_but(&self, handlers: &HashMap<HandlerId, Arc<Handler>>) {
        self.by_handler
            .lock()
            .retain(|id, _| handlers.contains_key(id));
    }

    /// Number of consumers that wait on this node.
    pub fn waiting(&self, handler: HandlerId) -> usize {
        let queues = self.by_handler.lock().get(&handler).cloned();
        queues.map_or(0, |queues| queues.waiting())
    }

    fn queues(&self, handler: HandlerId) -> (Arc<Queues>, bool) {
        let mut by_handler = self.by_handler.lock();
        let is_new = !by_handler.contains_key(&handler);
        (by_handler.entry(handler).or_default().clone(), is_new)
    }

    fn count(&self) -> u32 {
        u32::try_from(self.by_handler.lock().len()).unwrap_or(u32::MAX)
    }
}

impl Engine {
    /// Waits for the next deliveries for a consumer; none after its wait time. If the future is
    /// dropped, its deliveries are given back.
    pub async fn pull(
        self: &Arc<Self>,
        handler: HandlerId,
        request: ConsumerRequest,
    ) -> Result<Deliveries, Error> {
        let replayed = self.pull_replays(handler, &request).await?;
        if !replayed.items.is_empty() {
            return Ok(replayed);
        }
        let until = Instant::now() + request.wait;
        let (queues, is_new) = self.deliveries.pulls.queues(handler);
        let every = self.look_every();
        if is_new || request.wait < every {
            // No other query runs before this consumer must be answered.
            self.look(handler, &queues).await?;
        }
        let (answer, mut answered) = oneshot::channel();
        let ticket = queues.enqueue(Waiter::new(request, answer, until));
        self.serve(handler, &queues);
        self.watch(handler, &queues);
        tokio::select! {
            biased;
            answer = &mut answered => return self.handed(answer),
            () = tokio::time::sleep_until(until) => {}
        }
        match queues.withdraw(ticket) {
            true => Ok(Deliveries::none(self)),
            // It is being served at this moment.
            false => self.handed(answered.await),
        }
    }

    /// The next replayed events for consumers of a handler. They come before all others, because an
    /// operator asked for them.
    async fn pull_replays(
        self: &Arc<Self>,
        handler: HandlerId,
        request: &ConsumerRequest,
    ) -> Result<Deliveries, Error> {
        let catalog = self.catalog.now();
        let replays = catalog.replays.iter().filter(|(_, of)| of.of == handler);
        for (id, replay) in replays {
            let claimed = self.claim(*id, request, vec![replay.stream]).await?;
            if !claimed.items.is_empty() {
                return Ok(claimed);
            }
        }
        Ok(Deliveries::none(self))
    }

    fn handed(
        self: &Arc<Self>,
        answer: Result<Result<Deliveries, Error>, oneshot::error::RecvError>,
    ) -> Result<Deliveries, Error> {
        answer.unwrap_or_else(|_| Ok(Deliveries::none(self)))
    }

    /// Serves waiting consumers with queued streams.
    fn serve(self: &Arc<Self>, handler: HandlerId, queues: &Arc<Queues>) {
        while let Some((waiter, streams)) = queues.next() {
            let (engine, queues) = (self.clone(), queues.clone());
            tokio::spawn(async move {
                let claimed = engine.claim(handler, &waiter.request, streams).await;
                match claimed {
                    Ok(claimed) if claimed.items.is_empty() => {
                        queues.wait_again(waiter);
                        engine.serve(handler, &queues);
                        engine.watch(handler, &queues);
                    }
                    answer => {
                        if let Err(error) = &answer {
                            engine.fail_if_fatal(error);
                        }
                        // If the consumer has left, dropping the answer gives the deliveries back.
                        let _ = waiter.answer.send(answer);
                    }
                }
            });
        }
    }

    /// Starts the regular queries, which end when no consumer waits.
    fn watch(self: &Arc<Self>, handler: HandlerId, queues: &Arc<Queues>) {
        if !queues.begins_watch() {
            return;
        }
        let (engine, queues) = (self.clone(), queues.clone());
        tokio::spawn(async move {
            let mut due = Instant::now() + engine.look_every();
            while queues.is_watched() && engine.has_queues(handler, &queues) {
                tokio::select! {
                    () = queues.woken() => engine.serve(handler, &queues),
                    () = tokio::time::sleep_until(due) => {
                        let began = Instant::now();
                        if let Err(error) = engine.look(handler, &queues).await {
                            tracing::debug!(%error, "work for consumers is looked for again");
                        }
                        due = Instant::now() + engine.look_every().max(began.elapsed() * SHARE);
                        engine.serve(handler, &queues);
                    }
                }
            }
            queues.dismiss();
        });
    }

    fn has_queues(&self, handler: HandlerId, queues: &Arc<Queues>) -> bool {
        let by_handler = self.deliveries.pulls.by_handler.lock();
        by_handler
            .get(&handler)
            .is_some_and(|now| Arc::ptr_eq(now, queues))
    }

    fn look_every(&self) -> Duration {
        let every = match self.relay.is_shared() {
            true => LOOK_SHARED,
            false => LOOK_ALONE,
        };
        every.max(LOOK_APART * self.deliveries.pulls.count())
    }

    /// Queries for streams that may have events. Callers that arrive during a query share the next one.
    async fn look(&self, handler: HandlerId, queues: &Queues) -> Result<(), Error> {
        let asked = Instant::now();
        let mut looked = queues.looked.lock().await;
        if looked.is_some_and(|began| began >= asked) {
            return Ok(());
        }
        let began = Instant::now();
        let catalog = self.catalog.now();
        let Some(handler) = catalog.handlers.get(&handler) else {
            return Ok(());
        };
        let found = match catalog.stops.hooks.contains_key(&handler.hook) {
            true => Vec::new(),
            false => {
                self.store
                    .ready(handler.id, handler.hook, FOUND_MAX)
                    .await?
            }
        };
        let may_move = found.into_iter().filter(|found| {
            let cursor = CursorId {
                stream: found.stream,
                handler: handler.id,
            };
            claims::lane(&catalog, handler, found.slot)
                .is_some_and(|lane| claims::may_move(&catalog, &lane, cursor))
        });
        queues.push(
            may_move
                .map(|found| found.stream)
                .collect::<Vec<StreamId>>(),
        );
        *looked = Some(began);
        Ok(())
    }
}
