//! The parts of findings and of their sentences.

use std::time::Duration;

use crate::api::{Class, Condition, CursorLine, Lane, Rule, Severity, Verdict};
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::text::{count, duration, printable_line, shortened};

/// A try again that is further away than this needs somebody.
pub(super) const WAITS_LONG: Duration = Duration::from_secs(300);

/// The longest name in a sentence. A longer one is cut in its middle; the command beside it has it whole.
pub(super) const NAME_MAX: usize = 36;

pub(super) fn over(bound: Duration) -> impl Fn(u64) -> bool {
    move |ms| Duration::from_millis(ms) > bound
}

pub(super) fn verdict(rule: Rule, class: Class, text: String, more: String) -> Verdict {
    Verdict {
        rule,
        finding: rule.finding().to_owned(),
        class,
        severity: Severity::Trouble,
        text,
        more: Some(more),
        next: None,
        since: None,
        events: 0,
        lanes_that_help: None,
        lane: None,
        stream: None,
        hook: None,
    }
}

/// `billing/acme -> reduce`, cut in its middle where the name is long.
pub(super) fn named(stream: &StreamName, handler: &Name) -> String {
    format!("{} -> {handler}", short_name(stream))
}

pub(super) fn short_name(stream: &StreamName) -> String {
    let name = printable_line(&stream.short()).to_string();
    shortened(&name, NAME_MAX).into_owned()
}

/// By place and generation: while lanes are resized, two of them have the same place.
pub(super) fn is_lane(lane: &Lane, id: &LaneId) -> bool {
    (lane.id.generation, lane.id.index) == (id.generation, id.index)
}

pub(super) fn is_by_hand(cursor: &CursorLine) -> bool {
    cursor.condition == Condition::Held && cursor.by_operator
}

pub(super) fn is_set_aside(cursor: &CursorLine) -> bool {
    cursor.condition.is_set_aside()
}

/// `lane 4 has`, `lanes 4 and 5 have`, `lanes 2, 3 and 6 are`; from five on only how many.
pub(super) fn listed(lanes: &[&Lane], one: &str, many: &str, is: &str, are: &str) -> String {
    let numbers: Vec<_> = lanes.iter().map(|lane| lane.id.index.to_string()).collect();
    match numbers.as_slice() {
        [only] => format!("{one} {only} {is}"),
        all if all.len() > 5 => format!("{} {many} {are}", count(all.len() as u64)),
        [first @ .., last] => format!("{many} {} and {last} {are}", first.join(", ")),
        [] => format!("no {one} {is}"),
    }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

pub(super) fn rate(per_s: f64) -> String {
    match per_s < 10.0 {
        true => format!("{per_s:.1}"),
        false => count(per_s.round() as u64),
    }
}

pub(super) fn millis(ms: f64) -> String {
    match ms < 1.0 {
        true => format!("{ms:.2}ms"),
        false => duration(Duration::from_secs_f64((ms / 1_000.0).clamp(0.0, 1e9))),
    }
}

/// The hook of `orders -> reduce`.
pub(super) fn hook_of(handler: &str) -> Option<Name> {
    handler.split(" -> ").next()?.parse().ok()
}
