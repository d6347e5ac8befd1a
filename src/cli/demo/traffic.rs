//! The senders of the demo: one for each stream, each with a connection of its own, as the outside world
//! has. A sender reads the answer to one event before it sends the next, and keeps a ledger of what was
//! answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::api::Accepted;
use crate::client::Client;
use crate::domain::event::EventId;
use crate::domain::name::StreamName;
use crate::domain::position::Seq;

/// Events of one stream in a spike, sent without a pause.
const SPIKE: u64 = 100;

/// Every so many events one is sent twice, as senders do that missed an answer.
const REPEATED_EVERY: u64 = 40;

/// How often an event is sent before its sender gives up on it.
const TRIES: u32 = 20;

/// How long a sender that was refused waits.
const REFUSED_WAIT: Duration = Duration::from_millis(250);

/// What the senders are asked to do; counts, so that nobody misses one.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Spikes so far.
    pub spikes: u64,
    /// Poisoned events so far, and the stream that gets the newest.
    pub poisons: (u64, Option<Arc<StreamName>>),
    /// Nothing more.
    pub stop: bool,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its number among those of its sender, counted from 1.
    pub n: u64,
    /// What its reducer adds; none: something that it rejects.
    pub amount: Option<i64>,
}

impl Content {
    /// The body that is sent.
    pub fn body(&self, stream: &StreamName) -> String {
        let amount = self.amount.map_or(json!("a lot"), |amount| json!(amount));
        let key = stream.key.as_str();
        match stream.hook.as_str() {
            "orders" => json!({"customer": key, "n": self.n, "amount": amount}).to_string(),
            _ => json!({"n": self.n, "amount": amount}).to_string(),
        }
    }
}

/// An event that was answered with a 2xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub event: EventId,
    /// Its place in its stream.
    pub seq: Seq,
    /// What it is about.
    pub content: Content,
}

/// What one sender did.
#[derive(Debug)]
pub struct Ledger {
    /// Where to.
    pub stream: StreamName,
    /// What was accepted, in order.
    pub sent: Vec<Sent>,
    /// Events it wanted to send.
    pub events: u64,
    /// Events that were sent twice on purpose.
    pub repeated: u64,
    /// Posts that were refused for now, and sent again.
    pub refused: u64,
    /// How long each answer took, in microseconds.
    pub took: Vec<u32>,
    /// What did not go as it must.
    pub troubles: Vec<String>,
}

impl Ledger {
    /// An empty one.
    pub fn new(stream: StreamName) -> Self {
        Self {
            stream,
            sent: Vec::new(),
            events: 0,
            repeated: 0,
            refused: 0,
            took: Vec::new(),
            troubles: Vec::new(),
        }
    }
}

/// One sender.
pub struct Sender {
    /// Its connection, with a write key.
    pub client: Client,
    /// Its pace, without spikes.
    pub every: Duration,
    /// Is told of every poisoned event that was accepted.
    pub poisoned: mpsc::UnboundedSender<(StreamName, EventId)>,
    /// What it did.
    pub ledger: Ledger,
}

impl Sender {
    /// Sends until it shall stop.
    pub async fn run(mut self, mut wishes: watch::Receiver<Wish>) -> Ledger {
        let mut seen = Wish::default();
        // Not all of them at the same moment.
        let mut due = tokio::time::Instant::now() + self.every.mul_f64(rand::random());
        loop {
            let changed = tokio::select! {
                () = tokio::time::sleep_until(due) => None,
                changed = wishes.changed() => Some(changed),
            };
            if matches!(changed, Some(Err(_))) {
                return self.ledger;
            }
            let wish = wishes.borrow_and_update().clone();
            if wish.stop {
                return self.ledger;
            }
            if wish.spikes > seen.spikes {
                for _ in 0..SPIKE {
                    self.send(Some(rand::random_range(1..100))).await;
                }
            }
            let is_mine = wish.poisons.1.as_deref() == Some(&self.ledger.stream);
            if wish.poisons.0 > seen.poisons.0 && is_mine {
                self.send(None).await;
            }
            if changed.is_none() {
                self.send(Some(rand::random_range(1..100))).await;
                due += self.every.mul_f64(rand::random_range(0.5..1.5));
            }
            seen = wish;
        }
    }

    async fn send(&mut self, amount: Option<i64>) {
        self.ledger.events += 1;
        let n = self.ledger.events;
        let content = Content { n, amount };
        let Some(accepted) = self.post(content).await else {
            return;
        };
        self.ledger.sent.push(Sent {
            event: accepted.event,
            seq: accepted.seq,
            content,
        });
        if amount.is_none() {
            // Nobody listens any more at the end only.
            let _ = self
                .poisoned
                .send((self.ledger.stream.clone(), accepted.event));
        }
        if n.is_multiple_of(REPEATED_EVERY) {
            self.ledger.repeated += 1;
            let again = self.post(content).await;
            let is_same = again.is_some_and(|again| {
                again.duplicate && (again.event, again.seq) == (accepted.event, accepted.seq)
            });
            if !is_same {
                self.trouble(n, "sent twice, it was not answered as the same");
            }
        }
    }

    /// Posts until it is accepted; none when that did not come to be.
    async fn post(&mut self, content: Content) -> Option<Accepted> {
        let mut last = String::new();
        for _ in 0..TRIES {
            let began = Instant::now();
            let answer = self
                .client
                .exchange(self.request(content).ok()?, Duration::ZERO)
                .await;
            match answer {
                Ok(answer) if answer.status().is_success() => {
                    let took = u32::try_from(began.elapsed().as_micros());
                    self.ledger.took.push(took.unwrap_or(u32::MAX));
                    match serde_json::from_slice(answer.body()) {
                        Ok(accepted) => return Some(accepted),
                        Err(error) => last = error.to_string(),
                    }
                }
                Ok(answer) if is_for_now(answer.status()) => {
                    self.ledger.refused += 1;
                    last = answer.status().to_string();
                }
                Ok(answer) => {
                    last = answer.status().to_string();
                    break;
                }
                // Whether it was stored is not known: its key makes it safe to send it again.
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(REFUSED_WAIT).await;
        }
        self.trouble(content.n, &format!("it was not accepted: {last}"));
        None
    }

    fn request(&self, content: Content) -> http::Result<Request<Bytes>> {
        let stream = &self.ledger.stream;
        Request::post(format!("/in/{}", stream.hook))
            .header("content-type", "application/json")
            .header("idempotency-key", format!("{stream}-{}", content.n))
            .header("x-page", stream.key.as_str())
            .body(content.body(stream).into())
    }

    fn trouble(&mut self, n: u64, what: &str) {
        let stream = &self.ledger.stream;
        let text = format!("event {n} of the sender of {stream}: {what}");
        self.ledger.troubles.push(text);
    }
}

fn is_for_now(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    )
}
