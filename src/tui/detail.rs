//! Screens of a lane and a stream, and the help.

use ratatui::text::Line;

use super::app::App;
use super::columns::{Column, Table, age, cut, fit, number, rate, share, took};
use super::fold;
use super::frame::{clock, ended, eta, header, note, rule};
use super::lists::{log_line, row};
use super::overview::sentences;
use super::theme::Tone;
use super::view::{StreamShown, StreamView};
use crate::api::{
    Condition, CursorDiagnosis, CursorLine, Eta, NodeLine, Severity, Stream, StreamRow,
};
use crate::domain::lane::LaneId;
use crate::text::{count, printable_line};

/// One lane: what flows, what is set aside, its cursors.
pub fn lane(app: &App, id: &LaneId, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![header(app, &id.to_string(), width)];
    let (Some(lane), Some(snapshot)) = (app.find(id), app.snapshot()) else {
        lines.push(Line::from(format!(
            " {id} is sealed: the namespace has other lanes now"
        )));
        return ended(app, lines, width, height);
    };
    let by = lane.by.as_ref().map(|by| {
        let reason = lane.reason.as_ref();
        let reason = reason
            .map(|reason| format!(" \"{reason}\""))
            .unwrap_or_default();
        let since = lane.since.map(clock).unwrap_or_default();
        format!("   {} since {since} by {by}{reason}", lane.state.word())
    });
    let epoch = lane
        .epoch
        .map_or_else(String::new, |epoch| format!(", epoch {epoch}"));
    let flies = lane
        .in_flight
        .map_or_else(String::new, |n| format!("   {n} in flight"));
    let text = format!(
        " {} {}   node {}{epoch}   busy {}{flies}   turns wait {}   {} of {} set aside{}",
        lane.severity.mark(),
        lane.state.word(),
        lane.node.as_deref().unwrap_or("-"),
        share(lane.busy),
        age(lane.turn_wait_ms),
        lane.set_aside,
        count(lane.cursors),
        by.unwrap_or_default()
    );
    let text = printable_line(&text);
    lines.push(
        app.theme
            .line(Tone::from(lane.severity), cut(text.as_str(), width)),
    );
    let aside = lane.backlog.saturating_sub(lane.backlog_flowing);
    // A forecast about set-aside cursors implies that the others, if there are any, are steady.
    let whole = eta(lane.eta, lane.eta_ms);
    let (flows, stands) = match lane.eta {
        Some(Eta::Held | Eta::Retry) if lane.backlog_flowing > 0 => ("steady", whole.as_str()),
        Some(Eta::Held | Eta::Retry) => ("-", whole.as_str()),
        _ => (whole.as_str(), "-"),
    };
    let kept = match lane.kept {
        0 => String::new(),
        kept => format!("   {} kept by an operator", count(kept)),
    };
    lines.push(Line::from(format!(
        " flowing    oldest {:>6}  {:>9} waiting   in {}/s  out {}/s   ETA {}",
        age(lane.flow_ms),
        count(lane.backlog_flowing),
        rate(lane.in_per_s),
        rate(lane.out_per_s),
        flows,
    )));
    lines.push(Line::from(format!(
        " set aside  oldest {:>6}  {:>9} waiting   ETA {stands}{kept}",
        if aside > 0 {
            age(lane.oldest_ms)
        } else {
            "-".to_owned()
        },
        count(aside)
    )));
    let of_lane = |verdict: &&crate::api::Verdict| {
        let its_stream = verdict.stream.as_ref().is_some_and(|stream| {
            snapshot
                .cursors
                .iter()
                .any(|line| line.is_in(lane) && line.stream == *stream)
        });
        let named = snapshot.lanes.iter();
        let mut named = named.filter(|named| verdict.lane.as_ref() == Some(&named.id));
        its_stream || named.any(|named| named.id == *id || named.is_stopped_like(lane))
    };
    if let Some(worst) = snapshot.verdicts.iter().find(of_lane) {
        lines.extend(sentences(app, worst, &[], width, 2));
    }
    lines.extend(note(app, width));
    lines.push(rule(
        app,
        "wait in this lane, last 5m, waiting events counted",
        width,
    ));
    lines.extend(times(app, lane, width));
    let cursors = app.cursors(lane);
    let title = format!(
        "cursors with work: {}, set aside first, then oldest",
        count(lane.cursors)
    );
    lines.push(rule(app, &title, width));
    let left = height.saturating_sub(lines.len() + 1);
    let names: Vec<_> = cursors
        .iter()
        .map(|l| format!("{} -> {}", l.stream, l.handler))
        .collect();
    let log = snapshot.log.iter();
    let log = log.filter(|line| line.is_of_lane(lane.id.index) || names.contains(&line.scope));
    let log = fold::entries(log, app.is_unfolded);
    let log = &log[..log.len().min(4)];
    let below = match left > cursors.len().min(6) + log.len() + 2 && !log.is_empty() {
        true => log.len() + 1,
        false => 0,
    };
    let room = left.saturating_sub(below + 1);
    let rows = cursor_rows(app, &cursors, width, room);
    let blanks = left.saturating_sub(below + rows.len());
    lines.extend(rows);
    if below > 0 {
        lines.extend(std::iter::repeat_n(Line::default(), blanks));
        lines.push(rule(app, "log of this lane", width));
        lines.extend(log.iter().map(|entry| log_line(app, entry, width)));
    }
    ended(app, lines, width, height)
}

/// Lines with the times that events wait and take, each with a bar on a logarithmic scale.
fn times(app: &App, lane: &crate::api::Lane, width: usize) -> Vec<Line<'static>> {
    let (Some(wait), work) = (&lane.wait_ms, &lane.work_ms) else {
        return vec![Line::from(" nothing was applied and nothing waits")];
    };
    let work = |of: fn(&crate::api::Percentiles) -> f64| took(work.as_ref().map(of));
    let nodes = app.snapshot().map_or(&[][..], |seen| &seen.nodes);
    let node = nodes
        .iter()
        .find(|node| Some(&node.node) == lane.node.as_ref());
    let storage = |of: fn(&NodeLine) -> Option<f64>| took(node.and_then(of));
    let rows = [
        ("p50", wait.p50, work(|work| work.p50)),
        ("p90", wait.p90, work(|work| work.p90)),
        ("p99", wait.p99, work(|work| work.p99)),
        ("max", wait.max, work(|work| work.max)),
    ];
    // Figures of the lane's node, if there is room beside the bars.
    let beside = match width >= 78 {
        true => [
            format!("   commit p99 {:>5}", storage(|node| node.commit_p99_ms)),
            format!("   fsync  p99 {:>5}", storage(|node| node.fsync_p99_ms)),
            format!("   failed {:>9}", count(lane.failures)),
            String::new(),
        ],
        false => Default::default(),
    };
    let room = width.saturating_sub(40 + beside[0].len()).clamp(8, 60);
    let line = |((name, wait, work), beside): ((&str, f64, String), String)| {
        // The scale from 1 ms to an hour has six and a half powers of ten.
        let share = (wait.max(1.0).log10() / 6.556 * 1_000.0) as u64;
        let bar = super::chart::bar(share, 1_000, room, app.theme.ascii);
        Line::from(format!(
            " WAIT {name} {:>6} {bar}   WORK {name} {work:>6}{beside}",
            took(Some(wait))
        ))
    };
    rows.into_iter().zip(beside).map(line).collect()
}

fn cursor_rows(
    app: &App,
    cursors: &[&CursorLine],
    width: usize,
    room: usize,
) -> Vec<Line<'static>> {
    let name_width = width.saturating_sub(54).clamp(20, 50);
    let columns = vec![
        Column::words("CURSOR", name_width).narrow(4, 16),
        Column::words("CONDITION", 9),
        Column::numbers("OLDEST", 6),
        Column::numbers("BEHIND", 7),
        Column::numbers("TRIES", 5).gone(1),
        Column::numbers("NEXT", 5).gone(3),
        Column::words("LAST", width.saturating_sub(name_width + 44).max(6)).gone(2),
    ];
    let table = Table::new(columns, 1, width.saturating_sub(2));
    let mut lines = vec![app.theme.line(
        Tone::Header,
        fit(&format!("  {}", table.header()), width, false),
    )];
    let at = app.cursor_row(cursors);
    let first = (at + 1).saturating_sub(room);
    for (nth, line) in cursors.iter().enumerate().skip(first).take(room) {
        let name = format!("{} -> {}", line.stream, line.handler);
        let last = line.result.as_deref().unwrap_or("-");
        let next = line
            .retry_at
            .map(|at| crate::text::duration(at.since(app.now)));
        let cells = [
            ("CURSOR", printable_line(&name).to_string()),
            ("CONDITION", line.condition.word().to_owned()),
            ("OLDEST", age(line.oldest_ms)),
            ("BEHIND", number(line.behind, 7)),
            ("TRIES", line.tries.to_string()),
            ("NEXT", next.unwrap_or_else(|| "-".to_owned())),
            ("LAST", printable_line(last).to_string()),
        ];
        let severity = severity_of(line.condition);
        lines.push(row(app, table.named_row(&cells), severity, nth == at));
    }
    if cursors.is_empty() {
        lines.push(Line::from("  nothing waits"));
    }
    lines
}

/// Severity of a cursor in this condition.
pub fn severity_of(condition: Condition) -> Severity {
    match condition {
        Condition::Held => Severity::Trouble,
        Condition::Waiting | Condition::Paused => Severity::Unusual,
        _ => Severity::Fine,
    }
}

/// The screen of a stream: positions of its handlers, why each waits, what ends it, and its waiting
/// events.
pub fn stream(app: &App, view: &StreamView, width: usize, height: usize) -> Vec<Line<'static>> {
    let printed = printable_line(&view.name.to_string()).to_string();
    let Some(shown) = view.shown.as_deref() else {
        let mut lines = vec![header(app, &printed, width)];
        lines.extend(note(app, width));
        if app.note.is_none() {
            lines.push(Line::from(" asking the daemon"));
        }
        return ended(app, lines, width, height);
    };
    let stream = &shown.stream;
    let mut lines = vec![header(app, &format!("{} > {printed}", stream.lane), width)];
    lines.extend(note(app, width));
    let head = u64::try_from(stream.head.0).unwrap_or(0);
    let slot = count(u64::from(stream.slot));
    let floor = match u64::try_from(stream.floor.0) {
        Ok(floor) if floor > 0 => format!("   removed up to {}", count(floor)),
        _ => String::new(),
    };
    lines.push(Line::from(format!(
        " head {}{floor}   slot {slot} -> lane {}",
        count(head),
        stream.lane
    )));
    let chosen = app.handler_row(stream);
    lines.extend(handler_rows(app, stream, chosen, width));
    if let Some(row) = chosen {
        let why = shown
            .why
            .cursors
            .iter()
            .find(|why| why.handler == row.handler);
        lines.extend(why_of(app, shown, row, why, width));
        let room = height.saturating_sub(lines.len() + 1);
        lines.extend(waiting_rows(app, (shown, view.scroll), row, width, room));
    }
    ended(app, lines, width, height)
}

fn handler_rows(
    app: &App,
    stream: &Stream,
    chosen: Option<&StreamRow>,
    width: usize,
) -> Vec<Line<'static>> {
    let columns = vec![
        Column::words("HANDLER", 14),
        Column::words("CONDITION", 10),
        Column::numbers("POSITION", 13),
        Column::numbers("BEHIND", 9),
        Column::numbers("OLDEST", 6),
        Column::numbers("TRIES", 5),
        Column::numbers("NEXT TRY", 8).gone(1),
    ];
    let table = Table::new(columns, 1, width.saturating_sub(2));
    let titles = fit(&format!("  {}", table.header()), width, false);
    let mut lines = vec![app.theme.line(Tone::Header, titles)];
    for cursor in &stream.cursors {
        let next = cursor
            .retry_at
            .map(|at| crate::text::duration(at.since(app.now)));
        let position = u64::try_from(cursor.position.0).unwrap_or(0);
        let cells = [
            ("HANDLER", cursor.handler.to_string()),
            ("CONDITION", cursor.condition.word().to_owned()),
            ("POSITION", number(position, 13)),
            ("BEHIND", number(cursor.behind, 9)),
            ("OLDEST", age(cursor.oldest_ms)),
            ("TRIES", cursor.tries.to_string()),
            ("NEXT TRY", next.unwrap_or_else(|| "-".to_owned())),
        ];
        let is_chosen = chosen.is_some_and(|chosen| chosen.handler == cursor.handler);
        let severity = severity_of(cursor.condition);
        lines.push(row(app, table.named_row(&cells), severity, is_chosen));
    }
    lines
}

/// The diagnosis of a handler: cause, end, what helps and what does not, as `hooklane why` prints it.
fn why_of(
    app: &App,
    shown: &StreamShown,
    row: &StreamRow,
    why: Option<&CursorDiagnosis>,
    width: usize,
) -> Vec<Line<'static>> {
    let is_behind = row.behind > 0;
    let title = match is_behind {
        true => format!("{}: why it waits", row.handler),
        false => format!("{}: at the head", row.handler),
    };
    let mut lines = vec![rule(app, &title, width)];
    let mut say = |label: &str, text: &str, tone: Tone| {
        let room = width.saturating_sub(11).max(10);
        let parts = super::columns::paragraph(printable_line(text).as_str(), "", room, 2);
        for (nth, part) in parts.into_iter().enumerate() {
            let label = if nth == 0 { label } else { "" };
            lines.push(app.theme.line(tone, format!(" {label:<9} {part}")));
        }
    };
    if is_behind {
        let tone = Tone::from(severity_of(row.condition));
        let class = shown.why.class.word();
        say(class, &shown.why.verdict, tone);
    }
    let Some(why) = why else { return lines };
    let is_said = |reason: &&String| is_behind && shown.why.verdict.contains(reason.as_str());
    if let Some(reason) = why.reason.as_ref().filter(|reason| !is_said(reason)) {
        say("reason", reason, Tone::Plain);
    }
    if let Some(next) = why.next.filter(|_| is_behind) {
        let received = why.next_received_at.map(clock).unwrap_or_default();
        let since = why
            .since
            .map(|at| format!(", since {}", at.clock_at(app.now)))
            .unwrap_or_default();
        let seq = why.position.next();
        say(
            "next",
            &format!(
                "{}  seq {seq}, received {received}{since}",
                super::events::short(next)
            ),
            Tone::Plain,
        );
    }
    if is_behind {
        say("ends", &why.ends, Tone::Plain);
        for (nth, help) in why.helps.iter().take(2).enumerate() {
            let label = if nth == 0 { "helps" } else { "" };
            let room = width.saturating_sub(11).max(10);
            // A command is never cut, because the user types it.
            let parts = super::columns::wrapped(printable_line(&help.command).as_str(), room);
            for (nth, part) in parts.iter().enumerate() {
                let label = if nth == 0 { label } else { "" };
                say(label, part, Tone::Plain);
            }
            say("", &format!("  {}", help.what), Tone::Plain);
        }
        if let Some(no) = why.does_not.first() {
            say("does not", no, Tone::Plain);
        }
    }
    lines
}

/// The next events of a handler, in order.
fn waiting_rows(
    app: &App,
    (shown, scroll): (&StreamShown, usize),
    row: &StreamRow,
    width: usize,
    room: usize,
) -> Vec<Line<'static>> {
    if row.behind == 0 || room < 3 || shown.handler.as_ref() != Some(&row.handler) {
        return Vec::new();
    }
    let mut lines = vec![rule(
        app,
        &format!("waiting for {}, in order", row.handler),
        width,
    )];
    let columns = vec![
        Column::numbers("SEQ", 11),
        Column::words("EVENT", 14),
        Column::numbers("AGE", 6),
        Column::numbers("SIZE", 5),
        Column::words("BODY", width.saturating_sub(42).max(4)),
    ];
    let table = Table::new(columns, 1, width.saturating_sub(2));
    let titles = fit(&format!("  {}", table.header()), width, false);
    lines.push(app.theme.line(Tone::Header, titles));
    let at = scroll.min(shown.waiting.len().saturating_sub(1));
    let rows = room - 3;
    let first = (at + 1).saturating_sub(rows.max(1));
    for (nth, event) in shown.waiting.iter().enumerate().skip(first).take(rows) {
        let body = event.body.as_deref().unwrap_or("(no text)");
        let body: String = body.chars().take(width).collect();
        let cells = [
            ("SEQ", number(u64::try_from(event.seq.0).unwrap_or(0), 11)),
            ("EVENT", super::events::short(event.event)),
            (
                "AGE",
                crate::text::duration(app.now.since(event.received_at)),
            ),
            ("SIZE", super::events::brief(event.size)),
            ("BODY", printable_line(&body).to_string()),
        ];
        lines.push(self::row(
            app,
            table.named_row(&cells),
            Severity::Fine,
            nth == at,
        ));
    }
    let more = row.behind.saturating_sub(shown.waiting.len() as u64);
    if more > 0 {
        lines.push(Line::from(format!("  ... {} more", count(more))));
    }
    lines
}

const HELP: &str = "  MOVE                               LOOK
  Up Down j k   row                  f        freeze / resume the screen
  PgUp PgDn g G page, first, last    [  ]     window 1m 5m 15m 1h (charts)
  Enter  Esc    open, back           +  -     redraw every 1s 2s 5s 10s
  !             worst, next worst    s  S     sort column, reverse
  /             filter (Esc clears)  h        heat map of the waits
  e  l  n  Tab  events, log,         u        numbers in full / short
                namespaces, nodes    1 2 3 x  log: levels, fold
  ACT (always shows a plan and asks; Cancel is the default)
  a   menu for the row: pause, resume, drain, retry, skip, hold, release
  r   resize lanes          R K H  in a stream: retry, skip, hold (dialogs)
  c   copy the selected id (OSC 52)  o        write this screen to a file
  q   quit    Ctrl-Z suspend         Q        quit, leave the screen behind
  FILTER   words, hook: stream: lane: state: condition: handler: node: -word
  MARKS    !  needs you     ~  not normal, on purpose     (none) fine
  HELD     cursors set aside: waiting (will retry) or held (needs you);
           each holds up its own events only, the lane goes on
  OLDEST   age of the oldest waiting event, set-aside ones too
  FLOW     the same, of flowing cursors in running lanes only: our share
  WAIT     received -> applied, waiting ones too; WORK  the handler: 5m
  IN OUT   events a second, one for each handler, over the last 10s
  ETA      by the slope of FLOW: - steady grows never, or a time; what waits
           for someone says so: retry, held, lease, resume (you)";

/// Width for which the help is written, in columns.
const HELP_WIDTH: usize = 79;

/// The help about keys and marks, scrolled if it is higher than the screen.
pub fn help(app: &App, scroll: usize, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![header(app, "help", width)];
    let text = help_lines(width);
    let room = height.saturating_sub(2).max(1);
    let last = text.len().saturating_sub(room);
    let first = scroll.min(last);
    let below = text.len().saturating_sub(first + room);
    lines.extend(text.into_iter().skip(first).take(room).map(Line::from));
    let foot = match last {
        0 => " any key closes   man hooklane-top".to_owned(),
        _ => format!(" Up Down scroll ({below} more)  any other key closes"),
    };
    lines.push(app.theme.line(Tone::Quiet, cut(&foot, width)));
    lines
}

/// The help in lines of this width: unchanged if it fits, otherwise wrapped.
pub fn help_lines(width: usize) -> Vec<String> {
    if width >= HELP_WIDTH {
        return HELP.lines().map(str::to_owned).collect();
    }
    // Its first lines are two columns side by side; here one follows the other.
    let (left, right): (Vec<_>, Vec<_>) = HELP
        .lines()
        .take(HELP_PAIRS)
        .map(|line| line.split_at_checked(37).unwrap_or((line, "")))
        .unzip();
    let rest = HELP.lines().skip(HELP_PAIRS);
    let all = left.into_iter().chain(right).chain(rest);
    let all = all.filter(|line| !line.trim().is_empty());
    all.flat_map(|line| {
        let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
        super::columns::wrapped(&words, width.saturating_sub(2).max(1))
    })
    .map(|line| format!(" {line}"))
    .collect()
}

/// Number of lines of the help that have two columns.
const HELP_PAIRS: usize = 8;
