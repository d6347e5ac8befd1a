//! Rebuilds of states, one step at a time.

use super::runs::fold_all;
use super::tasks::Refold;
use super::{Done, FOLLOW_EVERY, Node};
use crate::domain::cursor::Cursor;
use crate::domain::event::StreamId;
use crate::engine::rebuild::work::{Standing, Work, may_pass};
use crate::engine::simulation::outside::{Failed, Outside};
use crate::store::StreamRow;

impl Node {
    pub(super) fn refold(&mut self, out: &mut Outside) -> Done {
        if out.now < self.refold_at {
            return Ok(false);
        }
        let Some(now) = self.refold.take() else {
            let me = self.id.clone();
            let claimed = out.ask(|database| database.claim_rebuild(&me))?;
            if claimed.is_none() {
                self.refold_at = out.now + FOLLOW_EVERY;
            }
            self.refold = claimed.map(Refold::Claimed);
            return Ok(true);
        };
        // After a failure of the database, it starts again.
        self.refold = self.refold_on(now, out)?;
        // Folding takes time.
        if out.chance(0.2) {
            self.refold_at = out.now + out.below(500);
        }
        Ok(true)
    }

    fn refold_on(&mut self, now: Refold, out: &mut Outside) -> Result<Option<Refold>, Failed> {
        let next = match now {
            Refold::Claimed(rebuild) => {
                self.config_changed(out)?;
                let hook = out.database.streams[&rebuild.stream].hook;
                let handler = self.catalog.hooks_by_id[&hook].handlers[0].clone();
                match handler.fold == rebuild.fold {
                    true => Refold::Begin(rebuild, handler),
                    false => Refold::End(rebuild),
                }
            }
            Refold::Begin(rebuild, handler) => {
                let stream = rebuild.stream;
                let dead = out.ask(|database| database.streams[&stream].dead.clone())?;
                let (live, row) = self.live(stream, out)?;
                let (head, slot) = (row.head, row.slot);
                let hook = &self.catalog.hooks_by_id[&row.hook];
                let may_pass = may_pass(&self.catalog, hook, slot, &live);
                let mut work = Work::new(row, live.clone(), head, None, None, dead);
                // As if turns had been faster before.
                work.lost = out.below(4) as u32;
                work.lost_to(live, head, may_pass);
                Refold::Fold(rebuild, handler, work.into())
            }
            Refold::Fold(rebuild, handler, mut work) if !work.is_there() => {
                let after = work.shadow.position.0 as usize;
                let most = work.rest().min(1 + out.below(3) as usize);
                let stream = rebuild.stream;
                let read = out.ask(|database| {
                    let events = &database.streams[&stream].events;
                    events[after..after + most].to_vec()
                })?;
                work.events = read.into_iter().rev().collect();
                while let Some(task) = work.task(&handler) {
                    work.take(fold_all(&task, true, out));
                }
                Refold::Fold(rebuild, handler, work)
            }
            Refold::Fold(rebuild, handler, mut work) => match work.settle() {
                Standing::GoesOn => Refold::Fold(rebuild, handler, work),
                Standing::Failed => Refold::End(rebuild),
                Standing::IsThere => {
                    let (swap, acted) = (work.swap(), self.acts_by(out));
                    match out.ask(|database| database.swap(&swap, acted))? {
                        false => Refold::ReadAgain(rebuild, handler, work),
                        true => {
                            self.let_go(rebuild.stream, out);
                            Refold::End(rebuild)
                        }
                    }
                }
            },
            Refold::ReadAgain(rebuild, handler, mut work) => {
                let (live, row) = self.live(rebuild.stream, out)?;
                let hook = &self.catalog.hooks_by_id[&row.hook];
                let may_pass = may_pass(&self.catalog, hook, row.slot, &live);
                work.lost_to(live, row.head, may_pass);
                Refold::Fold(rebuild, handler, work)
            }
            Refold::End(rebuild) => {
                out.ask(|database| database.end_rebuild(&rebuild))?;
                return Ok(None);
            }
        };
        Ok(Some(next))
    }

    /// A cursor and its stream, as they are now.
    fn live(&self, stream: StreamId, out: &mut Outside) -> Result<(Cursor, StreamRow), Failed> {
        let read = out.ask(|database| {
            let live = database.streams[&stream].cursor.clone();
            (live, database.row(stream))
        })?;
        match read {
            (live, Some(row)) => Ok((live, row)),
            (_, None) => Err(Failed),
        }
    }
}
