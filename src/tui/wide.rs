//! Panels below the lanes, side by side on wide terminals.

use ratatui::text::{Line, Span};

use super::app::App;
use super::chart::{CLASSES, heat, sparks};
use super::columns::{age, clip, cut, fit, number, rate};
use super::lists::{namespace_header, namespace_line, node_header, node_line};
use super::theme::Tone;
use crate::api::{CursorLine, Sample, Snapshot};
use crate::text::{count, printable_line};

/// Width of the left panel, in columns.
const LEFT: usize = 62;

/// Rows of a panel of nodes, namespaces or hooks at most.
const ROWS: usize = 4;

/// Two panels side by side, each with its title, as high as the higher one.
fn beside(
    app: &App,
    titles: (String, String),
    left: Vec<Line<'static>>,
    right: Vec<Line<'static>>,
    width: usize,
) -> Vec<Line<'static>> {
    let head = |title: &str, room: usize| clip(&format!("── {title} {}", "─".repeat(room)), room);
    let rest = width.saturating_sub(LEFT + 1);
    let title = format!("{}┬{}", head(&titles.0, LEFT), head(&titles.1, rest));
    let mut lines = vec![app.theme.line(Tone::Quiet, title)];
    let height = left.len().max(right.len());
    let (mut left, mut right) = (left.into_iter(), right.into_iter());
    for _ in 0..height {
        let mut spans = room(left.next().unwrap_or_default(), LEFT).spans;
        spans.push(app.theme.span(Tone::Quiet, "│"));
        spans.extend(right.next().unwrap_or_default().spans);
        lines.push(Line::from(spans));
    }
    lines
}

/// The line, cut or padded to exactly `width` columns.
fn room(line: Line<'static>, width: usize) -> Line<'static> {
    let mut line = super::clipped(line, width);
    let blanks = width.saturating_sub(line.width());
    line.spans.push(Span::raw(" ".repeat(blanks)));
    line
}

/// The panels in order of usefulness; the first ones come first on the screen.
pub fn panels(app: &App, snapshot: &Snapshot, width: usize) -> Vec<Vec<Line<'static>>> {
    let window = app.window.word();
    let rest = width.saturating_sub(LEFT + 1);
    let cursors = format!(
        "cursors, set aside first, then oldest ({})",
        count(snapshot.total.cursors)
    );
    vec![
        beside(
            app,
            (format!("wait, {window}, waiting events counted"), cursors),
            waits(app, snapshot, LEFT),
            cursor_lines(app, snapshot, rest),
            width,
        ),
        beside(
            app,
            (format!("throughput {window}"), "nodes (Tab)".to_owned()),
            throughput(app, snapshot, LEFT),
            node_lines(app, rest),
            width,
        ),
        beside(
            app,
            (
                "namespaces (n)".to_owned(),
                "hooks, busiest first".to_owned(),
            ),
            namespace_lines(app, LEFT),
            hook_lines(app, snapshot, rest),
            width,
        ),
    ]
}

/// Panel of wait times over time, and of present backlogs.
pub fn waits(app: &App, snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let columns = width.saturating_sub(36).clamp(4, 120);
    let map = heat(&snapshot.history, columns);
    let running = |lane: &&crate::api::Lane| {
        use crate::api::LaneState::{Drained, Paused};
        !matches!(lane.state, Paused | Drained)
    };
    let flowing: u64 = snapshot
        .lanes
        .iter()
        .filter(running)
        .map(|lane| lane.backlog_flowing)
        .sum();
    let stopped: u64 = snapshot
        .lanes
        .iter()
        .filter(|lane| !running(lane))
        .map(|lane| lane.backlog)
        .sum();
    let running = snapshot.lanes.iter().filter(running);
    let stopped = stopped + running.map(|lane| lane.kept).sum::<u64>();
    let aside = snapshot.total.backlog.saturating_sub(flowing + stopped);
    let figure = |name: &str, events: u64| format!("  {name:<13} {:>8}", number(events, 8));
    let notes = [
        "  waiting now:".to_owned(),
        figure("set aside", aside),
        figure("stopped", stopped),
        figure("flowing", flowing),
        String::new(),
        "  log scale".to_owned(),
        "  .:-=+*#%@".to_owned(),
    ];
    let rows = CLASSES.iter().rev().zip(map).zip(notes);
    let mut lines: Vec<_> = rows
        .map(|((name, row), note)| {
            Line::from(format!("{name:>7} │{}│{note}", fit(&row, columns, true)))
        })
        .collect();
    let axis = format!(
        "        └{}┘",
        fit(&format!("-{}", app.window.word()), columns, false)
    );
    let axis = match columns > 8 {
        true => axis.replace("   ┘", "now┘"),
        false => axis,
    };
    lines.push(app.theme.line(Tone::Quiet, axis));
    lines
}

fn cursor_lines(app: &App, snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let names = width.saturating_sub(51).clamp(16, 50);
    let titles = format!(
        " {:<names$} {:>4} {:<9} {:>6} {:>8} {:>5} {}",
        "CURSOR", "LN", "CONDITION", "OLDEST", "BEHIND", "SHARE", "LAST"
    );
    let mut lines = vec![app.theme.line(Tone::Header, fit(&titles, width, false))];
    let all = snapshot.total.backlog.max(1) as f64;
    let line = |line: &CursorLine| {
        let name = format!("{} -> {}", line.stream, line.handler);
        let share = line.behind as f64 / all * 100.0;
        let share = match share < 1.0 {
            true => format!("{share:.1}%"),
            false => format!("{share:.0}%"),
        };
        let next = line
            .retry_at
            .map(|at| crate::text::duration(at.since(app.now)));
        let next = next
            .map(|next| format!("  try in {next}"))
            .unwrap_or_default();
        let text = format!(
            " {} {:>4} {:<9} {:>6} {:>8} {share:>5} {}{next}",
            fit(printable_line(&name).as_str(), names, false),
            line.lane,
            line.condition.word(),
            age(line.oldest_ms),
            number(line.behind, 8),
            printable_line(line.result.as_deref().unwrap_or("-"))
        );
        let severity = super::detail::severity_of(line.condition);
        app.theme.line(Tone::from(severity), cut(&text, width))
    };
    let shown = snapshot
        .cursors
        .iter()
        .filter(|line| app.shows_cursor(line));
    lines.extend(shown.take(CLASSES.len()).map(line));
    if lines.len() == 1 {
        lines.push(Line::from(" nothing waits"));
    }
    lines
}

fn throughput(app: &App, snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let columns = width.saturating_sub(34);
    let history = &snapshot.history;
    let most = |of: fn(&Sample) -> f64, now: f64| history.iter().map(of).fold(now, f64::max);
    let spark = |of: fn(&Sample) -> f64| {
        let drawn = sparks(history.iter().map(of), columns, app.theme.ascii);
        fit(&drawn, columns, true)
    };
    let came = |sample: &Sample| sample.in_per_s;
    let went = |sample: &Sample| sample.out_per_s;
    let waits = |sample: &Sample| sample.backlog as f64;
    let total = &snapshot.total;
    let peak = |of: fn(&Sample) -> f64, now: f64| rate(Some(most(of, now)));
    vec![
        Line::from(format!(
            " in      {} {:>7}/s peak {}",
            spark(came),
            rate(Some(total.in_per_s)),
            peak(came, total.in_per_s)
        )),
        Line::from(format!(
            " out     {} {:>7}/s peak {}",
            spark(went),
            rate(Some(total.out_per_s)),
            peak(went, total.out_per_s)
        )),
        Line::from(format!(
            " backlog {} {:>7}   max {}",
            spark(waits),
            number(total.backlog, 7),
            number(most(waits, total.backlog as f64) as u64, 7)
        )),
    ]
}

fn node_lines(app: &App, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![app.theme.line(Tone::Header, node_header(width))];
    let nodes = app.nodes();
    lines.extend(
        nodes
            .iter()
            .take(ROWS)
            .map(|node| node_line(app, node, width, false)),
    );
    if nodes.len() > ROWS {
        lines.push(Line::from(format!("  {} more: Tab", nodes.len() - ROWS)));
    }
    lines
}

fn namespace_lines(app: &App, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![app.theme.line(Tone::Header, namespace_header(width))];
    let all = app.namespaces();
    lines.extend(
        all.iter()
            .take(ROWS)
            .map(|line| namespace_line(app, line, width, false)),
    );
    if all.len() > ROWS {
        lines.push(Line::from(format!("  {} more: n", all.len() - ROWS)));
    }
    lines
}

fn hook_lines(app: &App, snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let room = width.saturating_sub(54).max(10);
    let titles = format!(
        " {:<15} {:>6} {:>6} {:>7}  {:<room$} {}",
        "HOOK", "IN/s", "NORMAL", "STREAMS", "HANDLERS", "VERIFY"
    );
    let mut lines = vec![app.theme.line(Tone::Header, fit(&titles, width, false))];
    for line in snapshot.hooks.iter().take(ROWS) {
        let paused = if line.paused { "paused, " } else { "" };
        let handlers = format!("{paused}{}", printable_line(&line.handlers));
        let text = format!(
            " {} {:>6} {:>6} {:>7}  {} {}",
            fit(line.hook.as_str(), 15, false),
            rate(Some(line.in_per_s)),
            rate(line.normal_per_s),
            number(line.streams, 7),
            fit(&handlers, room, false),
            printable_line(&line.verify)
        );
        let tone = if line.paused {
            Tone::Unusual
        } else {
            Tone::Plain
        };
        lines.push(app.theme.line(tone, cut(&text, width)));
    }
    let more = usize::try_from(snapshot.hooks_count)
        .unwrap_or(0)
        .saturating_sub(ROWS);
    if more > 0 {
        lines.push(Line::from(format!(" {} more", count(more as u64))));
    }
    lines
}
