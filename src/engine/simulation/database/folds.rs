//! Folds of the simulation: a reducer is a number, and a state is a hash over its events.

use std::collections::HashSet;
use std::sync::Arc;

use crate::domain::cursor::{Applied, Chain};
use crate::domain::event::Event;
use crate::domain::hook::{Reducer, Source};
use crate::domain::position::Seq;

/// The state after one more event, as folded by a version of the reducer; the state names the version
/// that folded last.
pub fn fold(code: u64, state: Option<&str>, event: &Event) -> String {
    let numbers: Vec<_> = state.iter().flat_map(|state| state.split(':')).collect();
    let (count, hash) = match numbers[..] {
        [count, hash, _] => (number(count), number(hash)),
        _ => (0, 7),
    };
    let seq = event.seq.0.unsigned_abs();
    let hash = hash.wrapping_mul(30 + code).wrapping_add(seq);
    format!("{}:{hash}:{code}", count + 1)
}

/// The version that folded a state last.
pub fn code_of(state: Option<&str>) -> u64 {
    let code = state.and_then(|state| state.rsplit_once(':'));
    code.map_or(0, |(_, code)| number(code))
}

/// The version of a reducer, which is its source text.
pub fn code(reducer: &Reducer) -> u64 {
    match reducer {
        Reducer::Script(source) => number(&source.text),
        _ => 0,
    }
}

pub fn reducer(code: i64) -> Reducer {
    Reducer::Script(Arc::new(Source {
        file: "reduce.js".to_owned(),
        text: code.to_string(),
    }))
}

/// Advances the correct state by one event. `code` is `None` for a handler that delivers.
pub fn one_more(
    (state, chain): &mut (Option<String>, Chain),
    code: Option<u64>,
    event: &Event,
    dead: &HashSet<Seq>,
) {
    let applied = match dead.contains(&event.seq) {
        true => Applied::Skipped,
        false => {
            *state = code.map(|code| fold(code, state.as_deref(), event));
            Applied::Folded
        }
    };
    *chain = chain.next(event.id, applied);
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}
