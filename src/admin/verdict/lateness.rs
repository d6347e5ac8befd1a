//! Findings about events that wait for too long: whose fault it is, and whether more lanes help.

use std::time::Duration;

use super::facts::Facts;
use super::words::{hook_of, is_lane, listed, millis, percent, rate, short_name, verdict};
use crate::api::{Class, Rule, Verdict, command};
use crate::domain::lane::LaneId;
use crate::domain::name::Name;
use crate::text::{counted, duration};

pub(super) fn flood(facts: &Facts<'_>) -> Option<Verdict> {
    if !facts.is_late() {
        return None;
    }
    let flooding = facts.hooks.iter();
    let flooding = flooding.filter(|(_, now, normal)| *now > 10.0 && *now > 4.0 * normal);
    let (hook, now, normal) = flooding.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let text = format!(
        "hook {hook} gets {}/s (normal {}/s)",
        rate(*now),
        rate(*normal)
    );
    let beside = facts.beside(Some(hook));
    let help = match beside {
        Some(handler) => one_turn_at_a_time(handler),
        None => format!(
            "{} Or lanes of its own: hooklane hooks edit {hook} --namespace NAME",
            lanes_help(facts)
        ),
    };
    let more = format!(
        "{} wait{}. {help}",
        counted(facts.flowing(), "event", "events"),
        slow_reducer(facts)
    );
    let resize = resize(facts).filter(|_| beside.is_none());
    Some(Verdict {
        events: facts.flowing(),
        lanes_that_help: facts.lanes_that_help.filter(|_| beside.is_none()),
        next: resize.or_else(|| Some(command::hooks("show", hook))),
        hook: Some(hook.clone()),
        ..verdict(Rule::Flood, Class::Senders, text, more)
    })
}

pub(super) fn slow_code(facts: &Facts<'_>) -> Option<Verdict> {
    if !facts.is_late() {
        return None;
    }
    let slow = facts.handlers.iter();
    let slow = slow.filter_map(|(name, now, normal)| Some((name, *now, (*normal)?)));
    let slow = slow.filter(|(_, now, normal)| *now > 0.001 && *now > 3.0 * normal);
    let (handler, now, normal) = slow.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let is_beside = facts.beside.contains(handler);
    let text = format!(
        "{handler} takes {} an event (normal {})",
        millis(now * 1_000.0),
        millis(normal * 1_000.0)
    );
    let more = format!(
        "{} wait, the oldest for {}. {}",
        counted(facts.flowing(), "event", "events"),
        duration(facts.flow().unwrap_or_default()),
        match is_beside {
            true => one_turn_at_a_time(handler),
            false => lanes_help(facts),
        }
    );
    let hook: Option<Name> = hook_of(handler);
    let show = hook.as_ref().map(|hook| command::hooks("show", hook));
    Some(Verdict {
        events: facts.flowing(),
        lanes_that_help: facts.lanes_that_help.filter(|_| !is_beside),
        next: resize(facts).filter(|_| !is_beside).or(show),
        hook,
        ..verdict(Rule::SlowHandler, Class::Code, text, more)
    })
}

/// The finding that one stream is over half of the work in each late lane.
pub(super) fn one_stream(facts: &Facts<'_>) -> Option<Verdict> {
    if !facts.is_late() {
        return None;
    }
    let late: Vec<_> = facts
        .lanes
        .iter()
        .filter(|l| facts.is_late_lane(l))
        .collect();
    let is_late = |id: &LaneId| late.iter().any(|late| is_lane(late, id));
    let largest = facts.largest.iter().filter(|(lane, ..)| is_late(lane));
    let mut largest: Vec<_> = largest.collect();
    largest.sort_by_key(|(.., events)| std::cmp::Reverse(*events));
    let (_, stream, most) = largest.first()?;
    let events: u64 = largest.iter().map(|(.., events)| events).sum();
    let flowing: u64 = late.iter().map(|lane| lane.backlog_flowing).sum();
    let (events, streams) = match most * 2 > flowing {
        true => (*most, 1),
        false => (events, largest.len()),
    };
    if events * 2 <= flowing {
        return None;
    }
    let share = percent(events as f64 / facts.flowing().max(1) as f64);
    let went: f64 = late.iter().filter_map(|lane| lane.out_per_s).sum();
    let went = rate(went);
    let name = short_name(stream);
    let text = match streams {
        1 => {
            format!("{name} is {share} of what flows: one stream, one event at a time, {went}/s")
        }
        _ => format!(
            "{streams} streams are {share} of what flows, {name} the longest: each one event at a time, \
             {went}/s"
        ),
    };
    let more = format!(
        "{} of it wait{}. More lanes: no, {}; a finer ordering key would help.",
        counted(events, "event", "events"),
        slow_reducer(facts),
        counted(streams as u64, "stream", "streams")
    );
    Some(Verdict {
        events,
        next: Some(command::why(stream)),
        stream: Some(stream.clone()),
        ..verdict(Rule::OneStream, Class::Order, text, more)
    })
}

pub(super) fn too_few_lanes(facts: &Facts<'_>) -> Option<Verdict> {
    let busy = facts.crowded();
    if !facts.is_late() || busy.is_empty() {
        return None;
    }
    let text = format!(
        "turns wait {} behind other cursors: {} 90% busy or more",
        duration(facts.flow().unwrap_or_default()),
        listed(&busy, "lane", "lanes", "is", "are")
    );
    let more = wait_and_help(facts);
    Some(Verdict {
        events: facts.flowing(),
        lanes_that_help: facts.lanes_that_help,
        lane: busy.first().map(|lane| lane.id.clone()),
        next: resize(facts).or_else(|| Some(command::lanes("show", &busy.first()?.id))),
        ..verdict(Rule::Late, Class::Lanes, text, more)
    })
}

/// The number of events that wait, the slowest reducer, and the effect of more lanes.
fn wait_and_help(facts: &Facts<'_>) -> String {
    format!(
        "{} wait{}. {}",
        counted(facts.flowing(), "event", "events"),
        slow_reducer(facts),
        lanes_help(facts)
    )
}

/// Names the slowest reducer: `; orders -> reduce takes 48ms an event`.
fn slow_reducer(facts: &Facts<'_>) -> String {
    let slow = facts.slowest();
    slow.map_or_else(String::new, |(name, each)| {
        format!("; {name} takes {} an event", millis(each * 1_000.0))
    })
}

/// The command that makes as many lanes as help.
fn resize(facts: &Facts<'_>) -> Option<String> {
    let lanes = facts.lanes_that_help?;
    (!facts.crowded().is_empty()).then(|| command::resize(lanes, &facts.namespace()))
}

/// Verdict about a late lane whose cause no other rule finds.
pub(super) fn late(facts: &Facts<'_>) -> Option<Verdict> {
    let late = facts.lanes.iter().filter(|lane| facts.is_late_lane(lane));
    let lane = late.max_by_key(|lane| lane.flow_ms)?;
    let busy = percent(lane.busy.unwrap_or(0.0));
    let text = format!(
        "lane {}: the oldest event that may flow waits for {}; the lane is {busy} busy, its turns wait {}",
        lane.id.index,
        duration(facts.flow().unwrap_or_default()),
        duration(Duration::from_millis(lane.turn_wait_ms.unwrap_or(0)))
    );
    let more = wait_and_help(facts);
    Some(Verdict {
        events: facts.flowing(),
        next: Some(command::lanes("show", &lane.id)),
        lane: Some(lane.id.clone()),
        ..verdict(Rule::Late, Class::UsPerhaps, text, more)
    })
}

/// Effect of more lanes: they help when turns wait behind other cursors in busy lanes.
fn lanes_help(facts: &Facts<'_>) -> String {
    match facts.lanes_that_help {
        _ if facts.crowded().is_empty() => match facts.beside(None) {
            Some(handler) => one_turn_at_a_time(handler),
            None => "More lanes: no, no turn waits behind another cursor.".to_owned(),
        },
        Some(lanes) => format!("More lanes: yes, {lanes}."),
        None => "More lanes: no, too few streams have work.".to_owned(),
    }
}

/// The sentence that a handler beside the lanes gains nothing from more lanes.
fn one_turn_at_a_time(handler: &str) -> String {
    format!("More lanes: no, {handler} takes one turn at a time.")
}
