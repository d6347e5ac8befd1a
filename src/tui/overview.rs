//! The first screen: whether the data is current, how late the namespace is, where the cause lies and
//! whether more lanes help; then the lanes as evidence.

use ratatui::text::{Line, Span};

use super::app::{App, Link};
use super::chart::{bar, sparks};
use super::columns::{Column, Table, age, cut, fit, number, paragraph, rate, share, took, wrapped};
use super::fold;
use super::frame::{WIDE, clock, eta, figure, foot, header, rule, trust};
use super::lists::{log_line, node_header, node_line};
use super::theme::Tone;
use crate::api::{Class, Lane, Severity, Snapshot, Total, Verdict, how_many_more};
use crate::text::{count, printable_line, short};

/// The overview at 60x16 characters or more.
pub fn whole(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![header(app, "", width)];
    let Some(snapshot) = app.snapshot() else {
        lines.push(Line::default());
        lines.push(Line::from(match &app.link {
            Link::Live => " waiting for the daemon".to_owned(),
            Link::Lost { why, .. } => format!(" {}", printable_line(why)),
        }));
        return lines;
    };
    lines.extend(lost(app, width));
    lines.push(totals(app, snapshot, width));
    lines.extend(verdict(app, snapshot, width, height));
    let foot = foot(app, width);
    if app.shows_heat {
        lines.push(rule(
            app,
            &format!("wait, {}, waiting events counted", app.window.word()),
            width,
        ));
        lines.extend(super::wide::waits(app, snapshot, width));
    }
    let room = height.saturating_sub(lines.len() + 1);
    let below = below(
        app,
        snapshot,
        width,
        room.saturating_sub(rows_wanted(app, width)),
    );
    let room = room.saturating_sub(below.len()).max(3);
    lines.extend(table(app, width, room));
    lines.extend(below);
    let blanks = height.saturating_sub(lines.len() + 1);
    lines.extend(std::iter::repeat_n(Line::default(), blanks));
    lines.push(foot);
    lines
}

fn lost(app: &App, width: usize) -> Option<Line<'static>> {
    if let (Link::Live, Some(since)) = (&app.link, app.snapshot()?.old_since) {
        let since = since.clock_at(app.now);
        let text = format!(" SHOWING OLD DATA from {since}: the database does not answer");
        return Some(app.theme.line(Tone::Trouble, cut(&text, width)));
    }
    let Link::Lost { why, .. } = &app.link else {
        return None;
    };
    let from = app.latest.as_ref().map(|seen| clock(seen.at))?;
    let text = format!(" SHOWING OLD DATA from {from}: {}", printable_line(why));
    Some(app.theme.line(Tone::Trouble, cut(&text, width)))
}

fn totals(app: &App, snapshot: &Snapshot, width: usize) -> Line<'static> {
    let total = &snapshot.total;
    let slope = slope(total);
    let eta = eta(total.eta, total.eta_ms);
    let (gap, held) = match width >= WIDE {
        true => {
            let (waiting, held) = (total.waiting, total.held);
            (
                "   ",
                format!("{} (waiting {waiting}, held {held})", total.set_aside),
            )
        }
        false => ("  ", total.set_aside.to_string()),
    };
    let ages = format!(
        " OLDEST {}{gap}FLOW {}{gap}",
        age(total.oldest_ms),
        age(total.flow_ms)
    );
    let (backlog, came, went) = (
        figure(app, total.backlog, 9),
        rate(Some(total.in_per_s)),
        rate(Some(total.out_per_s)),
    );
    let rest = match width >= WIDE {
        true => format!(
            "   BACKLOG {backlog} {slope}   IN {came}/s   OUT {went}/s   DEAD {}   ETA {eta}",
            count(total.dead)
        ),
        false if width < 78 => format!("  ETA {eta}  BACKLOG {} {slope}", short(total.backlog)),
        false => format!("  ETA {eta}  BACKLOG {backlog} {slope} IN {came} OUT {went}"),
    };
    let tone = match total.set_aside {
        0 => Tone::Plain,
        _ => Tone::from(worst_lane(snapshot).max(Severity::Unusual)),
    };
    Line::from(vec![
        Span::raw(ages),
        app.theme.span(tone, format!("HELD {held}")),
        Span::raw(rest),
    ])
}

/// Change of the backlog.
fn slope(total: &Total) -> String {
    match total.backlog_per_s.round() as i64 {
        0 => "=0/s".to_owned(),
        up @ 1.. => format!("▲{}/s", count(up.unsigned_abs())),
        down => format!("▼{}/s", count(down.unsigned_abs())),
    }
}

fn worst_lane(snapshot: &Snapshot) -> Severity {
    let lanes = snapshot.lanes.iter().filter(|lane| lane.set_aside > 0);
    lanes.map(|lane| lane.severity).max().unwrap_or_default()
}

/// The worst verdict in two sentences.
fn verdict(app: &App, snapshot: &Snapshot, width: usize, height: usize) -> Vec<Line<'static>> {
    let Some(worst) = snapshot.verdicts.first() else {
        return Vec::new();
    };
    let others = &snapshot.verdicts[1..];
    let mut lines = sentences(app, worst, others, width, height / 4);
    for operation in &snapshot.operations {
        let text = format!("under way: {}", operation.told());
        let text = printable_line(&text).to_string();
        let parts = paragraph(&text, "", width.saturating_sub(4), 2);
        lines.extend(parts.iter().map(|part| Line::from(format!("    {part}"))));
    }
    if let Some(note) = &app.note {
        let text = format!(" {}", printable_line(note));
        lines.push(app.theme.line(Tone::Unusual, cut(&text, width)));
    }
    lines
}

/// A verdict, the number of further ones, and the next command. The first sentence takes at most `most`
/// lines.
pub fn sentences(
    app: &App,
    worst: &Verdict,
    others: &[Verdict],
    width: usize,
    most: usize,
) -> Vec<Line<'static>> {
    let more = how_many_more(others);
    let (mark, tone) = match (worst.class, worst.severity) {
        (Class::Ok, _) => ("", Tone::Good),
        (_, Severity::Trouble) => ("!! ", Tone::Trouble),
        _ => ("~  ", Tone::Unusual),
    };
    let first = format!(
        "{mark}{}  {}",
        worst.class.word(),
        printable_line(&worst.text)
    );
    let room = width.saturating_sub(4);
    let parts = paragraph(&first, &more, room, most.max(2));
    let parts = parts.into_iter().enumerate();
    let indent = |nth| if nth == 0 { " " } else { "    " };
    let line = |(nth, part)| {
        let tone = if nth > 0 && tone == Tone::Unusual {
            Tone::Plain
        } else {
            tone
        };
        app.theme.line(tone, format!("{}{part}", indent(nth)))
    };
    let mut lines: Vec<_> = parts.map(line).collect();
    if let Some(second) = &worst.more {
        let parts = paragraph(printable_line(second).as_str(), "", room, most.max(2)).into_iter();
        lines.extend(parts.map(|part| Line::from(format!("    {part}"))));
    }
    if let Some(next) = &worst.next {
        let parts = wrapped(printable_line(&format!("Next: {next}")).as_str(), room);
        lines.extend(parts.iter().map(|part| Line::from(format!("    {part}"))));
    }
    lines
}

/// The columns; `flies` tells whether any lane delivers, because an empty column is useless.
fn columns(width: usize, label: usize, node: usize, flies: bool) -> Vec<Column> {
    let bar = if width >= WIDE { 16 } else { 10 };
    let mut columns = vec![
        Column::numbers("LN", label),
        Column::words("STATE", 8),
        Column::numbers("HELD", 4),
        Column::numbers("OLDEST", 6),
        Column::numbers("FLOW", 5),
        Column::numbers("BACKLOG", bar).narrow(9, 7),
        Column::numbers("IN/s", 4),
        Column::numbers("OUT/s", 5).gone(10),
        Column::numbers("WAIT50", 6).gone(12),
        Column::numbers("p90", 5).gone(6),
        Column::numbers("p99", 5),
        Column::numbers("max", 5).gone(5),
        Column::numbers("WORK50", 6).gone(7),
        Column::numbers("WORK99", 6).gone(11),
        Column::numbers("BUSY", 4).gone(4),
        Column::numbers("FLY", 3).gone(1),
        Column::numbers("FAIL", 4).gone(3),
        Column::numbers("CURS", 4).gone(3),
        Column::numbers("ETA", 6),
        Column::words("NODE", node).gone(8),
        Column::words("TREND 15m", 10).gone(2),
    ];
    if width < WIDE {
        let narrow = [
            "p90",
            "max",
            "WORK50",
            "BUSY",
            "FLY",
            "FAIL",
            "CURS",
            "NODE",
            "TREND 15m",
        ];
        columns.retain(|column| !narrow.contains(&column.title));
    }
    columns.retain(|column| flies || column.title != "FLY");
    columns
}

/// The columns that fit. Without the median wait, the title of the other wait names its percentile.
fn shown_columns(mut columns: Vec<Column>, room: usize) -> Table {
    let table = Table::new(columns.clone(), 1, room);
    if table.width("WAIT50") > 0 {
        return table;
    }
    for p99 in columns.iter_mut().filter(|column| column.title == "p99") {
        *p99 = Column::numbers("WAIT99", 6);
    }
    Table::new(columns, 1, room)
}

fn table(app: &App, width: usize, room: usize) -> Vec<Line<'static>> {
    let lanes = app.lanes();
    let generation = app.snapshot().map_or(0, |seen| seen.generation);
    let labels = lanes.iter().map(|lane| label(lane, generation).len());
    let nodes = lanes.iter().filter_map(|lane| lane.node.as_deref());
    let node = nodes.map(|node| node.chars().count()).max().unwrap_or(0);
    let flies = lanes.iter().any(|lane| lane.in_flight.is_some());
    let label = labels.max().unwrap_or(0).max(2);
    let columns = columns(width, label, node.clamp(4, 8), flies);
    let columns = shown_columns(columns, width.saturating_sub(2));
    let mut lines = vec![app.theme.line(
        Tone::Header,
        fit(&format!("  {}", columns.header()), width, false),
    )];
    let at = app.selected(&lanes).unwrap_or(0);
    let has_total = width >= WIDE && room > lanes.len() + 1;
    let rows = room.saturating_sub(1);
    let has_more = lanes.len() > rows;
    let rows = if has_more {
        rows.saturating_sub(1)
    } else {
        rows
    };
    let first = (at + 1)
        .saturating_sub(rows)
        .min(lanes.len().saturating_sub(rows));
    let most = lanes.iter().map(|lane| lane.backlog).max().unwrap_or(0);
    for (nth, lane) in lanes.iter().enumerate().skip(first).take(rows) {
        lines.push(row(app, lane, &columns, most, nth == at, generation));
    }
    if has_more {
        let last = (first + rows).min(lanes.len());
        let text = format!("  rows {}-{last} of {}  ", first + 1, lanes.len());
        let room = width.saturating_sub(text.len() + FOLDED.len());
        lines.push(Line::from(text + &strip(app, room)));
    }
    if lanes.is_empty() {
        let filter = printable_line(app.filter.text());
        lines.push(Line::from(format!("  no lane fits {filter}")));
    } else if let (true, Some(seen)) = (has_total, app.snapshot()) {
        lines.push(total_row(app, &seen.total, &columns));
    }
    lines
}

/// Number of rows that the table asks for.
fn rows_wanted(app: &App, width: usize) -> usize {
    app.lanes().len().min(8) + if width >= WIDE { 2 } else { 1 }
}

fn total_row(app: &App, total: &Total, table: &Table) -> Line<'static> {
    let (wait, work) = (total.wait_ms.as_ref(), total.work_ms.as_ref());
    let cells = [
        ("LN", "=".to_owned()),
        ("STATE", "total".to_owned()),
        ("HELD", total.set_aside.to_string()),
        ("OLDEST", age(total.oldest_ms)),
        ("FLOW", age(total.flow_ms)),
        ("BACKLOG", figure(app, total.backlog, 9)),
        ("IN/s", rate(Some(total.in_per_s))),
        ("OUT/s", rate(Some(total.out_per_s))),
        ("WAIT50", took(wait.map(|wait| wait.p50))),
        ("p90", took(wait.map(|wait| wait.p90))),
        ("p99", took(wait.map(|wait| wait.p99))),
        ("max", took(wait.map(|wait| wait.max))),
        ("WORK50", took(work.map(|work| work.p50))),
        ("WORK99", took(work.map(|work| work.p99))),
        ("BUSY", share(total.busiest)),
        ("FLY", "-".to_owned()),
        ("FAIL", number(total.failures, 4)),
        ("CURS", plain(total.cursors)),
        ("ETA", eta(total.eta, total.eta_ms)),
    ];
    app.theme
        .line(Tone::Quiet, format!("  {}", table.named_row(&cells)))
}

/// All digits in four characters, as far as possible.
fn plain(number: u64) -> String {
    match number {
        ..10_000 => number.to_string(),
        _ => super::columns::number(number, 4),
    }
}

/// Longest note on the number of lanes that a character of the strip stands for.
const FOLDED: &str = " (1,024 each)";

/// Every lane as one character, in order; if there are too many, a character shows the worst of
/// several.
fn strip(app: &App, room: usize) -> String {
    use crate::api::LaneState::{Active, NoOwner};
    let Some(seen) = app.snapshot() else {
        return String::new();
    };
    let mark = |lane: &Lane| match lane.state {
        NoOwner => 'X',
        Active if lane.flow_ms.is_some_and(|ms| ms > seen.crit_ms) => '#',
        Active if lane.set_aside > 0 => 'h',
        Active => '.',
        _ => '~',
    };
    let rank = |mark: &char| "X#h~.".find(*mark);
    let each = seen.lanes.len().div_ceil(room.max(1)).max(1);
    let worst = |lanes: &[Lane]| lanes.iter().map(mark).min_by_key(rank).unwrap_or('.');
    let strip: String = seen.lanes.chunks(each).map(worst).collect();
    match each {
        1 => strip,
        each => format!("{strip} ({} each)", count(each as u64)),
    }
}

/// Label of a lane; a lane of an older set includes its generation.
fn label(lane: &Lane, generation: i64) -> String {
    match lane.id.generation == generation {
        true => lane.id.index.to_string(),
        false => format!("{}-{}", lane.id.generation, lane.id.index),
    }
}

fn row(
    app: &App,
    lane: &Lane,
    table: &Table,
    most: u64,
    is_selected: bool,
    generation: i64,
) -> Line<'static> {
    let width = table.width("BACKLOG");
    let backlog = match width > 7 {
        true => {
            let wide = width - 7;
            let bar = bar(lane.backlog, most, wide, app.theme.ascii);
            format!("{bar} {}", fit(&figure(app, lane.backlog, 6), 6, true))
        }
        false => figure(app, lane.backlog, 7),
    };
    let eta = eta(lane.eta, lane.eta_ms);
    let wait = lane.wait_ms.as_ref();
    let work = lane.work_ms.as_ref();
    let cells = [
        ("LN", label(lane, generation)),
        ("STATE", lane.state.word().to_owned()),
        ("HELD", lane.set_aside.to_string()),
        ("OLDEST", age(lane.oldest_ms)),
        ("FLOW", age(lane.flow_ms)),
        ("BACKLOG", backlog),
        ("IN/s", rate(lane.in_per_s)),
        ("OUT/s", rate(lane.out_per_s)),
        ("WAIT50", took(wait.map(|wait| wait.p50))),
        ("p90", took(wait.map(|wait| wait.p90))),
        ("p99", took(wait.map(|wait| wait.p99))),
        ("WAIT99", took(wait.map(|wait| wait.p99))),
        ("max", took(wait.map(|wait| wait.max))),
        ("WORK50", took(work.map(|work| work.p50))),
        ("WORK99", took(work.map(|work| work.p99))),
        ("BUSY", share(lane.busy)),
        ("FLY", lane.in_flight.map_or_else(|| "-".to_owned(), count)),
        ("FAIL", number(lane.failures, 4)),
        ("CURS", plain(lane.cursors)),
        ("ETA", eta),
        (
            "NODE",
            printable_line(lane.node.as_deref().unwrap_or("-")).to_string(),
        ),
        (
            "TREND 15m",
            sparks(lane.trend.iter().map(|n| *n as f64), 10, app.theme.ascii),
        ),
    ];
    let text = table.named_row(&cells);
    let sign = if is_selected { '>' } else { ' ' };
    let text = format!("{sign}{}{text}", lane.severity.mark());
    app.theme.row(Tone::from(lane.severity), text, is_selected)
}

/// The part below the table, as far as it fits.
fn below(app: &App, snapshot: &Snapshot, width: usize, room: usize) -> Vec<Line<'static>> {
    match width >= WIDE {
        true => below_wide(app, snapshot, width, room),
        false => below_narrow(app, snapshot, width, room),
    }
}

/// Panels from the top as far as they fit, then the log in the remaining lines.
fn below_wide(app: &App, snapshot: &Snapshot, width: usize, room: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for panel in super::wide::panels(app, snapshot, width) {
        // A short log is more useful than the panel that would replace it.
        if lines.len() + panel.len() + 3 <= room {
            lines.extend(panel);
        }
    }
    let left = room.saturating_sub(lines.len());
    if left >= 2 {
        lines.extend(log(app, snapshot, width, left));
    }
    lines
}

/// Chart, log and nodes. If there is little room, the nodes are omitted first, then the log.
fn below_narrow(app: &App, snapshot: &Snapshot, width: usize, room: usize) -> Vec<Line<'static>> {
    let chart = chart(app, snapshot, width);
    let nodes = nodes(app, width);
    let mut left = room.saturating_sub(chart.len());
    if left == 0 && room == 0 {
        return Vec::new();
    }
    let mut lines = chart;
    if left >= nodes.len() + 3 {
        left -= nodes.len();
        lines.extend(nodes);
    }
    if left >= 2 {
        lines.extend(log(app, snapshot, width, left));
    }
    lines
}

fn chart(app: &App, snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let ascii = app.theme.ascii;
    // The words of the line take forty columns.
    let wide = (width.saturating_sub(40) / 2).min(60);
    let of = |value: fn(&crate::api::Sample) -> f64, wide| {
        sparks(snapshot.history.iter().map(value), wide, ascii)
    };
    let most = snapshot.history.iter().map(|sample| sample.backlog).max();
    let most = most.max(Some(snapshot.total.backlog));
    let title = format!(
        "backlog {} {} max {}   in {}  out {}",
        app.window.word(),
        of(|sample| sample.backlog as f64, wide),
        super::columns::number(most.unwrap_or(0), 5),
        of(|sample| sample.in_per_s, wide / 2),
        of(|sample| sample.out_per_s, wide / 2),
    );
    vec![rule(app, &title, width)]
}

fn nodes(app: &App, width: usize) -> Vec<Line<'static>> {
    let nodes = app.nodes();
    let mut lines = vec![app.theme.line(Tone::Header, node_header(width))];
    lines.extend(
        nodes
            .iter()
            .take(4)
            .map(|node| node_line(app, node, width, false)),
    );
    lines
}

fn log(app: &App, snapshot: &Snapshot, width: usize, room: usize) -> Vec<Line<'static>> {
    let mut lines = vec![rule(app, "log (l: all)", width)];
    let log = fold::entries(snapshot.log.iter(), app.is_unfolded);
    let shown = log.iter().take(room.saturating_sub(1));
    lines.extend(shown.map(|entry| log_line(app, entry, width)));
    lines
}

/// Content of a screen too small for a table, most important first.
pub fn small(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    let Some(snapshot) = app.snapshot() else {
        return vec![Line::from(" waiting for the daemon")];
    };
    let (right, tone) = trust(app);
    let node = printable_line(&snapshot.node);
    let mut lines = vec![Line::from(vec![
        Span::raw(format!(" {node} ")),
        app.theme.span(tone, right),
    ])];
    let total = &snapshot.total;
    lines.push(Line::from(format!(
        " oldest {}  flow {}",
        age(total.oldest_ms),
        age(total.flow_ms)
    )));
    let slope = slope(total);
    lines.push(Line::from(format!(
        " backlog {} {slope}",
        count(total.backlog)
    )));
    if let Some(worst) = snapshot.verdicts.first() {
        let sign = match worst.severity {
            Severity::Trouble => "!!",
            Severity::Unusual => "~ ",
            Severity::Fine => "  ",
        };
        let text = format!("{} {}", worst.class.word(), worst.text);
        // Reserves room for the finding and for whether lanes help, however long either is.
        let room = width.saturating_sub(3);
        let next = worst.next.iter();
        let next = next.flat_map(|next| wrapped(printable_line(next).as_str(), room));
        let others = how_many_more(&snapshot.verdicts[1..]);
        let first = paragraph(printable_line(&text).as_str(), &others, room, 3);
        let more = worst.more.iter();
        let more = more.flat_map(|more| paragraph(printable_line(more).as_str(), "", room, 3));
        for (nth, part) in first.into_iter().chain(more).chain(next).enumerate() {
            let sign = if nth == 0 { sign } else { "  " };
            let tone = match (nth, worst.severity) {
                (1.., Severity::Unusual) => Tone::Plain,
                (_, severity) => Tone::from(severity),
            };
            lines.push(app.theme.line(tone, format!("{sign} {part}")));
        }
    }
    for lane in app.lanes() {
        if lane.severity == Severity::Fine || lines.len() + 1 >= height {
            continue;
        }
        let what = match lane.set_aside {
            0 => count(lane.backlog),
            held => format!("HELD {}", count(held)),
        };
        let text = format!(
            "{} {} {}  {what}  {}",
            lane.severity.mark(),
            lane.id.index,
            lane.state.word(),
            eta(lane.eta, lane.eta_ms)
        );
        lines.push(app.theme.line(Tone::from(lane.severity), text));
    }
    if lines.len() < height {
        lines.push(app.theme.line(Tone::Quiet, "(60x16 shows the table)"));
    }
    lines
}
