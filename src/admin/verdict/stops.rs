//! Findings about what is set aside, stopped or kept, by a fault or on purpose.

use std::time::Duration;

use super::facts::Facts;
use super::words::{WAITS_LONG, is_by_hand, is_set_aside, listed, named, over, percent, verdict};
use crate::api::{Class, Condition, CursorLine, Lane, LaneState, Rule, Severity, Verdict, command};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::text::{counted, duration, printable_line};

/// Set-aside cursors of one handler in one condition are one subject; the one that waits longest is named.
pub(super) fn set_aside(facts: &Facts<'_>) -> Vec<Verdict> {
    let is_wrong = |cursor: &&CursorLine| is_set_aside(cursor) && !is_by_hand(cursor);
    let mut subjects: Vec<Vec<&CursorLine>> = Vec::new();
    for cursor in facts.cursors.iter().filter(is_wrong) {
        let is_of = |subject: &&mut Vec<&CursorLine>| {
            subject.first().is_some_and(|first| {
                first.handler == cursor.handler
                    && first.stream.hook == cursor.stream.hook
                    && first.condition == cursor.condition
            })
        };
        match subjects.iter_mut().find(is_of) {
            Some(subject) => subject.push(cursor),
            None => subjects.push(vec![cursor]),
        }
    }
    let told = subjects
        .iter()
        .filter_map(|subject| set_aside_one(facts, subject));
    told.collect()
}

fn set_aside_one(facts: &Facts<'_>, subject: &[&CursorLine]) -> Option<Verdict> {
    let worst = subject.iter().max_by_key(|cursor| cursor.oldest_ms)?;
    let (stream, handler) = (&worst.stream, &worst.handler);
    let result = printable_line(worst.result.as_deref().unwrap_or("set aside"));
    let condition = worst.condition.word();
    // Events leave a stream by its reducer, or to somebody else.
    let (rule, class) = match *handler == Name::reduce() {
        true => (Rule::Reducer, Class::Code),
        false => (Rule::Destination, Class::Them),
    };
    let age = worst.oldest_ms.map(Duration::from_millis);
    let since = age.map(|age| facts.at.before(age));
    // The short parts come first, because only two lines are shown and a reducer's error may be long.
    let since_when = since.map_or_else(String::new, |at| {
        format!(" since {}", at.clock_at(facts.at))
    });
    let next = next_try(facts, worst);
    let all = facts.set_aside_beyond_named();
    let events = match all {
        None => subject.iter().map(|cursor| cursor.behind).sum(),
        Some(_) => facts.events_set_aside(),
    };
    let share = percent(events as f64 / facts.backlog().max(1) as f64);
    let events_told = counted(events, "event", "events");
    let others = |streams: u64| counted(streams - 1, "more stream", "more streams");
    let more = match (subject.len() as u64, all) {
        (_, Some(streams)) => format!(
            "It and {} hold up only their own {events_told} ({share} of all). More lanes: no.",
            others(streams)
        ),
        (1, None) => format!(
            "Holds up only its own {events_told} ({share} of all). More lanes: no, 1 stream."
        ),
        (streams, None) => format!(
            "It and {} of {} hold up only their own {events_told} ({share} of all). More lanes: no.",
            others(streams),
            stream.hook
        ),
    };
    let is_unusual = |cursor: &&CursorLine| {
        cursor.condition == Condition::Waiting && !cursor.oldest_ms.is_some_and(over(WAITS_LONG))
    };
    Some(Verdict {
        severity: match subject.iter().all(is_unusual) {
            true => Severity::Unusual,
            false => Severity::Trouble,
        },
        finding: format!("{} -> {handler} {condition}", stream.hook),
        since,
        events,
        stream: Some(stream.clone()),
        hook: Some(stream.hook.clone()),
        next: Some(command::why(stream)),
        ..verdict(
            rule,
            class,
            format!(
                "{} {condition}{since_when}{next}: {result}",
                named(stream, handler)
            ),
            more,
        )
    })
}

/// Time until the next try of a cursor. In a stopped lane there is none.
fn next_try(facts: &Facts<'_>, cursor: &CursorLine) -> String {
    let Some(at) = cursor.retry_at else {
        return String::new();
    };
    let hook = &cursor.stream.hook;
    let mut lanes = facts.lanes.iter();
    match lanes.find(|lane| lane.is_stopped() && cursor.is_in(lane)) {
        _ if facts.paused.iter().any(|(paused, _)| paused == hook) => {
            format!(", no try while hook {hook} is paused")
        }
        Some(lane) => {
            let (index, state) = (lane.id.index, lane.state.word());
            format!(", no try while lane {index} is {state}")
        }
        None => match at.since(facts.at) {
            Duration::ZERO => ", next try now".to_owned(),
            left => format!(", next try in {}", duration(left)),
        },
    }
}

/// Lanes that were stopped in one act are one subject.
pub(super) fn on_purpose(facts: &Facts<'_>) -> Vec<Verdict> {
    let stopped = |lane: &&Lane| lane.is_stopped() || lane.state == LaneState::Draining;
    let mut subjects: Vec<Vec<&Lane>> = Vec::new();
    for lane in facts.lanes.iter().filter(stopped) {
        let mut known = subjects.iter_mut();
        match known.find(|subject| subject[0].is_stopped_like(lane)) {
            Some(subject) => subject.push(lane),
            None => subjects.push(vec![lane]),
        }
    }
    let told = subjects.iter();
    told.filter_map(|subject| on_purpose_one(facts, subject))
        .collect()
}

fn on_purpose_one(facts: &Facts<'_>, subject: &[&Lane]) -> Option<Verdict> {
    let lane = subject.first()?;
    let by = lane.by.as_ref();
    let by = by.map(|by| format!(" by {}", printable_line(by)));
    let since = subject.iter().filter_map(|lane| lane.since).min();
    let since_when = since.map(|at| format!(" since {}", at.clock_at(facts.at)));
    let reason = lane.reason.as_ref();
    let reason = reason.map(|reason| format!(" \"{}\"", printable_line(reason)));
    let state = lane.state.word();
    let text = format!(
        "{}{}{}{}",
        listed(subject, "lane", "lanes", state, state),
        by.unwrap_or_default(),
        since_when.unwrap_or_default(),
        reason.unwrap_or_default()
    );
    let events = subject.iter().map(|lane| lane.backlog).sum();
    let more = format!(
        "{} waiting. More lanes: no.",
        counted(events, "event", "events")
    );
    Some(Verdict {
        severity: Severity::Unusual,
        next: Some(resume(facts, subject, lane)),
        events,
        lane: Some(lane.id.clone()),
        since,
        ..verdict(Rule::OnPurpose, Class::OnPurpose, text, more)
    })
}

/// The command that lets stopped lanes go on. It names them where they are few, and not all.
fn resume(facts: &Facts<'_>, subject: &[&Lane], first: &Lane) -> String {
    const NAMED: usize = 8;
    let namespace = &first.id.namespace;
    let lanes = match subject.len() {
        all if all == facts.lanes.len() && all > 1 => "--all".to_owned(),
        few if few <= NAMED => {
            let indexes = subject.iter().map(|lane| lane.id.index.to_string());
            indexes.collect::<Vec<_>>().join(" ")
        }
        _ => {
            let list = format!("hooklane lanes list --state {}", first.state.word());
            return command::in_namespace(list, namespace);
        }
    };
    command::in_namespace(format!("hooklane lanes resume {lanes}"), namespace)
}

pub(super) fn paused_hooks(facts: &Facts<'_>) -> Vec<Verdict> {
    let line = |(hook, told): &(Name, String)| {
        let more = "Its events are accepted and kept. More lanes: no.".to_owned();
        Verdict {
            severity: Severity::Unusual,
            next: Some(command::hooks("resume", hook)),
            hook: Some(hook.clone()),
            events: facts.behind(hook),
            ..verdict(
                Rule::OnPurpose,
                Class::OnPurpose,
                printable_line(told).to_string(),
                more,
            )
        }
    };
    facts.paused.iter().map(line).collect()
}

pub(super) fn stuck_hooks(facts: &Facts<'_>) -> Vec<Verdict> {
    let line = |(hook, told, since): &(Name, String, Timestamp)| {
        let more = format!(
            "Its events are accepted and kept. More lanes: no. Fix its reducer: hooklane hooks edit {hook} \
             --reduce FILE. Then: hooklane hooks resume {hook}"
        );
        Verdict {
            finding: format!("{hook} stuck"),
            since: Some(*since),
            next: Some(command::hooks("show", hook)),
            hook: Some(hook.clone()),
            events: facts.behind(hook),
            ..verdict(
                Rule::Reducer,
                Class::Code,
                printable_line(told).to_string(),
                more,
            )
        }
    };
    facts.stuck.iter().map(line).collect()
}

pub(super) fn held_on_purpose(facts: &Facts<'_>) -> Vec<Verdict> {
    let line = |cursor: &CursorLine| {
        let (stream, handler) = (&cursor.stream, &cursor.handler);
        let result = printable_line(cursor.result.as_deref().unwrap_or_default());
        let more = format!(
            "{} waiting. More lanes: no, 1 stream.",
            counted(cursor.behind, "event", "events")
        );
        let name = named(stream, handler);
        Verdict {
            severity: Severity::Unusual,
            next: Some(command::streams("release", stream, handler)),
            events: cursor.behind,
            stream: Some(stream.clone()),
            hook: Some(stream.hook.clone()),
            ..verdict(
                Rule::OnPurpose,
                Class::OnPurpose,
                format!("{name} {result}"),
                more,
            )
        }
    };
    let by_hand = facts.cursors.iter().filter(|cursor| is_by_hand(cursor));
    by_hand.map(line).collect()
}

pub(super) fn overdue(facts: &Facts<'_>) -> Vec<Verdict> {
    let line = |told: &String| {
        let more = "Holds up nothing, but the disk fills. More lanes: no. Release the held streams, or fix their reducer."
            .to_owned();
        let text = format!("retention: {}", printable_line(told));
        Verdict {
            severity: Severity::Unusual,
            finding: "retention".to_owned(),
            next: Some("hooklane streams list --condition held".to_owned()),
            ..verdict(Rule::OnPurpose, Class::Us, text, more)
        }
    };
    facts.overdue.iter().map(line).collect()
}
