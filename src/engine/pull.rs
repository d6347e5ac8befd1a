//! Pull: consumers ask for the next events of streams, and the position moves after they have acknowledged.
//!
//! A pull cursor takes no turns in a lane. Each node has a [`Desk`] for every handler that is asked for: streams that
//! may have something to deliver stand there in a line, and consumers that wait in another. Whichever node is asked,
//! a delivery begins with a compare-and-set in the database, so the desks may all be wrong and none is missed for
//! long: a resize or a lost node needs nothing special.
//!
//! ```text
//! committer, ack, look ──▶ streams ┐
//!                                  ├─▶ read, judge, claim ──▶ handed over ──▶ ack, nack, extend, or lease over
//! pull ──────────────▶ consumers ──┘
//! ```
//! A delivery that nobody has got, because its consumer went away before the answer, is given back.

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

/// How often is looked for work of which this node has not heard, while somebody waits for it: it was stored by
/// another node, or a time has come.
const LOOK_SHARED: Duration = Duration::from_millis(250);

/// The same on the only node.
const LOOK_ALONE: Duration = Duration::from_secs(1);

/// Looks take at most a fiftieth of the time of one core.
const SHARE: u32 = 50;

/// All desks of a node look so often together at most.
const LOOK_APART: Duration = Duration::from_millis(10);

/// Streams found by one look.
const FOUND_MAX: i64 = 1_000;

/// The desks of this node.
#[derive(Default)]
pub struct Pulls {
    desks: Mutex<HashMap<HandlerId, Arc<Desk>>>,
    /// Held by each claim from the look at what may move until it has ended.
    claiming: Arc<tokio::sync::RwLock<()>>,
}

impl Pulls {
    /// Says that a stream may have something to deliver. Cheap, and of no effect where nobody has asked.
    pub fn hint(&self, cursor: CursorId) {
        let desk = self.desks.lock().get(&cursor.handler).cloned();
        if let Some(desk) = desk {
            desk.push([cursor.stream]);
        }
    }

    /// Returns when the claims that run have ended. Every later one goes by the configuration as it is now.
    pub async fn claims_end(&self) {
        drop(self.claiming.write().await);
    }

    /// Forgets the desks of handlers that are gone; who waits there is told that there is nothing.
    pub fn forget_all_but(&self, handlers: &HashMap<HandlerId, Arc<Handler>>) {
        self.desks.lock().retain(|id, _| handlers.contains_key(id));
    }

    /// Consumers that wait on this node.
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
    /// The next deliveries for a consumer, as soon as there are any; none after its wait. Cancel-safe: what nobody
    /// takes is given back.
    pub async fn pull(self: &Arc<Self>, handler: HandlerId, ask: Ask) -> Result<Deliveries, Error> {
        let replayed = self.pull_replays(handler, &ask).await?;
        if !replayed.items.is_empty() {
            return Ok(replayed);
        }
        let until = Instant::now() + ask.wait;
        let (desk, is_new) = self.pulls.desk(handler);
        let every = self.look_every();
        if is_new || ask.wait < every {
            // Nothing else would look before this consumer is answered.
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
            // It is being served just now.
            false => self.handed(answered.await),
        }
    }

    /// The next events that are replayed to consumers of a handler. They come before all others, as somebody asked for
    /// them.
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

    /// Brings streams and consumers together.
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
                        // Whoever has gone away gives it back by dropping it.
                        let _ = waiter.answer.send(answer);
                    }
                }
            });
        }
    }

    /// Looks now and then for as long as somebody waits at a desk.
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

    /// Finds streams that may have something to deliver. Callers that come while one looks share the next look.
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
