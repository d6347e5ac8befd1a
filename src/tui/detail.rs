//! One lane, one stream, the log, and help.

use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::app::App;
use super::columns::{Column, Table, age, cut, fit, number, rate, share, took};
use super::overview::{clock, foot, header, log_line, rule, sentences};
use super::theme::Tone;
use crate::api::{CursorLine, Severity, StreamRow};
use crate::domain::name::StreamName;
use crate::text::{count, printable_line};

/// One lane: what flows, what is set aside, its cursors.
pub fn lane(app: &App, name: &str, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![header(app, name, width)];
    let (Some(lane), Some(snapshot)) = (app.find(name), app.snapshot()) else {
        lines.push(Line::from(format!(
            " {name} is sealed: the namespace has other lanes now"
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
    let text = format!(
        " {} {}   node {}   busy {}   {} of {} set aside{}",
        lane.severity.mark(),
        lane.state.word(),
        lane.node.as_deref().unwrap_or("-"),
        share(lane.busy),
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
    lines.push(Line::from(format!(
        " flowing    oldest {:>6}  {:>9} waiting   in {}/s  out {}/s   ETA {}",
        age(lane.flow_ms),
        count(lane.backlog_flowing),
        rate(lane.in_per_s),
        rate(lane.out_per_s),
        lane.eta.clone().unwrap_or_else(|| age(lane.eta_ms)),
    )));
    lines.push(Line::from(format!(
        " set aside  oldest {:>6}  {:>9} waiting   kept by an operator {}",
        if aside > 0 {
            age(lane.oldest_ms)
        } else {
            "-".to_owned()
        },
        count(aside),
        count(lane.kept)
    )));
    let of_lane = |verdict: &&crate::api::Verdict| {
        let its_stream = verdict.stream.as_ref().is_some_and(|stream| {
            snapshot
                .cursors
                .iter()
                .any(|line| line.lane == lane.index && line.stream == *stream)
        });
        verdict.lane.as_deref() == Some(name) || its_stream
    };
    if let Some(worst) = snapshot.verdicts.iter().find(of_lane) {
        lines.extend(sentences(app, worst, &[], width));
    }
    lines.extend(note(app, width));
    lines.push(rule(
        app,
        "wait in this lane, last 5m, waiting events counted",
        width,
    ));
    if let Some(wait) = &lane.wait_ms {
        lines.push(Line::from(format!(
            " WAIT p50 {}  p90 {}  p99 {}  max {}",
            took(Some(wait.p50)),
            took(Some(wait.p90)),
            took(Some(wait.p99)),
            took(Some(wait.max))
        )));
    }
    if let Some(work) = &lane.work_ms {
        lines.push(Line::from(format!(
            " WORK p50 {}  p99 {}  max {}",
            took(Some(work.p50)),
            took(Some(work.p99)),
            took(Some(work.max))
        )));
    }
    let cursors = app.cursors(lane);
    let title = format!(
        "cursors with work: {}, set aside first, then oldest",
        count(lane.cursors)
    );
    lines.push(rule(app, &title, width));
    let room = height.saturating_sub(lines.len() + 2);
    lines.extend(cursor_rows(app, &cursors, width, room));
    ended(app, lines, width, height)
}

fn cursor_rows(
    app: &App,
    cursors: &[&CursorLine],
    width: usize,
    room: usize,
) -> Vec<Line<'static>> {
    let name_width = width.saturating_sub(46).clamp(20, 60);
    let columns = vec![
        Column::words("CURSOR", name_width).narrow(4, 16),
        Column::words("CONDITION", 9),
        Column::numbers("OLDEST", 6),
        Column::numbers("BEHIND", 7),
        Column::numbers("TRIES", 5).gone(1),
        Column::words("LAST", 12).gone(2),
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
        let cells = [
            ("CURSOR", printable_line(&name).to_string()),
            ("CONDITION", line.condition.clone()),
            ("OLDEST", age(line.oldest_ms)),
            ("BEHIND", number(line.behind, 7)),
            ("TRIES", line.tries.to_string()),
            ("LAST", printable_line(last).to_string()),
        ];
        let severity = match line.condition.as_str() {
            "held" => Severity::Trouble,
            "waiting" | "paused" => Severity::Unusual,
            _ => Severity::Fine,
        };
        let sign = if nth == at { '>' } else { ' ' };
        let text = format!("{sign}{}{}", severity.mark(), table.named_row(&cells));
        let mut style = app.theme.style(Tone::from(severity));
        if nth == at {
            style = style.add_modifier(Modifier::REVERSED);
        }
        lines.push(Line::from(Span::styled(text, style)));
    }
    if cursors.is_empty() {
        lines.push(Line::from("  nothing waits"));
    }
    lines
}

/// One stream: where each handler is, and why it stands.
pub fn stream(app: &App, name: &StreamName, width: usize, height: usize) -> Vec<Line<'static>> {
    let shown = printable_line(&name.to_string()).to_string();
    let mut lines = vec![header(app, &shown, width)];
    lines.extend(note(app, width));
    let Some(stream) = app.stream.as_ref().filter(|stream| stream.stream == *name) else {
        lines.push(Line::from(" asking the daemon"));
        return ended(app, lines, width, height);
    };
    lines.push(Line::from(format!(
        " head {}   slot {} -> lane {}",
        number(u64::try_from(stream.head.0).unwrap_or(0), 15),
        count(u64::from(stream.slot)),
        stream.lane
    )));
    let columns = vec![
        Column::words("HANDLER", 14),
        Column::words("CONDITION", 10),
        Column::numbers("POSITION", 13),
        Column::numbers("BEHIND", 9),
        Column::numbers("OLDEST", 6),
        Column::numbers("TRIES", 5),
    ];
    let table = Table::new(columns, 1, width.saturating_sub(2));
    lines.push(app.theme.line(
        Tone::Header,
        fit(&format!("  {}", table.header()), width, false),
    ));
    for cursor in &stream.cursors {
        let cells = [
            ("HANDLER", cursor.handler.to_string()),
            ("CONDITION", cursor.condition.clone()),
            (
                "POSITION",
                number(u64::try_from(cursor.position.0).unwrap_or(0), 13),
            ),
            ("BEHIND", number(cursor.behind, 9)),
            ("OLDEST", age(cursor.oldest_ms)),
            ("TRIES", cursor.tries.to_string()),
        ];
        let tone = Tone::from(severity(cursor));
        let mark = severity(cursor).mark();
        lines.push(
            app.theme
                .line(tone, format!(" {mark}{}", table.named_row(&cells))),
        );
    }
    for cursor in stream.cursors.iter().filter(|cursor| cursor.behind > 0) {
        lines.extend(why(app, cursor, width));
    }
    let snapshot = app.snapshot();
    let verdicts = snapshot
        .map(|seen| seen.verdicts.as_slice())
        .unwrap_or_default();
    if let Some(verdict) = verdicts.iter().find(|v| v.stream.as_ref() == Some(name)) {
        lines.push(rule(app, "verdict", width));
        lines.extend(sentences(app, verdict, &[], width));
    }
    ended(app, lines, width, height)
}

fn severity(cursor: &StreamRow) -> Severity {
    match cursor.condition.as_str() {
        "held" => Severity::Trouble,
        "waiting" => Severity::Unusual,
        _ => Severity::Fine,
    }
}

fn why(app: &App, cursor: &StreamRow, width: usize) -> Vec<Line<'static>> {
    let title = format!("{}: why it waits", cursor.handler);
    let mut lines = vec![rule(app, &title, width)];
    let reason = cursor.reason.as_deref().unwrap_or("its turn comes");
    let room = width.saturating_sub(9).max(10);
    let parts = super::columns::wrapped(printable_line(reason).as_str(), room);
    for (nth, part) in parts.into_iter().enumerate() {
        let label = if nth == 0 { "reason" } else { "" };
        lines.push(Line::from(format!(" {label:<7} {part}")));
    }
    if let Some(next) = cursor.next {
        let seq = cursor.position.next();
        let waits = age(cursor.oldest_ms);
        lines.push(Line::from(format!(
            " next    {next}  seq {seq}, waits for {waits}"
        )));
    }
    if let Some(at) = cursor.retry_at {
        let left = crate::text::duration(at.since(app.now));
        lines.push(Line::from(format!(" retry   at {} (in {left})", clock(at))));
    }
    if cursor.condition == "held" {
        lines.push(Line::from(
            " ends    by an operator: R tries it again, K skips this event",
        ));
    }
    lines
}

/// Everything that happened, newest first.
pub fn log(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![header(app, "log", width)];
    let log = app
        .snapshot()
        .map(|seen| seen.log.as_slice())
        .unwrap_or_default();
    let room = height.saturating_sub(3);
    lines.extend(log.iter().take(room).map(|line| log_line(app, line, width)));
    if log.is_empty() {
        lines.push(Line::from(" nothing has happened since the daemon began"));
    }
    ended(app, lines, width, height)
}

fn note(app: &App, width: usize) -> Option<Line<'static>> {
    let note = app.note.as_ref()?;
    let text = format!(" {}", printable_line(note));
    Some(app.theme.line(Tone::Unusual, cut(&text, width)))
}

fn ended(
    app: &App,
    mut lines: Vec<Line<'static>>,
    width: usize,
    height: usize,
) -> Vec<Line<'static>> {
    lines.truncate(height.saturating_sub(1));
    let blanks = height.saturating_sub(lines.len() + 1);
    lines.extend(std::iter::repeat_n(Line::default(), blanks));
    lines.push(foot(app, width));
    lines
}

const HELP: &str = "
  MOVE                               LOOK
  Up Down j k   row                  f        freeze / resume the screen
  PgUp PgDn g G page, first, last    s  S     sort column, reverse
  Enter  Esc    open, back           l        log
  !             jump to the worst    o        write this screen to a file
  /             filter (Esc clears)  c        copy the selected id (OSC 52)
  ACT (always shows a plan and asks)
  a   menu for the row: pause, resume, drain
  r   resize lanes          R K  in a stream: retry, skip (dialogs)
  q   quit    Ctrl-Z suspend         Q        quit, leave the screen behind
  MARKS    !  needs you     ~  not normal, on purpose     (none) fine
  STATE    of a lane: active, draining, drained, paused, no owner
  HELD     cursors set aside: waiting (will retry) or held (needs you)
           a set-aside cursor holds up its own events only; the lane goes on
  OLDEST   age of the oldest waiting event, set-aside ones too
  FLOW     the same, of flowing cursors in running lanes only: our share
  WAIT     received -> applied, waiting events counted    WORK  the handler
  ETA      from the slope of FLOW: - steady grows never, or a time; what waits
           for someone says so: retry, held, lease, resume (you)
 man hooklane-top";

/// What keys and marks mean.
pub fn help(app: &App) -> Vec<Line<'static>> {
    let mut lines = vec![Line::from(
        " help                                     any key closes",
    )];
    lines.extend(HELP.lines().skip(1).map(|line| Line::from(line.to_owned())));
    let _ = app;
    lines
}
