//! The rules of `src/lib.rs` as explicit states, every interleaving of them: hints, lanes and their owners, leases in
//! discrete time, one cursor with its compare-and-set, and its deliveries. They check the design, not the code, and themselves: each mutant must fail.

mod cursor;
mod delivery;
mod lane;
mod lease;

use std::collections::HashMap;

use stateright::{Checker, Model};

/// Result of a search through all states: their number, or the first violated property.
fn explore<M>(model: M) -> Result<usize, &'static str>
where
    M: Model + Send + Sync + 'static,
    M::State: std::hash::Hash + Send + Sync + Clone + std::fmt::Debug + PartialEq,
    M::Action: Send + Sync + Clone + std::fmt::Debug + PartialEq,
{
    let checked = model.checker().threads(2).spawn_bfs().join();
    let mut broken: Vec<_> = checked.discoveries().into_keys().collect();
    broken.sort_unstable();
    match broken.first() {
        Some(broken) => Err(broken),
        None => Ok(checked.unique_state_count()),
    }
}

/// A state like `from` from which no state like `goal` can be reached any more, if there is one.
fn lost<M>(
    model: &M,
    from: impl Fn(&M::State) -> bool,
    goal: impl Fn(&M::State) -> bool,
) -> Option<M::State>
where
    M: Model,
    M::State: std::hash::Hash + Eq + Clone,
{
    let mut states = model.init_states();
    let mut numbers: HashMap<M::State, usize> = states.iter().cloned().zip(0..).collect();
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); states.len()];
    let mut at = 0;
    while at < states.len() {
        for next in model.next_states(&states[at]) {
            let number = *numbers.entry(next).or_insert_with_key(|next| {
                states.push(next.clone());
                before.push(Vec::new());
                states.len() - 1
            });
            before[number].push(at);
        }
        at += 1;
    }
    let mut leads: Vec<bool> = states.iter().map(&goal).collect();
    let mut todo: Vec<usize> = (0..states.len()).filter(|at| leads[*at]).collect();
    while let Some(at) = todo.pop() {
        for earlier in &before[at] {
            if !std::mem::replace(&mut leads[*earlier], true) {
                todo.push(*earlier);
            }
        }
    }
    let lost = (0..states.len()).find(|at| !leads[*at] && from(&states[*at]));
    lost.map(|at| states.swap_remove(at))
}
