//! The protocol as explicit states, every interleaving of them: leases in discrete time and one cursor with
//! its compare-and-set. They check the design, not the code, and themselves: each mutant must fail.

mod cursor;
mod lease;

use stateright::{Checker, Model};

/// What a search through all states found: how many there are, or the first property that is broken.
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
