//! Lists: the log, the nodes, and the namespaces.

use ratatui::text::Line;

use super::app::{App, severity};
use super::columns::{Column, Table, age, cut, fit, number, share, took};
use super::fold::Entry;
use super::frame::{WIDE, clock, ended, header, note, rule};
use super::theme::Tone;
use crate::api::{LogLine, NamespaceLine, NodeLine, Severity};
use crate::text::{count, counted, printable_line};

/// A row of a list, selected or not.
pub fn row(app: &App, text: String, severity: Severity, is_selected: bool) -> Line<'static> {
    let sign = if is_selected { '>' } else { ' ' };
    let text = format!("{sign}{}{text}", severity.mark());
    app.theme.row(Tone::from(severity), text, is_selected)
}

/// Index of the first row shown, so that the selected one is visible.
fn first(at: usize, room: usize) -> usize {
    (at + 1).saturating_sub(room.max(1))
}

/// The log, newest first, with the selected entry in full.
pub fn log(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![header(app, "log", width)];
    let log = app.log();
    let level = match app.level {
        Severity::Fine => "all",
        Severity::Unusual => "~ and !",
        Severity::Trouble => "! only",
    };
    let fold = match app.is_unfolded {
        true => "each in a line (x)",
        false => "like ones folded (x)",
    };
    lines.push(Line::from(cut(
        &format!(
            " {}   levels: {level} (1 2 3)   {fold}",
            counted(log.len() as u64, "entry", "entries")
        ),
        width,
    )));
    lines.extend(note(app, width));
    let selected = app.entry_row();
    let below = if height >= 20 { 5 } else { 0 };
    let room = height.saturating_sub(lines.len() + below + 2);
    let names = width.saturating_sub(50).clamp(12, 40);
    let columns = vec![
        Column::words("TIME", 8),
        Column::words("SCOPE", names),
        Column::words("WHAT", width.saturating_sub(names + 12)),
    ];
    let table = Table::new(columns, 1, width.saturating_sub(2));
    let titles = fit(&format!("  {}", table.header()), width, false);
    lines.push(app.theme.line(Tone::Header, titles));
    let at = log
        .iter()
        .position(|entry| Some(*entry) == selected)
        .unwrap_or(0);
    let room_for_what = table.width("WHAT");
    for entry in log.iter().skip(first(at, room)).take(room) {
        let (line, folded) = (entry.line, folded(entry, width));
        let what = printable_line(&line.what);
        let what = cut(what.as_str(), room_for_what.saturating_sub(folded.len())) + &folded;
        let cells = [
            ("TIME", clock(line.at).trim_end_matches('Z').to_owned()),
            ("SCOPE", printable_line(&line.scope).to_string()),
            ("WHAT", what),
        ];
        let is_selected = Some(*entry) == selected;
        lines.push(row(
            app,
            table.named_row(&cells),
            line.severity,
            is_selected,
        ));
    }
    if log.is_empty() {
        lines.push(Line::from(
            " nothing that fits has happened since the daemon began",
        ));
    }
    if let Some(Entry { line, .. }) = selected.filter(|_| below > 0) {
        let used = lines.len() + below + 1;
        lines.extend(std::iter::repeat_n(
            Line::default(),
            height.saturating_sub(used),
        ));
        lines.push(rule(app, "selected", width));
        lines.extend(whole(line, width, below - 1));
    }
    ended(app, lines, width, height)
}

/// One entry of the log.
pub fn log_line(app: &App, entry: &Entry<'_>, width: usize) -> Line<'static> {
    let line = entry.line;
    let time = clock(line.at);
    let text = format!(
        " {} {} {}  {}",
        time.trim_end_matches('Z'),
        line.severity.mark(),
        printable_line(&line.scope),
        printable_line(&line.what)
    );
    let folded = folded(entry, width);
    let text = cut(&text, width.saturating_sub(folded.len())) + &folded;
    app.theme.line(Tone::from(line.severity), text)
}

/// Number of entries in a group, and the key that opens them.
fn folded(entry: &Entry<'_>, width: usize) -> String {
    match entry.folded {
        0 => String::new(),
        like if width >= WIDE => format!("   ({} like it folded, x)", count(like as u64)),
        like => format!(" ({} folded, x)", count(like as u64)),
    }
}

fn whole(line: &LogLine, width: usize, room: usize) -> Vec<Line<'static>> {
    let head = format!(" {}   {}", line.at, printable_line(&line.scope));
    let what = printable_line(&line.what);
    let parts = super::columns::wrapped(what.as_str(), width.saturating_sub(2).max(10));
    let parts = parts.into_iter().map(|part| Line::from(format!(" {part}")));
    let lines = std::iter::once(Line::from(cut(&head, width))).chain(parts);
    lines.take(room).collect()
}

fn node_columns() -> Vec<Column> {
    vec![
        Column::words("NODE", 12).narrow(2, 8),
        Column::words("OWNS", 20).narrow(1, 14),
        Column::numbers("BUSY", 5),
        Column::numbers("CPU", 5),
        Column::numbers("COMMIT99", 8),
        Column::numbers("FSYNC99", 7).gone(5),
        Column::numbers("BEAT", 5).gone(4),
        Column::numbers("UP", 6),
        Column::words("VERSION", 8).gone(3),
    ]
}

/// Titles of the table of nodes.
pub fn node_header(width: usize) -> String {
    let table = Table::new(node_columns(), 1, width.saturating_sub(2));
    fit(&format!("  {}", table.header()), width, false)
}

/// One node.
pub fn node_line(app: &App, node: &NodeLine, width: usize, is_selected: bool) -> Line<'static> {
    let table = Table::new(node_columns(), 1, width.saturating_sub(2));
    let state = if node.leaving { " (leaving)" } else { "" };
    let cpu = node.cpu.map(|cpu| format!("{cpu:.1}c"));
    let version = node.version.as_deref().unwrap_or("-");
    let cells = [
        ("NODE", printable_line(&node.node).to_string() + state),
        ("OWNS", owns(node, table.width("OWNS"))),
        ("BUSY", share(node.busy)),
        ("CPU", cpu.unwrap_or_else(|| "-".to_owned())),
        ("COMMIT99", took(node.commit_p99_ms)),
        ("FSYNC99", took(node.fsync_p99_ms)),
        ("BEAT", age(node.beat_ms)),
        ("UP", age(node.up_ms)),
        ("VERSION", printable_line(version).to_string()),
    ];
    row(app, table.named_row(&cells), severity(node), is_selected)
}

/// The lanes of a node in this namespace, and, if there is room, the number of its other lanes.
fn owns(node: &NodeLine, width: usize) -> String {
    let others = node.lanes.saturating_sub(node.lanes_here);
    let here = match node.lanes_here {
        0 => "no lane here".to_owned(),
        1 => format!("1 lane {}", node.owns),
        n => format!("{n} lanes {}", node.owns),
    };
    let whole = format!("{here}, {others} other");
    match others > 0 && whole.len() <= width {
        true => whole,
        false => here,
    }
}

/// Every node; unusual ones first.
pub fn nodes(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![header(app, "nodes", width)];
    lines.extend(note(app, width));
    lines.push(app.theme.line(Tone::Header, node_header(width)));
    let nodes = app.nodes();
    let selected = app.node_name();
    let is_selected = |node: &&NodeLine| Some(&node.node) == selected.as_ref();
    let at = nodes.iter().position(is_selected).unwrap_or(0);
    let room = height.saturating_sub(lines.len() + 1);
    let shown = nodes.iter().skip(first(at, room)).take(room);
    lines.extend(shown.map(|node| node_line(app, node, width, is_selected(node))));
    ended(app, lines, width, height)
}

fn namespace_columns() -> Vec<Column> {
    vec![
        Column::words("NAMESPACE", 16).narrow(1, 10),
        Column::numbers("LANES", 5),
        Column::numbers("GEN", 4),
        Column::numbers("STREAMS", 7),
        Column::numbers("HELD", 4),
        Column::numbers("OLDEST", 6),
        Column::numbers("FLOW", 6),
        Column::numbers("BACKLOG", 8),
    ]
}

/// Titles of the table of namespaces.
pub fn namespace_header(width: usize) -> String {
    let table = Table::new(namespace_columns(), 1, width.saturating_sub(2));
    fit(&format!("  {}", table.header()), width, false)
}

/// One namespace.
pub fn namespace_line(
    app: &App,
    line: &NamespaceLine,
    width: usize,
    is_selected: bool,
) -> Line<'static> {
    let table = Table::new(namespace_columns(), 1, width.saturating_sub(2));
    let cells = [
        ("NAMESPACE", line.namespace.to_string()),
        ("LANES", line.lanes.to_string()),
        ("GEN", line.generation.to_string()),
        ("STREAMS", number(line.streams, 7)),
        ("HELD", count(line.set_aside)),
        ("OLDEST", age(line.oldest_ms)),
        ("FLOW", age(line.flow_ms)),
        ("BACKLOG", number(line.backlog, 8)),
    ];
    let severity = line.severity;
    row(app, table.named_row(&cells), severity, is_selected)
}

/// Every namespace; Enter opens it.
pub fn namespaces(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![header(app, "namespaces", width)];
    lines.extend(note(app, width));
    lines.push(app.theme.line(Tone::Header, namespace_header(width)));
    let all = app.namespaces();
    let selected = app.namespace_name();
    let is_selected = |line: &&NamespaceLine| Some(&line.namespace) == selected.as_ref();
    let at = all.iter().position(is_selected).unwrap_or(0);
    let room = height.saturating_sub(lines.len() + 1);
    let shown = all.iter().skip(first(at, room)).take(room);
    lines.extend(shown.map(|line| namespace_line(app, line, width, is_selected(line))));
    ended(app, lines, width, height)
}
