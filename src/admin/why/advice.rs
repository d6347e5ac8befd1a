//! Advice of a diagnosis: what ends a state, which commands help, and who is at fault. Plain functions.

use std::time::Duration;

use crate::admin::stops;
use crate::api::{self, Class, CursorDiagnosis, Help, LaneState, Verdict, command};
use crate::domain::cursor::Condition;
use crate::domain::lane::Mode;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::engine::membership::LEASE;
use crate::text::{counted, duration, printable_line};

/// Reason outside a cursor that keeps it from moving.
pub enum Stop {
    Nothing,
    /// Its lane is active and does not know that it has work: the hint may be lost.
    NoHint,
    /// Time since the last report of its node, if it is still the owner.
    NoOwner(Option<Duration>),
    Lane,
    /// Operator who paused it; `None` while it moves to another namespace.
    Hook(Option<String>),
    /// Its events do not end; the text names the event.
    Stuck(String),
}

/// Adds the condition that ends the state, commands that help, and measures that do not.
pub fn advise(
    why: &mut CursorDiagnosis,
    stream: &StreamName,
    condition: &Condition,
    stop: &Stop,
    lane: &api::Lane,
) {
    let does_not = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let one_lane = "more lanes (one stream stays in one lane)";
    let retry = help("retry", stream, &why.handler, "", "try now");
    let skip = why.next.map(|next| {
        let event = format!(" --event {next}");
        let what = "if it is this one event";
        help("skip", stream, &why.handler, &event, what)
    });
    match (condition, stop) {
        (held @ Condition::Held { .. }, _) if held.is_by_operator() => {
            why.ends = "when it is released".to_owned();
            let what = "release it";
            why.helps
                .push(help("release", stream, &why.handler, "", what));
            why.does_not = does_not(&[one_lane, "lanes rebuild (no hint is missing)"]);
        }
        (Condition::Held { .. }, _) => {
            why.ends = "it will not recover by itself".to_owned();
            why.helps.push(Help {
                what: match why.handler == Name::reduce() {
                    true => "after you fix the reducer with hooks edit".to_owned(),
                    false => "when the destination takes events again".to_owned(),
                },
                ..retry
            });
            why.helps.extend(skip);
            why.does_not = does_not(&[one_lane, "lanes rebuild (no hint is missing)"]);
        }
        (Condition::Waiting { .. }, Stop::Hook(Some(_)) | Stop::Lane) => {
            why.ends = match stop {
                Stop::Lane => "when the lane is resumed and the next try succeeds",
                _ => "when the hook is resumed and the next try succeeds",
            }
            .to_owned();
            why.helps.extend(skip);
            why.does_not = does_not(&[one_lane, "lanes rebuild (no hint is missing)"]);
        }
        (Condition::Waiting { retry_at, .. }, _) => {
            let left = duration(retry_at.since(Timestamp::now()));
            why.ends = format!("by itself if the next try succeeds, in {left}");
            why.helps.push(retry);
            why.helps.extend(skip);
            why.does_not = does_not(&[one_lane, "lanes rebuild (no hint is missing)"]);
        }
        (Condition::Flowing, Stop::Hook(Some(paused))) => {
            why.reason = Some(paused.clone());
            why.ends = "when the hook is resumed".to_owned();
            why.does_not = does_not(&["more lanes (the hook stays paused)", "lanes rebuild"]);
        }
        (Condition::Flowing, Stop::Stuck(stopped)) => {
            why.reason = Some(stopped.clone());
            why.ends = "after you fix the reducer and resume the hook".to_owned();
            let steps = stops::restart(&stream.hook);
            why.helps.extend(steps.map(|(command, what)| Help {
                command,
                what: what.to_owned(),
            }));
            why.does_not = does_not(&["more lanes (it stays as it is)", "lanes rebuild"]);
        }
        (Condition::Flowing, Stop::Hook(None)) => {
            why.reason = Some("its hook moves to another namespace".to_owned());
            why.ends = "by itself, within seconds".to_owned();
        }
        (Condition::Flowing, Stop::Lane) => {
            why.reason = Some(stopped(lane));
            why.ends = "when the lane is resumed".to_owned();
            why.does_not = does_not(&["more lanes (the lane stays stopped)", "lanes rebuild"]);
        }
        (Condition::Flowing, Stop::NoOwner(Some(silence))) => {
            let node = lane.node.as_deref().unwrap_or_default();
            why.reason = Some(format!("node {node} silent for {}", duration(*silence)));
            let left = duration(LEASE.saturating_sub(*silence));
            why.ends = format!(
                "by itself: node {node} answers again, or another node takes over the lane in {left}"
            );
            why.does_not = does_not(&["more lanes (a node is missing)"]);
        }
        (Condition::Flowing, Stop::NoOwner(None)) => {
            why.reason = Some(format!("no node runs lane {}", lane.id));
            why.ends = "when a node takes over the lane".to_owned();
            why.helps.push(Help {
                command: "hooklane serve".to_owned(),
                what: "start a node if none is running".to_owned(),
            });
            why.does_not = does_not(&["more lanes (a node is missing)"]);
        }
        (Condition::Flowing, Stop::Nothing) if why.gathers_until.is_some() => {
            let until = why.gathers_until.unwrap_or_default();
            let left = duration(until.since(Timestamp::now()));
            why.reason = Some("it gathers events (debounce)".to_owned());
            why.ends = format!("by itself: it goes on in {left} if no more come");
            why.does_not = does_not(&[one_lane, "lanes rebuild (it waits for its time)"]);
        }
        (Condition::Flowing, Stop::Nothing) => {
            why.ends = match why.mark {
                Some(mark) => {
                    format!("by itself: the drain takes it to {mark}, then it waits for resume")
                }
                None => "by itself: it takes turns".to_owned(),
            };
            why.does_not = does_not(&["lanes rebuild (its hint is there)"]);
        }
        (Condition::Flowing, Stop::NoHint) => {
            why.ends = "by itself within 30s, when the next sweep finds it".to_owned();
            let rebuild = "hooklane lanes rebuild".to_owned();
            why.helps.push(Help {
                command: command::in_namespace(rebuild, &lane.id.namespace),
                what: "find it now: its hint is lost".to_owned(),
            });
        }
    }
    why.helps.extend(resume(stream, stop, lane));
}

/// The commands that undo the acts of operators that keep the cursor from moving, also after its own
/// trouble is over.
fn resume(stream: &StreamName, stop: &Stop, lane: &api::Lane) -> impl Iterator<Item = Help> {
    let hook = matches!(stop, Stop::Hook(Some(_))).then(|| Help {
        command: command::hooks("resume", &stream.hook),
        what: "resume the hook, which is paused".to_owned(),
    });
    let is_stopped = match stop {
        Stop::Lane => true,
        Stop::Hook(_) | Stop::Stuck(_) => lane.is_stopped(),
        _ => false,
    };
    let lane = is_stopped.then(|| Help {
        command: command::lanes("resume", &lane.id),
        what: format!("resume the lane, which is {}", lane.state.word()),
    });
    hook.into_iter().chain(lane)
}

fn help(verb: &str, stream: &StreamName, handler: &Name, more: &str, what: &str) -> Help {
    Help {
        command: command::streams(verb, stream, handler) + more,
        what: what.to_owned(),
    }
}

/// Describes the stop of a lane: by whom, when and why.
fn stopped(lane: &api::Lane) -> String {
    let by = lane.by.as_deref().unwrap_or("an operator");
    let word = match lane.state {
        LaneState::Paused => Mode::Paused.word(),
        _ => "drained",
    };
    let now = Timestamp::now();
    let since = lane.since.map(|at| format!(" since {}", at.clock_at(now)));
    let reason = lane.reason.as_deref().map(|reason| format!(" {reason:?}"));
    let (lane, since, reason) = (
        lane.id.index,
        since.unwrap_or_default(),
        reason.unwrap_or_default(),
    );
    format!("lane {lane} {word} by {by}{since}{reason}")
}

/// Adds the verdict's remedy to cursors that wait for what the verdict is about.
pub fn blame(whole: &Verdict, cursors: &mut [CursorDiagnosis]) {
    let waiting = cursors.iter_mut();
    for cursor in
        waiting.filter(|cursor| cursor.behind > 0 && cursor.condition == api::Condition::Flowing)
    {
        cursor.helps.extend(whole.next.iter().map(|next| Help {
            command: next.clone(),
            what: "as status says".to_owned(),
        }));
    }
}

/// Class and text of the diagnosis: the worst cursor decides. `unheard` is the time since the last
/// heartbeat of the lane's node, if that is long ago.
pub fn verdict(
    stream: &StreamName,
    cursors: &[CursorDiagnosis],
    (lane, unheard): (&api::Lane, Option<Duration>),
    is_stuck: bool,
) -> (Class, String) {
    let is = |condition| move |cursor: &&CursorDiagnosis| cursor.condition == condition;
    let failed = cursors.iter().find(is(api::Condition::Held));
    if let Some(cursor) = failed.or_else(|| cursors.iter().find(is(api::Condition::Waiting))) {
        let reason = cursor.reason.as_deref().unwrap_or_default();
        if cursor.by_operator {
            let (handler, events) = (&cursor.handler, counted(cursor.behind, "event", "events"));
            let text = format!("{stream} -> {handler} {reason}; {events} waiting");
            return (Class::OnPurpose, text);
        }
        let tries = match cursor.tries {
            0 | 1 => String::new(),
            tries => format!(", {tries} tries"),
        };
        let handler = &cursor.handler;
        let text = format!(
            "{stream} -> {handler}: {reason}{tries}; holds up only its own {}",
            counted(cursor.behind, "event", "events")
        );
        let class = match *handler == Name::reduce() {
            true => Class::Code,
            false => Class::Them,
        };
        return (class, text);
    }
    let waits: u64 = cursors.iter().map(|cursor| cursor.behind).sum();
    if waits == 0 {
        return (Class::Ok, "it is at its head".to_owned());
    }
    if let Some(cursor) = cursors.iter().find(is(api::Condition::Paused)) {
        let reason = cursor.reason.clone().unwrap_or_default();
        let class = match is_stuck {
            true => Class::Code,
            false => Class::OnPurpose,
        };
        return (class, reason);
    }
    if lane.state == LaneState::NoOwner {
        return (Class::Us, format!("lane {} has no node", lane.id));
    }
    let events = counted(waits, "event", "events");
    let until = cursors
        .iter()
        .filter_map(|cursor| cursor.gathers_until)
        .max();
    if let Some(until) = until {
        let left = duration(until.since(Timestamp::now()));
        let text = format!("it gathers events (debounce) and goes on in {left}: {events} to go");
        return (Class::Ok, text);
    }
    match (unheard, lane.node.as_deref()) {
        (Some(silent), Some(node)) => {
            let (node, silent) = (printable_line(node), duration(silent));
            let text = format!("{events} to go on node {node}, which is silent for {silent}");
            (Class::Ok, text)
        }
        _ => (Class::Ok, format!("it takes turns: {events} to go")),
    }
}
