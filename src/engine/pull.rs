//! Pull: consumers request the next events of streams, and the position moves after they acknowledge.
//!
//! A pull cursor takes no turns in a lane. Each node has a [`Desk`] for every handler that consumers
//! request: a queue of streams that may have events, and a queue of waiting consumers. On any node, a
//! delivery begins with a compare-and-set in the database. So a desk may be wrong without harm, missed
//! streams are soon found, and a resize or a lost node needs no special treatment.
//!
//! ```text
//! committer, ack, look ──▶ streams ┐
//!                                  ├─▶ read, judge, claim ──▶ handed over ──▶ ack, nack, extend, or lease over
//! pull ──────────────▶ consumers ──┘
//! ```
//! A delivery whose consumer left before the answer is given back.

mod answers;
mod ask;
mod claims;
mod desk;

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
pub use ask::Ask;
pub use claims::{Delivered, Deliveries};
use desk::{Desk, Waiter};

/// Interval of queries for streams whose events were stored by another node, or whose time has come,
/// while a consumer waits.
const LOOK_SHARED: Duration = Duration::from_millis(250);

/// The same interval on a single node.
const LOOK_ALONE: Duration = Duration::from_secs(1);

/// Queries take at most a fiftieth of a core's time.
const SHARE: u32 = 50;

/// Least interval between the queries of all desks of a node.
const LOOK_APART: Duration = Duration::from_millis(10);

/// Number of streams that a query returns at most.
const FOUND_MAX: i64 = 1_000;

/// Desks of this node.
#[derive(Default)]
pub struct Pulls {
    desks: Mutex<HashMap<HandlerId, Arc<Desk>>>,
    /// Held for reading by each claim, from its check of the configuration to its end.
    claiming: Arc<tokio::sync::RwLock<()>>,
}

impl Pulls {
    /// Reports that a stream may have events. Cheap, and without effect if no consumer has asked.
    pub fn hint(&self, cursor: CursorId) {
        let desk = self.desks.lock().get(&cursor.handler).cloned();
        if let Some(desk) = desk {
            desk.push([cursor.stream]);
        }
    }

    /// Waits until the running claims have ended. Later ones use the present configuration.
    pub async fn claims_end(&self) {
        drop(self.claiming.write().await);
    }

    /// Removes the desks of removed handlers; waiting consumers get an empty answer.
    pub fn forget_all_but(&self, handlers: &HashMap<HandlerId, Arc<Handler>>) {
        self.desks.lock().retain(|id, _| handlers.contains_key(id));
    }

    /// Number of consumers that wait on this node.
    pub fn waiting(&self, handler: HandlerId) -> usize {
        let desk = self.desks.lock().get(&handler).cloned();
        desk.map_or(0, |desk| desk.waiting())
    }

    fn desk(&self, handler: HandlerId) -> (Arc<Desk>, bool) {
        let mut desks = self.desks.lock();
        let is_new = !desks.contains_key(&handler);
        (desks.entry(handler).or_default().clone(), is_new)
    }

    fn count(&self) -> u32 {
        u32::try_from(self.desks.lock().len()).unwrap_or(u32::MAX)
    }
}

impl Engine {
    /// Waits for the next deliveries for a consumer; none after its wait time. If the future is
    /// dropped, its deliveries are given back.
    pub async fn pull(self: &Arc<Self>, handler: HandlerId, ask: Ask) -> Result<Deliveries, Error> {
        let replayed = self.pull_replays(handler, &ask).await?;
        if !replayed.items.is_empty() {
            return Ok(replayed);
        }
        let until = Instant::now() + ask.wait;
        let (desk, is_new) = self.pulls.desk(handler);
        let every = self.look_every();
        if is_new || ask.wait < every {
            // No other query runs before this consumer must be answered.
            self.look(handler, &desk).await?;
        }
        let (answer, mut answered) = oneshot::channel();
        let ticket = desk.queue(Waiter::new(ask, answer, until));
        self.serve(handler, &desk);
        self.watch(handler, &desk);
        tokio::select! {
            biased;
            answer = &mut answered => return self.handed(answer),
            () = tokio::time::sleep_until(until) => {}
        }
        match desk.withdraw(ticket) {
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
        ask: &Ask,
    ) -> Result<Deliveries, Error> {
        let catalog = self.catalog.now();
        let replays = catalog.replays.iter().filter(|(_, of)| of.of == handler);
        for (id, replay) in replays {
            let claimed = self.claim(*id, ask, vec![replay.stream]).await?;
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
    fn serve(self: &Arc<Self>, handler: HandlerId, desk: &Arc<Desk>) {
        while let Some((waiter, streams)) = desk.next() {
            let (engine, desk) = (self.clone(), desk.clone());
            tokio::spawn(async move {
                let claimed = engine.claim(handler, &waiter.ask, streams).await;
                match claimed {
                    Ok(claimed) if claimed.items.is_empty() => {
                        desk.wait_again(waiter);
                        engine.serve(handler, &desk);
                        engine.watch(handler, &desk);
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
    fn watch(self: &Arc<Self>, handler: HandlerId, desk: &Arc<Desk>) {
        if !desk.begins_watch() {
            return;
        }
        let (engine, desk) = (self.clone(), desk.clone());
        tokio::spawn(async move {
            let mut due = Instant::now() + engine.look_every();
            while desk.is_watched() && engine.has_desk(handler, &desk) {
                tokio::select! {
                    () = desk.woken() => engine.serve(handler, &desk),
                    () = tokio::time::sleep_until(due) => {
                        let began = Instant::now();
                        if let Err(error) = engine.look(handler, &desk).await {
                            tracing::debug!(%error, "work for consumers is looked for again");
                        }
                        due = Instant::now() + engine.look_every().max(began.elapsed() * SHARE);
                        engine.serve(handler, &desk);
                    }
                }
            }
            desk.dismiss();
        });
    }

    fn has_desk(&self, handler: HandlerId, desk: &Arc<Desk>) -> bool {
        let desks = self.pulls.desks.lock();
        desks
            .get(&handler)
            .is_some_and(|now| Arc::ptr_eq(now, desk))
    }

    fn look_every(&self) -> Duration {
        let every = match self.relay.is_shared() {
            true => LOOK_SHARED,
            false => LOOK_ALONE,
        };
        every.max(LOOK_APART * self.pulls.count())
    }

    /// Queries for streams that may have events. Callers that arrive during a query share the next one.
    async fn look(&self, handler: HandlerId, desk: &Desk) -> Result<(), Error> {
        let asked = Instant::now();
        let mut looked = desk.looked.lock().await;
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
        desk.push(
            may_move
                .map(|found| found.stream)
                .collect::<Vec<StreamId>>(),
        );
        *looked = Some(began);
        Ok(())
    }
}
