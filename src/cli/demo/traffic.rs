//! The senders of the demo, one for each stream, each with its own connection. A sender waits for an
//! answer before it sends the next event, and records the answers.

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

/// Number of events of one stream in a spike, sent without a pause.
const SPIKE: u64 = 100;

/// One event in this number is sent twice, as by a sender that missed the answer.
const REPEATED_EVERY: u64 = 40;

/// Number of attempts before a sender gives up on an event.
const TRIES: u32 = 20;

/// Pause of a sender after a refusal.
const REFUSED_WAIT: Duration = Duration::from_millis(250);

/// Instructions to the senders. Counters, so that no sender misses one.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Number of spikes so far.
    pub spikes: u64,
    /// Number of poisoned events so far, and the stream of the newest.
    pub poisons: (u64, Option<Arc<StreamName>>),
    /// True to stop sending.
    pub stop: bool,
}

/// Content of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Number among the events of its sender, from 1.
    pub n: u64,
    /// Amount that its reducer adds; `None` for a poisoned event, which it rejects.
    pub amount: Option<i64>,
}

impl Content {
    /// The body to send.
    pub fn body(&self, stream: &StreamName) -> String {
        let amount = self.amount.map_or(json!("a lot"), |amount| json!(amount));
        let key = stream.key.as_str();
        match stream.hook.as_str() {
            "orders" => json!({"customer": key, "n": self.n, "amount": amount}).to_string(),
            _ => json!({"n": self.n, "amount": amount}).to_string(),
        }
    }
}

/// An accepted event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub event: EventId,
    /// Its place in the stream.
    pub seq: Seq,
    /// Its content.
    pub content: Content,
}

/// Record of one sender.
#[derive(Debug)]
pub struct Ledger {
    /// Its stream.
    pub stream: StreamName,
    /// Accepted events, in order.
    pub sent: Vec<Sent>,
    /// Number of events it set out to send.
    pub events: u64,
    /// Number of events sent twice on purpose.
    pub repeated: u64,
    /// Number of posts that were refused and sent again.
    pub refused: u64,
    /// Answer times, in microseconds.
    pub took: Vec<u32>,
    /// Everything that went wrong.
    pub troubles: Vec<String>,
}

impl Ledger {
    /// An empty record.
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
    /// Interval between events, except in spikes.
    pub every: Duration,
    /// Receives each poisoned event that was accepted.
    pub poisoned: mpsc::UnboundedSender<(StreamName, EventId)>,
    /// Its record.
    pub ledger: Ledger,
}

impl Sender {
    /// Sends until it is told to stop.
    pub async fn run(mut self, mut wishes: watch::Receiver<Wish>) -> Ledger {
        let mut seen = Wish::default();
        // Senders start at different times.
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
            seq: accepted.seq.unwrap_or_default(),
            content,
        });
        if amount.is_none() {
            // At the end no one receives this any more.
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

    /// Posts until the event is accepted; `None` after too many attempts.
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
                // The outcome is unknown; the dedupe key makes it safe to send again.
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
