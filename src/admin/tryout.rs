//! Trying a reducer without storing anything: on a given event, or on the stored events of a stream.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::hooks::check_reducer;
use super::{Admin, Error};
use crate::api;
use crate::domain::cursor::{Chain, CursorId};
use crate::domain::event::{Event, EventId, StreamId};
use crate::domain::filter::Filter;
use crate::domain::hook::{Handler, HandlerId, Hook, OnError, Reducer};
use crate::domain::name::{Name, StreamName};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;
use crate::domain::version::Late;
use crate::engine::rebuild::fold_to;
use crate::engine::reduce::{Folded, Folds, Task};
use crate::store::{InputRequest, Range, StreamRow};

/// Number of stored events in one try; a rebuild handles more.
const EVENTS_MAX: i64 = 10_000;

/// Time limits for one event, and for one portion of stored events.
const EVENT_TIME: Duration = Duration::from_secs(1);
const STREAM_TIME: Duration = Duration::from_secs(20);

/// Number of events that are read and folded at a time.
const PORTION: usize = 1_000;

impl Admin {
    /// Folds an event, or stored events of a stream, with the given reducer or else the hook's own.
    /// Stores nothing.
    ///
    /// # Errors
    /// [`Error::Reducer`] with the reducer's error for the one event; [`Error::Invalid`] when there is
    /// no reducer, or the events are too many or do not exist; [`Error::Missing`] hook or stream.
    pub async fn test_hook(
        &self,
        name: &Name,
        test: &api::ReducerTest,
    ) -> Result<api::TestResult, Error> {
        let hook = self.hook(name).await?;
        let live = hook.reduce();
        let reducer = match &test.reduce {
            Some(reducer) => {
                check_reducer(reducer).await?;
                reducer.clone()
            }
            None => {
                let none =
                    || Error::Invalid(format!("hook {name} has no reducer: try one with --reduce"));
                let live = live.and_then(|handler| handler.reducer());
                live.ok_or_else(none)?.clone()
            }
        };
        match &test.stream {
            Some(stream) if stream.hook != *name => Err(Error::Invalid(format!(
                "{stream} is not a stream of hook {name}"
            ))),
            Some(stream) => self.test_on_stream(stream, reducer, test.from_seq).await,
            None => self.test_on_event(reducer, test).await,
        }
    }

    async fn test_on_event(
        &self,
        reducer: Reducer,
        test: &api::ReducerTest,
    ) -> Result<api::TestResult, Error> {
        let event = event(test)?;
        let before = test.state.as_ref().map(|state| state.get().to_owned());
        let folded = self
            .try_fold(reducer, before, vec![Arc::new(event)], EVENT_TIME)
            .await?;
        if let Some(failure) = folded.failure {
            return Err(Error::Reducer(failure.to_string()));
        }
        Ok(api::TestResult {
            state: raw(folded.state)?,
            took_ms: folded.took.as_secs_f64() * 1_000.0,
            before: test.state.clone(),
            position: None,
            events: 1,
            failure: None,
        })
    }

    /// Folds the stored events from `from` up to the head, starting from the state that the present
    /// reducer computes for the events before.
    async fn test_on_stream(
        &self,
        name: &StreamName,
        reducer: Reducer,
        from: Option<Seq>,
    ) -> Result<api::TestResult, Error> {
        let (hook, stream) = self.stream(name).await?;
        let first = Seq(stream.floor.0 + 1);
        let from = from.unwrap_or(first);
        if from < first || from > stream.head {
            let message = format!("{name} has events {first} to {}, not {from}", stream.head);
            return Err(Error::Invalid(message));
        }
        let count = stream.head.0 - from.0 + 1;
        if count > EVENTS_MAX {
            let message = format!(
                "{name} has {count} events from {from} on, and a test takes {EVENTS_MAX} at most: \
                 --from-seq {}",
                stream.head.0 - EVENTS_MAX + 1
            );
            return Err(Error::Invalid(message));
        }
        let before = self.state_before(&hook, &stream, from).await?;
        let dead = self.dead_letters(&hook, &stream).await?;
        let only = hook.reduce().map(|handler| handler.only.clone());
        let only = only.unwrap_or_default();
        let (mut state, mut at, mut events, mut took) =
            (before.clone(), from.0 - 1, 0, Duration::ZERO);
        let mut failure = None;
        while at < stream.head.0 && failure.is_none() {
            let mut portion = self.portion(&stream, Seq(at)).await?;
            let Some(last) = portion.last().map(|event| event.seq.0) else {
                break;
            };
            portion.retain(|event| !dead.contains(&event.seq) && only.takes(event));
            let numbers: Vec<_> = portion.iter().map(|event| event.seq).collect();
            let folded = self
                .try_fold(reducer.clone(), state, portion, STREAM_TIME)
                .await?;
            failure = match (folded.failure, numbers.get(folded.passed)) {
                (Some(failure), Some(seq)) => Some(format!("at seq {seq}: {failure}")),
                (None, Some(seq)) => Some(format!("at seq {seq}: the time for a test is over")),
                _ => None,
            };
            events += folded.passed as u64;
            at = match numbers.get(folded.passed) {
                Some(next) if failure.is_some() => next.0 - 1,
                _ => last,
            };
            state = folded.state;
            took += folded.took;
        }
        let shown = |state: Option<String>| raw(state);
        Ok(api::TestResult {
            state: shown(state)?,
            took_ms: took.as_secs_f64() * 1_000.0,
            before: Some(shown(before)?),
            position: Some(at),
            events,
            failure,
        })
    }

    async fn portion(&self, stream: &StreamRow, after: Seq) -> Result<Vec<Arc<Event>>, Error> {
        let range = Range {
            stream: stream.id,
            after,
            limit: PORTION,
        };
        Ok(self
            .store
            .ranges(vec![range])
            .await?
            .pop()
            .unwrap_or_default())
    }

    /// The state before an event: the live one if its cursor stands there, as in a held stream, else a
    /// fold up to there.
    async fn state_before(
        &self,
        hook: &Hook,
        stream: &StreamRow,
        from: Seq,
    ) -> Result<Option<String>, Error> {
        let Some(handler) = hook.reduce().filter(|_| from > Seq(1)) else {
            return Ok(None);
        };
        let want = InputRequest {
            cursor: cursor(stream, handler),
            events_max: 0,
        };
        let live = self.store.inputs(vec![want]).await?.pop().flatten();
        if let Some(input) = live.filter(|input| input.cursor.position.next() == from) {
            return Ok(input.cursor.state);
        }
        let before = Seq(from.0 - 1);
        let folded = fold_to(self.engine()?, hook, handler, stream.clone(), before).await?;
        Ok(folded.map_err(Error::Invalid)?.state)
    }

    /// Events that were skipped, and that the try skips too.
    async fn dead_letters(&self, hook: &Hook, stream: &StreamRow) -> Result<HashSet<Seq>, Error> {
        let Some(handler) = hook.reduce() else {
            return Ok(HashSet::new());
        };
        let dead = self
            .store
            .dead_letters(handler.id, stream.id, stream.id)
            .await?;
        Ok(dead.into_iter().map(|(_, seq)| seq).collect())
    }

    async fn try_fold(
        &self,
        reducer: Reducer,
        state: Option<String>,
        events: Vec<Arc<Event>>,
        time: Duration,
    ) -> Result<Folded, Error> {
        let task = Task {
            // No handler, so that its time counts for no handler's share.
            handler: HandlerId(0),
            reducer,
            state,
            chain: Chain::default(),
            on_error: OnError::Hold,
            only: Filter::default(),
            events,
        };
        let folds = match &self.engine {
            Some(engine) => engine.folds.slow.clone(),
            None => Folds::start(1).map_err(|error| Error::Reducer(error.to_string()))?,
        };
        let folded = folds.fold(vec![task], time).await.pop();
        folded.ok_or_else(|| Error::Reducer("the fold did not begin".into()))
    }
}

fn cursor(stream: &StreamRow, handler: &Handler) -> CursorId {
    CursorId {
        stream: stream.id,
        handler: handler.id,
    }
}

/// The event that a test describes.
fn event(test: &api::ReducerTest) -> Result<Event, Error> {
    let now = Timestamp::now();
    let headers =
        serde_json::to_string(&test.headers).map_err(|error| Error::Invalid(error.to_string()))?;
    let at = test.received_at.unwrap_or(now);
    Ok(Event {
        stream: StreamId(0),
        seq: test.seq.unwrap_or(Seq(1)),
        id: test.event.unwrap_or_else(|| EventId::new(at)),
        received_at: at,
        key_id: None,
        dedupe_key: None,
        headers: headers.into(),
        body: test.body.clone().into(),
        late: test.late.then_some(Late::Mark),
        is_damaged: false,
    })
}

fn raw(state: Option<String>) -> Result<Box<RawValue>, Error> {
    let state = state.unwrap_or_else(|| "null".into());
    RawValue::from_string(state).map_err(|error| Error::Reducer(error.to_string()))
}
