//! Storing accepted requests, and hints for the events that were stored.

use super::{Done, Node};
use crate::domain::event::StreamId;
use crate::engine::simulation::mutant::Mutant;
use crate::engine::simulation::outside::Outside;
use crate::lanes;
use crate::lanes::{Backlog, Hint};

impl Node {
    pub(super) fn commit(&mut self, out: &mut Outside) -> Done {
        let Some((stream, body, sent)) = self.requests.pop_front() else {
            return Ok(false);
        };
        if out.mutant == Mutant::HintBeforeCommit && self.hinted != Some(sent) {
            self.hinted = Some(sent);
            self.unhinted.push_back(stream);
            self.hint_stored(out);
            self.requests.push_front((stream, body, sent));
            return Ok(true);
        }
        let at = out.ask(|database| database.append(stream, body, sent))?;
        let now = out.now;
        let stored = out.database.streams.get_mut(&stream);
        if let (Some(at), Some(stored)) = (at, stored) {
            stored.times[at].1 = Some(now);
            if out.mutant != Mutant::HintBeforeCommit {
                self.unhinted.push_back(stream);
            }
        }
        Ok(true)
    }

    pub(super) fn hint_stored(&mut self, out: &mut Outside) -> bool {
        let Some(stream) = self.unhinted.pop_front() else {
            return false;
        };
        self.hint_stream(stream, Backlog::More(1), lanes::Recheck::No, out);
        true
    }

    /// Simulates `Engine::let_go`.
    pub fn let_go(&mut self, stream: StreamId, out: &Outside) {
        self.hint_stream(stream, Backlog::Total(1), lanes::Recheck::Yes, out);
    }

    fn hint_stream(
        &mut self,
        stream: StreamId,
        backlog: Backlog,
        recheck: lanes::Recheck,
        out: &Outside,
    ) {
        let stored = &out.database.streams[&stream];
        let hook = &self.catalog.hooks_by_id[&stored.hook];
        let lane = self.catalog.lanes_of(hook).map(|set| set.lane(stored.slot));
        let hint = Hint {
            cursor: stored.cursor.id,
            oldest: out.time(),
            newest: out.time(),
            backlog,
            recheck,
        };
        if let Some(lane) = lane {
            self.hint(lane, vec![hint]);
        }
    }
}
