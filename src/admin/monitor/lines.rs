//! Cursors as table rows for people.

use crate::admin::figures::millis;
use crate::api::{self, Condition, Lane};
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::engine::lane::Line;

/// Marks flowing cursors as paused where an operator has stopped their lane.
pub fn pause(cursors: &mut [api::CursorLine], lanes: &[Lane]) {
    for line in cursors {
        let lane = lanes.iter().find(|lane| line.is_in(lane));
        if lane.is_some_and(Lane::is_stopped) && line.condition == Condition::Flowing {
            line.condition = Condition::Paused;
        }
    }
}

pub fn is_same(a: &api::CursorLine, b: &api::CursorLine) -> bool {
    a.stream == b.stream && a.handler == b.handler
}

pub fn line_of(
    stream: StreamName,
    handler: &Name,
    kept: Option<&crate::store::CursorState>,
    line: Option<&(&LaneId, Line)>,
    now: Timestamp,
) -> api::CursorLine {
    let position = kept.map(|kept| kept.position).unwrap_or_default();
    let behind = line.map_or(0, |(_, line)| line.behind);
    let is_aside = line.is_some_and(|(_, line)| line.is_set_aside);
    let condition = match line {
        Some((_, line)) if line.is_kept => Condition::Paused,
        // The row may be a moment ahead of the lane, or behind it: the lane says what it does.
        Some(_) if !is_aside => Condition::Flowing,
        _ => kept.map_or(Condition::Flowing, |kept| Condition::from(&kept.condition)),
    };
    let kept = kept.filter(|_| is_aside);
    let by_operator = kept.is_some_and(|kept| kept.condition.is_by_operator());
    api::CursorLine {
        by_operator,
        stream,
        handler: handler.clone(),
        lane: line.map_or(0, |(lane, _)| lane.index),
        generation: line.map_or(0, |(lane, _)| lane.generation),
        condition,
        position,
        head: crate::domain::position::Seq(
            position
                .0
                .saturating_add(i64::try_from(behind).unwrap_or(0)),
        ),
        behind,
        oldest_ms: line.map(|(_, line)| millis(now.since(line.oldest))),
        tries: kept.map_or(0, |kept| kept.condition.tries()),
        result: kept.and_then(|kept| kept.condition.reason().map(str::to_owned)),
        retry_at: kept.and_then(|kept| kept.retry_at()),
        next: None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::LaneState;

    #[test]
    fn while_lanes_are_resized_a_cursor_stands_still_with_the_lane_of_its_own_generation() {
        let lane = |generation, state| Lane {
            state,
            ..crate::admin::lanes::idle(&LaneId {
                namespace: Name::default_namespace(),
                generation,
                index: 0,
            })
        };
        let lanes = [lane(7, LaneState::Active), lane(8, LaneState::Paused)];
        let stream: StreamName = "billing/acme".parse().unwrap();
        let handler: Name = "reduce".parse().unwrap();
        let mut lines = [7, 8].map(|generation| api::CursorLine {
            generation,
            ..line_of(stream.clone(), &handler, None, None, Timestamp::default())
        });
        pause(&mut lines, &lanes);
        let conditions = lines.map(|line| line.condition);
        assert_eq!(conditions, [Condition::Flowing, Condition::Paused]);
    }
}
