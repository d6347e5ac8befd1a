//! Finds the cursors that are behind their heads in the database and hints them: at start, when a
//! handler or a lane set is new, and now and then in case a hint was lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Engine;
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;
use crate::domain::lane::LaneId;
use crate::domain::time::Timestamp;
use crate::lanes::{Aside, Behind, Hint};
use crate::store::{self, Error};

/// Cursors read at a time.
const PAGE: i64 = 10_000;

/// A sweep takes at most a hundredth of the time until the next one.
const SHARE: u32 = 100;

/// The shortest time between two sweeps.
pub const EVERY: Duration = Duration::from_secs(15);

/// Hints every cursor that is behind; says how many, and when the next sweep is due.
///
/// # Errors
/// Those of the database; what was found before is hinted.
pub async fn run(engine: &Engine) -> Result<(u64, Duration), Error> {
    let began = Instant::now();
    let mut found = 0;
    let mut after = CursorId {
        stream: StreamId(0),
        handler: HandlerId(0),
    };
    loop {
        let page = engine.store.behind(after, PAGE).await?;
        let Some(last) = page.last() else {
            break;
        };
        after = last.cursor;
        found += page.len() as u64;
        hint(engine, &page);
    }
    Ok((found, EVERY.max(began.elapsed() * SHARE)))
}

fn hint(engine: &Engine, page: &[store::Behind]) {
    let catalog = engine.catalog.peek();
    let now = Timestamp::now();
    let mut hints: HashMap<LaneId, Vec<Hint>> = HashMap::new();
    for behind in page {
        let handler = catalog.handlers.get(&behind.cursor.handler);
        let hook = handler.and_then(|handler| catalog.hooks_by_id.get(&handler.hook));
        let Some(lanes) = hook.and_then(|hook| catalog.lanes_of(hook)) else {
            continue;
        };
        hints
            .entry(lanes.lane(behind.slot))
            .or_default()
            .push(Hint {
                cursor: behind.cursor,
                oldest: now,
                behind: Behind::All(behind.events),
                // A lane may still have set aside what somebody has let go: that hint was lost too.
                aside: match behind.flows {
                    true => Aside::Return,
                    false => Aside::Stay,
                },
            });
    }
    for (lane, hints) in hints {
        // A lane that runs elsewhere is swept there.
        let _ = engine.lanes.hint(&lane, hints);
    }
}
