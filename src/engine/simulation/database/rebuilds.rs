//! Rebuilds of states, and reducers that change.

use std::sync::Arc;

use super::folds::{code_of, one_more, reducer};
use super::{Database, Rebuild};
use crate::domain::cursor::{Chain, Era};
use crate::domain::event::StreamId;
use crate::domain::hook::{HookId, Work};
use crate::engine::simulation::mutant::Mutant;
use crate::store::Swap;

impl Database {
    /// Simulates `Store::advance_rebuilds` for one stream. `acted` has the meaning that it has in [`Self::advance`].
    pub fn swap(&mut self, swap: &Swap, acted: Option<i64>) -> bool {
        let (cursor, to) = (swap.shadow.cursor, swap.shadow.position);
        let Some(stream) = self.streams.get(&cursor.stream) else {
            return false;
        };
        let row = &stream.cursor;
        let is_ahead = to > row.position;
        if row.era != swap.era || to < row.position {
            return false;
        }
        let stop = self.stop_of(stream, cursor, to);
        if is_ahead && stop.is_some() && self.mutant != Mutant::SwapWhereStopped {
            return false;
        }
        if let Some((why, since)) = stop.filter(|_| is_ahead)
            && acted.is_some_and(|acted| since <= acted)
        {
            self.breaks(|| format!("{why}: {swap:?}"));
        }
        let keeps_era = self.mutant == Mutant::SwapKeepsEra;
        let Some(stream) = self.streams.get_mut(&cursor.stream) else {
            return false;
        };
        stream
            .dead
            .extend(swap.skipped.iter().map(|letter| letter.seq));
        let code = Some(code_of(swap.shadow.state.as_deref()));
        let mut truth = (None, Chain::default());
        for event in &stream.events[..to.0 as usize] {
            one_more(&mut truth, code, event, &stream.dead);
        }
        let is_right = truth == (swap.shadow.state.clone(), swap.shadow.chain.clone());
        stream.truth = truth;
        let row = &mut stream.cursor;
        (row.position, row.condition) = (to, swap.condition.clone());
        row.state.clone_from(&swap.shadow.state);
        row.chain = swap.shadow.chain.clone();
        row.era = Era(row.era.0 + i64::from(!keeps_era));
        if !is_right {
            self.breaks(|| format!("not the fold of its events: {swap:?}"));
        }
        true
    }

    /// Begins a rebuild; a stream whose events are delivered has no state.
    pub fn begin_rebuild(&mut self, stream: StreamId, fold: i64) {
        let known = self.streams.get(&stream);
        if known.is_some_and(|known| known.destination.is_some()) {
            return;
        }
        let new = || Rebuild {
            stream,
            fold,
            node: None,
        };
        self.rebuild.get_or_insert_with(new);
    }

    /// Claims the rebuild for a node, unless another live node has it.
    pub fn claim_rebuild(&mut self, me: &str) -> Option<Rebuild> {
        let nodes = &self.nodes;
        let rebuild = self.rebuild.as_mut()?;
        let owner = rebuild.node.as_deref();
        let is_free = owner.is_none_or(|node| node == me || !nodes.iter().any(|n| n.id == node));
        if !is_free {
            return None;
        }
        rebuild.node = Some(me.to_owned());
        Some(rebuild.clone())
    }

    pub fn end_rebuild(&mut self, rebuild: &Rebuild) {
        let is_it = |now: &Rebuild| (now.stream, now.fold) == (rebuild.stream, rebuild.fold);
        if self.rebuild.as_ref().is_some_and(is_it) {
            self.rebuild = None;
        }
    }

    /// Stores a new version of a hook's reducer; old states stay.
    pub fn edit_hook(&mut self, hook: HookId) {
        self.changed();
        let found = self.hooks.iter_mut().find(|known| known.id == hook);
        if let Some(hook) = found {
            let mut edited = (**hook).clone();
            let mut handler = (*edited.handlers[0]).clone();
            handler.fold += 1;
            if matches!(handler.work, Work::Reduce(_)) {
                handler.work = Work::Reduce(reducer(handler.fold));
            }
            edited.handlers = vec![Arc::new(handler)];
            *hook = Arc::new(edited);
        }
    }
}
