//! Screens of the list of events and of one event. Their content is untrusted: it is made printable
//! before it reaches the terminal.

use ratatui::text::Line;

use super::app::{App, fate};
use super::columns::{Column, Table, chunked, cut, fit, number, wrapped};
use super::frame::{ended, header, note, rule};
use super::theme::Tone;
use super::view::{EventView, Events, View};
use crate::api::{EventRow, Outcome, Severity};
use crate::domain::event::EventId;
use crate::text::{count, printable, printable_line, size};

/// Number of bytes of a body that are shown.
const BODY_MAX: usize = 64 * 1024;

/// Number of lines below the list, for the selected event.
const SELECTED: usize = 7;

/// The list of the newest events, newest first, with details of the selected one.
pub fn events(app: &App, known: &Events, width: usize, height: usize) -> Vec<Line<'static>> {
    let new = known.new;
    let follows = match (known.held, known.rows.len()) {
        (None, _) => "FOLLOW".to_owned(),
        (Some(_), known) if new >= known => format!("HOLD, {new} new or more"),
        (Some(_), _) => format!("HOLD, {new} new"),
    };
    let mut lines = vec![header(app, &format!("events   {follows}"), width)];
    let rows = app.events();
    let hook = app.filter.wants("hook");
    let hooks = app.snapshot().map_or(&[][..], |seen| &seen.hooks);
    let of_filter = |name: &str| hook.is_none_or(|hook| name.contains(hook));
    let rates = hooks.iter().filter(|line| of_filter(line.hook.as_str()));
    // Not `sum`, which returns -0 for an empty list.
    let rate = rates.fold(0.0, |sum, line| sum + line.in_per_s);
    let filter = match app.filter.is_empty() {
        true => "all hooks".to_owned(),
        false => format!("filter: {}", app.filter.text()),
    };
    lines.push(Line::from(cut(
        &format!(
            " {filter}   {rate:.0}/s in   {} of the newest {} shown",
            rows.len(),
            known.rows.len()
        ),
        width,
    )));
    lines.extend(note(app, width));
    let selected = app.event_row();
    let below = if height >= 20 { SELECTED } else { 0 };
    let room = height.saturating_sub(lines.len() + below + 2).max(1);
    lines.extend(list(app, &rows, selected, width, room));
    if let Some(why) = &known.why {
        lines.push(
            app.theme
                .line(Tone::Trouble, format!("  {}", printable_line(why))),
        );
    } else if rows.is_empty() {
        lines.push(Line::from("  no event fits"));
    }
    if below > 0 {
        let used = lines.len() + below + 1;
        lines.extend(std::iter::repeat_n(
            Line::default(),
            height.saturating_sub(used),
        ));
        lines.push(rule(app, "selected", width));
        if let Some(row) = selected {
            lines.extend(facts(app, row, width).into_iter().take(below - 1));
        }
    }
    ended(app, lines, width, height)
}

fn list(
    app: &App,
    rows: &[&EventRow],
    selected: Option<&EventRow>,
    width: usize,
    room: usize,
) -> Vec<Line<'static>> {
    let names = width.saturating_sub(63).clamp(12, 60);
    let columns = vec![
        Column::words("RECEIVED", 12).gone(2),
        Column::words("STREAM", names),
        Column::numbers("SEQ", 11),
        Column::words("EVENT", 14),
        Column::numbers("SIZE", 5).gone(1),
        Column::words("FATE", 14),
    ];
    let table = Table::new(columns, 1, width.saturating_sub(2));
    let header = fit(&format!("  {}", table.header()), width, false);
    let mut lines = vec![app.theme.line(Tone::Header, header)];
    let is_selected = |row: &&EventRow| selected.is_some_and(|chosen| chosen.event == row.event);
    let at = rows.iter().position(is_selected).unwrap_or(0);
    let first = (at + 1).saturating_sub(room);
    for row in rows.iter().skip(first).take(room) {
        let fate = fate(row);
        let severity = severity(row);
        let cells = [
            ("RECEIVED", moment(row)),
            (
                "STREAM",
                printable_line(&row.stream.to_string()).to_string(),
            ),
            ("SEQ", number(u64::try_from(row.seq.0).unwrap_or(0), 11)),
            ("EVENT", short(row.event)),
            ("SIZE", brief(row.size)),
            ("FATE", fate),
        ];
        let sign = if is_selected(row) { '>' } else { ' ' };
        let text = format!("{sign}{}{}", severity.mark(), table.named_row(&cells));
        lines.push(app.theme.row(Tone::from(severity), text, sign == '>'));
    }
    lines
}

fn severity(row: &EventRow) -> Severity {
    let outcomes = row.fate.iter().map(|fate| match fate.outcome {
        Outcome::Held => Severity::Trouble,
        Outcome::Skipped => Severity::Unusual,
        _ => Severity::Fine,
    });
    outcomes.max().unwrap_or_default()
}

/// The screen of an event: place, outcome at each handler, headers and body.
pub fn event(app: &App, view: &EventView, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![header(app, &short(view.id), width)];
    lines.extend(note(app, width));
    let Some(row) = view.shown.as_deref() else {
        lines.push(Line::from(" asking the daemon"));
        return ended(app, lines, width, height);
    };
    lines.extend(facts(app, row, width));
    let mut body = Vec::new();
    if let Some(query) = &row.query {
        let text = format!(" ?{}", printable_line(query));
        body.push(Line::from(cut(&text, width)));
    }
    for (name, value) in row.headers.iter().flatten() {
        let text = format!(" {}: {}", printable_line(name), printable_line(value));
        body.push(Line::from(cut(&text, width)));
    }
    body.push(rule(app, &format!("body, {}", size(row.size)), width));
    body.extend(body_of(row).iter().flat_map(|line| {
        let parts = chunked(line, width.saturating_sub(2).max(1));
        parts.into_iter().map(|part| Line::from(format!(" {part}")))
    }));
    lines.push(rule(app, "headers", width));
    let room = height.saturating_sub(lines.len() + 1);
    let scroll = view.scroll.min(body.len().saturating_sub(room));
    lines.extend(body.into_iter().skip(scroll).take(room));
    ended(app, lines, width, height)
}

/// Number of lines of an event's body, the limit for scrolling.
pub fn body_lines(row: &EventRow) -> usize {
    let headers = row.headers.as_ref().map_or(0, |headers| headers.len());
    headers
        + usize::from(row.query.is_some())
        + body_of(row)
            .iter()
            .map(|line| 1 + line.len() / 20)
            .sum::<usize>()
}

/// Lines of a body: text as it is, other bodies as their JSON form.
fn body_of(row: &EventRow) -> Vec<String> {
    let text = match (&row.body, &row.body_base64) {
        (Some(text), _) => text.as_str(),
        (None, Some(base64)) => base64.as_str(),
        (None, None) => return vec!["(not asked for)".to_owned()],
    };
    let end = (0..=BODY_MAX.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    let shown = &text[..end.unwrap_or(0)];
    let shown = printable(shown);
    let mut lines: Vec<_> = shown
        .as_str()
        .lines()
        .map(|line| line.replace('\t', "    "))
        .collect();
    if row.body.is_none() {
        lines.insert(0, "(no text, in base64:)".to_owned());
    }
    if text.len() > BODY_MAX {
        lines.push(format!(
            "... whole: hooklane events show {} --body",
            row.event
        ));
    }
    lines
}

/// Lines with the place of an event and its outcome at each handler.
fn facts(app: &App, row: &EventRow, width: usize) -> Vec<Line<'static>> {
    let key = row
        .key
        .map_or_else(|| "the socket".to_owned(), |key| format!("key {key}"));
    let mut lines = vec![
        Line::from(cut(
            &format!(
                " {}   {} seq {}",
                row.event,
                printable_line(&row.stream.to_string()),
                count(u64::try_from(row.seq.0).unwrap_or(0))
            ),
            width,
        )),
        Line::from(cut(
            &format!(
                " received {}, {} ago   {}   through {key}",
                row.received_at,
                crate::text::duration(app.now.since(row.received_at)),
                size(row.size)
            ),
            width,
        )),
    ];
    for fate in &row.fate {
        let because = fate
            .reason
            .as_ref()
            .map(|reason| format!(": {}", printable_line(reason)));
        let tone = match fate.outcome {
            Outcome::Held => Tone::Trouble,
            Outcome::Skipped => Tone::Unusual,
            _ => Tone::Plain,
        };
        let text = format!(
            " {:<8} {}{}",
            fate.handler,
            fate.outcome.word(),
            because.unwrap_or_default()
        );
        // The list has one line for it; the event's own screen has room for the whole reason.
        let parts = match &app.view {
            View::Events(_) => vec![cut(&text, width)],
            _ => {
                let parts = wrapped(text.trim_start(), width.saturating_sub(1).max(1));
                parts.iter().map(|part| format!(" {part}")).collect()
            }
        };
        lines.extend(parts.into_iter().map(|part| app.theme.line(tone, part)));
    }
    if let (View::Events(_), Some(key)) = (&app.view, &row.dedupe_key) {
        lines.push(Line::from(cut(
            &format!(" delivery {}", printable_line(key)),
            width,
        )));
    }
    lines
}

/// Short form of an id, `evt_..7k2m9qx4`: its first characters are only the time.
pub fn short(event: EventId) -> String {
    let text = event.to_string();
    let tail = text.len().saturating_sub(8);
    format!("evt_..{}", &text[tail..])
}

/// Short form of a number of bytes, such as `2.1K`.
pub fn brief(bytes: u64) -> String {
    match bytes {
        0..1_000 => bytes.to_string(),
        _ => crate::text::short(bytes).to_uppercase(),
    }
}

/// Time of receipt, such as `02:59:14.231`.
fn moment(row: &EventRow) -> String {
    let text = row.received_at.to_string();
    text.get(11..23).unwrap_or(&text).to_owned()
}
