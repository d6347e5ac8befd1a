//! Answers of consumers: acknowledge up to an event, give back, extend. Each answer succeeds or fails
//! alone, by compare-and-set on its token. All answers of a call are durable when it returns.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use crate::domain::backoff;
use crate::domain::cursor::{Applied, Chain, CursorId, DeadLetter};
use crate::domain::event::{EventId, StreamId};
use crate::domain::failure::{Failure, Next};
use crate::domain::hook::Handler;
use crate::domain::position::{Position, Seq};
use crate::domain::time::Timestamp;
use crate::domain::token::Token;
use crate::engine::tally::Last;
use crate::metrics::Delivered;
use crate::store::{Error, LockedDelivery, Range, Settlement};

/// A consumer's answer to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Acknowledges the events up to this one.
    Ack(Seq),
    /// Gives the rest back.
    Nack(Nack),
    /// Extends the lease by this time.
    Extend(Duration),
}

/// A delivery that is given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nack {
    /// Last event that was done; `None` if none was.
    pub seq: Option<Seq>,
    /// Wait before the next try; `None` for the usual wait after a failure.
    pub retry_in: Option<Duration>,
    /// The consumer's reason.
    pub reason: Option<String>,
}

/// Outcome of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The answer is durable, perhaps from an earlier call with the same answer.
    Done {
        /// Position of the cursor now.
        position: Position,
        /// End of the lease, if the delivery is still open.
        lease_until: Option<Timestamp>,
    },
    /// The delivery no longer belongs to this consumer; nothing was changed.
    Stale {
        /// Position of the cursor.
        position: Position,
    },
    /// The event does not belong to the delivery; nothing was changed.
    OutOfRange {
        /// Position of the cursor.
        position: Position,
    },
}

/// Events that an answer may pass; their ids make the chain.
type Ids = HashMap<StreamId, Vec<(Seq, EventId)>>;

impl Engine {
    /// Applies answers of a handler's consumers; returns the outcome of each, in order.
    ///
    /// # Errors
    /// Those of the database. Nothing was changed, unless the connection was lost: then it is unknown, and the same
    /// answers may be given again.
    pub async fn answer(
        self: &Arc<Self>,
        handler: &Handler,
        answers: &[(Token, Answer)],
    ) -> Result<Vec<Answered>, Error> {
        let ids = self.ids(answers).await?;
        let cursors: Vec<CursorId> = answers.iter().map(|(token, _)| token.cursor).collect();
        let mut outcomes: Vec<Option<Outcome>> = vec![None; answers.len()];
        let settled = self
            .store
            .settle(&cursors, |index, found| {
                let (token, answer) = &answers[index];
                let of_stream = ids.get(&token.cursor.stream).map_or(&[][..], Vec::as_slice);
                let (outcome, settle) = decide(handler, token, answer, found, of_stream);
                outcomes[index] = Some(outcome);
                settle
            })
            .await?;
        for cursor in &cursors {
            self.deliveries.pulls.hint(*cursor);
        }
        for (cursor, settled) in cursors.iter().zip(&settled) {
            if let Some(settled) = settled {
                self.end_replay(*cursor, settled.position).await?;
            }
        }
        let done = outcomes
            .iter()
            .map(|outcome| *outcome == Some(Outcome::Done));
        self.note_answers(handler, answers, done);
        let mut answered = Vec::with_capacity(answers.len());
        for (settled, outcome) in settled.into_iter().zip(outcomes) {
            let position = settled.map_or(Position::default(), |settled| settled.position);
            answered.push(match outcome {
                Some(Outcome::Done) => Answered::Done {
                    position,
                    lease_until: settled.and_then(|settled| settled.lease_until),
                },
                Some(Outcome::OutOfRange) => Answered::OutOfRange { position },
                Some(Outcome::Stale) | None => Answered::Stale { position },
            });
        }
        Ok(answered)
    }

    /// Counts acknowledgements and give-backs of consumers.
    fn note_answers(
        &self,
        handler: &Handler,
        answers: &[(Token, Answer)],
        done: impl Iterator<Item = bool>,
    ) {
        let catalog = self.catalog.peek();
        let hook = catalog.hooks_by_id.get(&handler.hook);
        let hook = hook.map_or("", |hook| hook.name.as_str());
        let now = Timestamp::now();
        for ((_, answer), _) in answers.iter().zip(done).filter(|(_, is_done)| *is_done) {
            let (kind, failure) = match answer {
                Answer::Ack(_) => (Delivered::Acknowledged, None),
                Answer::Nack(nack) => {
                    let reason = nack.reason.clone();
                    (
                        Delivered::Failed,
                        Some(reason.unwrap_or_else(|| "given back".to_owned())),
                    )
                }
                Answer::Extend(_) => continue,
            };
            self.metrics.delivered_by(hook, handler.name.as_str(), kind);
            let last = Last {
                at: now,
                failure,
                took: None,
            };
            self.deliveries.tallies.note(handler.id, last);
        }
    }

    /// Ids of the events between the tokens' positions and the seqs of their answers.
    async fn ids(&self, answers: &[(Token, Answer)]) -> Result<Ids, Error> {
        let mut spans: HashMap<StreamId, (Position, Seq)> = HashMap::new();
        for (token, answer) in answers {
            // One more id is read, because the event after the last done one may go to the dead
            // letters.
            let last = match answer {
                Answer::Ack(seq) => seq.0,
                Answer::Nack(nack) => nack.seq.map_or(token.position.0, |seq| seq.0) + 1,
                Answer::Extend(_) => continue,
            };
            let most = i64::from(crate::domain::pull::EVENTS_MAX) + 1;
            let last = last.min(token.position.0.saturating_add(most));
            let span = spans
                .entry(token.cursor.stream)
                .or_insert((token.position, Seq(last)));
            *span = (span.0.min(token.position), span.1.max(Seq(last)));
        }
        let ranges = spans.into_iter().map(|(stream, (after, last))| Range {
            stream,
            after: Seq(after.0),
            limit: usize::try_from(last.0 - after.0).unwrap_or(0),
        });
        let ranges: Vec<_> = ranges.filter(|range| range.limit > 0).collect();
        let streams: Vec<_> = ranges.iter().map(|range| range.stream).collect();
        if ranges.is_empty() {
            return Ok(Ids::new());
        }
        let events = self.store.ranges(ranges).await?;
        let ids = streams.into_iter().zip(events).map(|(stream, events)| {
            let ids = events.iter().map(|event| (event.seq, event.id));
            (stream, ids.collect())
        });
        Ok(ids.collect())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Stale,
    OutOfRange,
}

/// The outcome of an answer, from the rows in the database. The delivery must be the cursor's last one
/// and open, and the cursor must be at the delivery's position: an operator may have moved it.
fn decide(
    handler: &Handler,
    token: &Token,
    answer: &Answer,
    found: &LockedDelivery,
    ids: &[(Seq, EventId)],
) -> (Outcome, Settlement) {
    let delivery = &found.delivery;
    let nothing = |outcome| (outcome, Settlement::Nothing);
    if (token.number, token.era) != (delivery.token.number, delivery.token.era) {
        return nothing(Outcome::Stale);
    }
    let done = match answer {
        Answer::Ack(seq) => Position(seq.0),
        Answer::Nack(nack) => nack.seq.map_or(token.position, |seq| Position(seq.0)),
        Answer::Extend(_) => found.position,
    };
    let stands = (found.era, found.position) == (delivery.token.era, delivery.token.position);
    if done < token.position || done > delivery.upto {
        return nothing(match stands {
            true => Outcome::OutOfRange,
            false => Outcome::Stale,
        });
    }
    if !stands {
        // The stale delivery is dropped, so that the next one may begin.
        return (Outcome::Stale, Settlement::Drop);
    }
    if delivery.lease_until.is_none() {
        // The consumer did not get the reply to this answer, and repeats it.
        let is_repeat = matches!(answer, Answer::Ack(_)) && done <= found.position;
        return nothing(match is_repeat {
            true => Outcome::Done,
            false => Outcome::Stale,
        });
    }
    let to = done.max(found.position);
    let Some(chain) = chain(&found.chain, found.position, to, ids) else {
        // Acknowledged events were delivered, so their ids are known.
        return nothing(Outcome::Stale);
    };
    let settle = match answer {
        Answer::Ack(_) if to == found.position => Settlement::Nothing,
        Answer::Ack(_) => Settlement::Acknowledge { to, chain },
        Answer::Extend(lease) => Settlement::Extend(*lease),
        Answer::Nack(_) if to == delivery.upto => Settlement::Acknowledge { to, chain },
        Answer::Nack(nack) => give_back(handler, nack, found, to, chain, ids),
    };
    (Outcome::Done, settle)
}

/// Records a failed try of the event after `to`.
fn give_back(
    handler: &Handler,
    nack: &Nack,
    found: &LockedDelivery,
    to: Position,
    chain: Chain,
    ids: &[(Seq, EventId)],
) -> Settlement {
    let delivery = &found.delivery;
    // Tries count for one event: after an acknowledged event they begin anew.
    let tries = match to == found.position {
        true => delivery.attempt,
        false => 1,
    };
    let next = to.next();
    let reason = match &nack.reason {
        Some(reason) => format!("at seq {next}: {}: {reason}", delivery.consumer),
        None => format!("at seq {next}: {} gave it back", delivery.consumer),
    };
    let failure = Failure {
        tries,
        reason,
        wait: nack
            .retry_in
            .unwrap_or_else(|| backoff::delay(tries, rand::random())),
    };
    let attempts = handler.pull().and_then(|pull| pull.attempts);
    let now = Timestamp::now();
    match failure.next(attempts, handler.on_error, now) {
        Next::SetAside(condition) => Settlement::Close {
            to,
            chain,
            condition,
            skipped: None,
        },
        Next::Skip(reason) => {
            let skipped = ids.iter().find(|(seq, _)| *seq == next);
            let chain = match skipped {
                Some((_, id)) => chain.next(*id, Applied::Skipped),
                None => chain,
            };
            Settlement::Close {
                to: skipped.map_or(to, |(seq, _)| Position(seq.0)),
                chain,
                condition: Default::default(),
                skipped: skipped.map(|(seq, _)| DeadLetter { seq: *seq, reason }),
            }
        }
    }
}

/// The chain at `to`; `None` if an event is unknown.
fn chain(at: &Chain, from: Position, to: Position, ids: &[(Seq, EventId)]) -> Option<Chain> {
    let passed = ids
        .iter()
        .filter(|(seq, _)| seq.0 > from.0 && seq.0 <= to.0);
    let mut chain = at.clone();
    let mut last = from.0;
    for (seq, id) in passed {
        chain = chain.next(*id, Applied::Folded);
        last = seq.0;
    }
    (last == to.0).then_some(chain)
}
