//! The first screen: can it be trusted, how late is it, whose fault is it, do more lanes help; then the
//! lanes, which prove it.

use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::app::{App, Link, Sort, View};
use super::chart::{CLASSES, bar, heat, sparks};
use super::columns::{Column, Table, age, cut, fit, number, rate, share, took, wrapped};
use super::theme::Tone;
use crate::api::{Class, Lane, NodeLine, Severity, Snapshot, Verdict};
use crate::domain::time::Timestamp;
use crate::text::{count, duration, printable_line};

/// From this width on there is room for more than the lanes.
const WIDE: usize = 120;

/// The overview at 60x16 and more.
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
    lines.extend(lost(app));
    lines.push(totals(snapshot, width));
    lines.extend(verdict(app, snapshot, width));
    let foot = foot(app, width);
    let below = below(app, snapshot, width, height.saturating_sub(lines.len() + 3));
    let room = height.saturating_sub(lines.len() + below.len() + 1).max(3);
    let table = table(app, width, room);
    lines.extend(table);
    lines.extend(below);
    let blanks = height.saturating_sub(lines.len() + 1);
    lines.extend(std::iter::repeat_n(Line::default(), blanks));
    lines.push(foot);
    lines
}

/// The first line of every screen.
pub fn header(app: &App, place: &str, width: usize) -> Line<'static> {
    let snapshot = app.snapshot();
    let node = snapshot.map_or("-", |seen| seen.node.as_str());
    let node = printable_line(node);
    let left = match (place, snapshot) {
        ("", Some(seen)) => {
            let mut left = format!(
                " hooklane  {node}   {}: {} lanes gen {}, {} node{}",
                seen.namespace,
                seen.lanes.len(),
                seen.generation,
                seen.nodes.len(),
                if seen.nodes.len() == 1 { "" } else { "s" }
            );
            if width >= WIDE {
                left += &format!(
                    ", {} hooks, {} streams   you: {}",
                    count(seen.hooks_count),
                    count(seen.streams_count),
                    printable_line(&seen.viewer.name)
                );
            }
            left
        }
        ("", None) => format!(" hooklane  {node}"),
        (place, _) => format!(" {node} > {place}"),
    };
    let (right, tone) = trust(app);
    let room = width.saturating_sub(right.len() + 2);
    Line::from(vec![
        Span::raw(fit(&left, room, false)),
        Span::raw(" "),
        app.theme.span(tone, right),
    ])
}

/// Whether the screen can be trusted, and its time.
fn trust(app: &App) -> (String, Tone) {
    let clock = clock(app.now);
    if let Some(frozen) = &app.frozen {
        let ago = duration(app.now.since(frozen.at));
        let text = format!("FROZEN {}, {ago} ago", self::clock(frozen.at));
        return (text, Tone::Unusual);
    }
    match &app.link {
        Link::Live => {
            let every = duration(app.interval);
            let every = every.replace(".0s", "s");
            (format!("LIVE {every}  {clock}"), Tone::Good)
        }
        Link::Lost {
            since,
            retry_at,
            tries,
            ..
        } => {
            let lost = duration(app.now.since(*since));
            let retry = duration(retry_at.since(app.now));
            let text = format!("LOST {lost}  retry in {retry} ({tries})");
            (text, Tone::Trouble)
        }
    }
}

/// `02:59:14Z`
pub fn clock(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(11..19)
        .map_or(text.clone(), |time| format!("{time}Z"))
}

fn lost(app: &App) -> Option<Line<'static>> {
    let Link::Lost { why, .. } = &app.link else {
        return None;
    };
    let from = app.latest.as_ref().map(|seen| clock(seen.at))?;
    let text = format!(" SHOWING OLD DATA from {from}: {}", printable_line(why));
    Some(app.theme.line(Tone::Trouble, text))
}

fn totals(snapshot: &Snapshot, width: usize) -> Line<'static> {
    let total = &snapshot.total;
    let slope = total.backlog_per_s;
    let slope = match slope.round() as i64 {
        0 => "=0/s".to_owned(),
        up @ 1.. => format!("▲{}/s", count(up.unsigned_abs())),
        down => format!("▼{}/s", count(down.unsigned_abs())),
    };
    let eta = total.eta.clone().unwrap_or_else(|| match total.eta_ms {
        Some(ms) => format!("~{}", age(Some(ms))),
        None => "-".to_owned(),
    });
    let held = match width >= WIDE {
        true => format!(
            "{} (waiting {}, held {})",
            total.set_aside, total.waiting, total.held
        ),
        false => total.set_aside.to_string(),
    };
    Line::from(format!(
        " OLDEST {}  FLOW {}  HELD {held}  ETA {eta}  BACKLOG {} {slope} IN {} OUT {}",
        age(total.oldest_ms),
        age(total.flow_ms),
        number(total.backlog, 9),
        rate(Some(total.in_per_s)),
        rate(Some(total.out_per_s)),
    ))
}

/// The worst of what there is to say, in two sentences.
fn verdict(app: &App, snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let Some(worst) = snapshot.verdicts.first() else {
        return Vec::new();
    };
    let others = &snapshot.verdicts[1..];
    let mut lines = sentences(app, worst, others, width);
    if let Some(note) = &app.note {
        let text = format!(" {}", printable_line(note));
        lines.push(app.theme.line(Tone::Unusual, cut(&text, width)));
    }
    lines
}

/// A verdict, and how many more there are.
pub fn sentences(
    app: &App,
    worst: &Verdict,
    others: &[Verdict],
    width: usize,
) -> Vec<Line<'static>> {
    let more = others.iter().filter(|other| !other.class.is_well());
    let more = match more.count() {
        0 => String::new(),
        more => format!(" (+{more} more)"),
    };
    let (mark, tone) = match (worst.class, worst.severity) {
        (Class::Ok, _) => ("", Tone::Good),
        (_, Severity::Trouble) => ("!! ", Tone::Trouble),
        _ => ("~  ", Tone::Unusual),
    };
    let first = format!(
        "{mark}{}  {}{more}",
        worst.class.word(),
        printable_line(&worst.text)
    );
    let room = width.saturating_sub(4);
    let parts = wrapped(&first, room).into_iter().take(2).enumerate();
    let indent = |nth| if nth == 0 { " " } else { "    " };
    let line = |(nth, part)| app.theme.line(tone, format!("{}{part}", indent(nth)));
    let mut lines: Vec<_> = parts.map(line).collect();
    if let Some(second) = &worst.more {
        let parts = wrapped(printable_line(second).as_str(), room);
        let parts = parts.into_iter().take(2);
        lines.extend(parts.map(|part| Line::from(format!("    {part}"))));
    }
    lines
}

fn columns(width: usize, label: usize) -> Vec<Column> {
    let bar = if width >= WIDE { 17 } else { 10 };
    let mut columns = vec![
        Column::numbers("LN", label),
        Column::words("STATE", 8),
        Column::numbers("HELD", 4),
        Column::numbers("OLDEST", 6),
        Column::numbers("FLOW", 5),
        Column::numbers("BACKLOG", bar).narrow(8, 7),
        Column::numbers("IN/s", 4),
        Column::numbers("OUT/s", 5).gone(9),
        Column::numbers("WAIT50", 6).gone(11),
        Column::numbers("p90", 5).gone(5),
        Column::numbers("p99", 5),
        Column::numbers("max", 5).gone(4),
        Column::numbers("WORK50", 6).gone(6),
        Column::numbers("WORK99", 6).gone(10),
        Column::numbers("BUSY", 4).gone(3),
        Column::numbers("CURS", 5).gone(2),
        Column::numbers("ETA", 6),
        Column::words("NODE", 10).gone(7),
        Column::words("TREND 15m", 10).gone(1),
    ];
    if width < WIDE {
        let narrow = ["p90", "max", "WORK50", "BUSY", "CURS", "TREND 15m"];
        columns.retain(|column| !narrow.contains(&column.title));
    }
    columns
}

fn table(app: &App, width: usize, room: usize) -> Vec<Line<'static>> {
    let lanes = app.lanes();
    let generation = app.snapshot().map_or(0, |seen| seen.generation);
    let labels = lanes.iter().map(|lane| label(lane, generation).len());
    let columns = columns(width, labels.max().unwrap_or(0).max(2));
    let columns = Table::new(columns, 1, width.saturating_sub(2));
    let mut lines = vec![app.theme.line(
        Tone::Header,
        fit(&format!("  {}", columns.header()), width, false),
    )];
    let at = app.selected(&lanes).unwrap_or(0);
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
        lines.push(Line::from(cut(
            &format!(
                "  lanes {first}-{} of {}  {}",
                last.saturating_sub(1),
                lanes.len(),
                strip(&lanes)
            ),
            width,
        )));
    }
    if lanes.is_empty() {
        lines.push(Line::from(format!(
            "  no lane fits {}",
            printable_line(&app.filter)
        )));
    }
    lines
}

/// Every lane as one character.
fn strip(lanes: &[&Lane]) -> String {
    use crate::api::LaneState::{Active, NoOwner};
    let mark = |lane: &&Lane| match lane.state {
        NoOwner => 'X',
        Active if lane.flow_ms.is_some_and(|ms| ms > 60_000) => '#',
        Active if lane.set_aside > 0 => 'h',
        Active => '.',
        _ => '~',
    };
    lanes.iter().map(mark).collect()
}

/// What a lane is called where its namespace is plain; one that is sealed soon has its generation too.
fn label(lane: &Lane, generation: i64) -> String {
    match lane.lane.rsplit('-').nth(1) {
        Some(of) if of != generation.to_string() => {
            format!("{}-{}", printable_line(of), lane.index)
        }
        _ => lane.index.to_string(),
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
            format!("{bar} {}", fit(&number(lane.backlog, 6), 6, true))
        }
        false => number(lane.backlog, 7),
    };
    let eta = lane.eta.clone();
    let eta = eta.or_else(|| lane.eta_ms.map(|ms| format!("~{}", age(Some(ms)))));
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
        ("max", took(wait.map(|wait| wait.max))),
        ("WORK50", took(work.map(|work| work.p50))),
        ("WORK99", took(work.map(|work| work.p99))),
        ("BUSY", share(lane.busy)),
        ("CURS", count(lane.cursors)),
        ("ETA", eta.unwrap_or_else(|| "-".to_owned())),
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
    let mut style = app.theme.style(Tone::from(lane.severity));
    if is_selected {
        style = style.add_modifier(Modifier::REVERSED);
    }
    Line::from(Span::styled(text, style))
}

/// What is below the table, as much of it as has room.
fn below(app: &App, snapshot: &Snapshot, width: usize, room: usize) -> Vec<Line<'static>> {
    let lanes = app.lanes().len().min(8);
    let mut room = room.saturating_sub(lanes + 1);
    let mut lines = Vec::new();
    let mut parts = vec![chart(app, snapshot, width)];
    if width >= WIDE {
        parts.push(waits_and_cursors(app, snapshot, width));
    }
    parts.push(log(app, snapshot, width));
    parts.push(nodes(app, snapshot, width));
    // In the order in which they are worth their lines; the log takes what is left.
    let order = [0, if width >= WIDE { 3 } else { 2 }, 1, 2];
    let mut taken = vec![false; parts.len()];
    for place in order {
        let fits = parts.get(place).is_some_and(|part| part.len() <= room);
        if fits && !taken[place] {
            room -= parts[place].len();
            taken[place] = true;
        }
    }
    for (part, is_taken) in parts.into_iter().zip(taken) {
        if is_taken {
            lines.extend(part);
        }
    }
    lines
}

/// A line with a title in it.
pub fn rule(app: &App, title: &str, width: usize) -> Line<'static> {
    let text = if title.is_empty() {
        "─".repeat(width)
    } else {
        format!("── {title} {}", "─".repeat(width))
    };
    app.theme
        .line(Tone::Quiet, super::columns::clip(&text, width))
}

fn chart(app: &App, snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let ascii = app.theme.ascii;
    let wide = (width / 4).min(60);
    let of = |value: fn(&crate::api::Sample) -> f64, wide| {
        sparks(snapshot.history.iter().map(value), wide, ascii)
    };
    let most = snapshot.history.iter().map(|sample| sample.backlog).max();
    let title = format!(
        "backlog 15m {} max {}   in {}  out {}",
        of(|sample| sample.backlog as f64, wide),
        number(most.unwrap_or(0), 5),
        of(|sample| sample.in_per_s, wide / 2),
        of(|sample| sample.out_per_s, wide / 2),
    );
    vec![rule(app, &title, width)]
}

fn nodes(app: &App, snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let columns = vec![
        Column::words("NODE", 12),
        Column::words("OWNS", 18).narrow(3, 10),
        Column::numbers("BUSY", 5),
        Column::numbers("CPU", 5),
        Column::numbers("COMMIT99", 8),
        Column::numbers("BEAT", 5).gone(2),
        Column::numbers("UP", 6),
        Column::words("VERSION", 8).gone(1),
    ];
    let table = Table::new(columns, 1, width.saturating_sub(2));
    let mut lines = vec![app.theme.line(
        Tone::Header,
        fit(&format!("  {}", table.header()), width, false),
    )];
    let line = |node: &NodeLine| {
        let state = if node.leaving { " (leaving)" } else { "" };
        let cells = [
            ("NODE", printable_line(&node.node).to_string() + state),
            ("OWNS", format!("{} lanes {}", node.lanes, node.owns)),
            ("BUSY", share(node.busy)),
            (
                "CPU",
                node.cpu
                    .map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}c")),
            ),
            ("COMMIT99", took(node.commit_p99_ms)),
            ("BEAT", age(node.beat_ms)),
            ("UP", age(node.up_ms)),
            (
                "VERSION",
                printable_line(node.version.as_deref().unwrap_or("-")).to_string(),
            ),
        ];
        Line::from(format!("  {}", table.named_row(&cells)))
    };
    lines.extend(snapshot.nodes.iter().take(4).map(line));
    lines
}

fn log(app: &App, snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![rule(app, "log (l: all)", width)];
    lines.extend(
        snapshot
            .log
            .iter()
            .take(4)
            .map(|line| log_line(app, line, width)),
    );
    lines
}

/// One entry of the log.
pub fn log_line(app: &App, line: &crate::api::LogLine, width: usize) -> Line<'static> {
    let time = clock(line.at);
    let text = format!(
        " {} {} {}  {}",
        time.trim_end_matches('Z'),
        line.severity.mark(),
        printable_line(&line.scope),
        printable_line(&line.what)
    );
    app.theme.line(Tone::from(line.severity), cut(&text, width))
}

/// How long events waited over time, and the cursors that wait longest, side by side.
fn waits_and_cursors(app: &App, snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    let left = 46.min(width / 2);
    let right = width.saturating_sub(left + 3);
    let title = "wait, 15m, waiting events counted ";
    let head = format!("── {title}{}", "─".repeat(left));
    let head = super::columns::clip(&head, left);
    let mut lines = vec![app.theme.line(
        Tone::Quiet,
        super::columns::clip(
            &format!("{head}─┬─ cursors, oldest first {}", "─".repeat(right)),
            width,
        ),
    )];
    let map = heat(&snapshot.history, left.saturating_sub(9));
    let names = CLASSES.iter().rev();
    let mut cursors = snapshot.cursors.iter();
    for (name, row) in names.zip(map) {
        let row = format!("{name:>7} │{row}");
        let cursor = cursors.next().map(|line| {
            let name = format!("{} -> {}", line.stream, line.handler);
            format!(
                "{} {:>3} {:<9} {:>6} {:>8}  {}",
                fit(printable_line(&name).as_str(), 28, false),
                line.lane,
                line.condition,
                age(line.oldest_ms),
                number(line.behind, 8),
                printable_line(line.result.as_deref().unwrap_or("-"))
            )
        });
        let cursor = cut(&cursor.unwrap_or_default(), right);
        lines.push(Line::from(format!("{} │ {cursor}", fit(&row, left, false))));
    }
    lines
}

/// The keys, or the filter that is being written.
pub fn foot(app: &App, width: usize) -> Line<'static> {
    let text = match (&app.view, app.is_filtering) {
        (_, true) => format!(
            " filter: {}_   Enter keeps it, Esc clears",
            printable_line(&app.filter)
        ),
        _ if !app.filter.is_empty() => {
            format!(" filter: {}   Esc clears it", printable_line(&app.filter))
        }
        (View::Overview, _) => {
            let sort = match app.sort {
                Sort::Lane => "s sort".to_owned(),
                other => format!("s by {}", other.word()),
            };
            format!(
                " Enter open  ! worst  / filter  {sort}  f freeze  l log  a act  r resize  ?  q"
            )
        }
        (View::Lane(_), _) => {
            " Esc back  Enter stream  / filter  a act  f freeze  c copy  ? help  q".into()
        }
        (View::Stream(_), _) => " Esc back  R retry  K skip  f freeze  c copy id  ? help  q".into(),
        (View::Log, _) => " Esc back  f freeze  ? help  q".into(),
    };
    app.theme.line(Tone::Quiet, cut(&text, width))
}

/// What a screen too small for a table shows, ordered by need.
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
    lines.push(Line::from(format!(" backlog {}", count(total.backlog))));
    if let Some(worst) = snapshot.verdicts.first() {
        let sign = match worst.severity {
            Severity::Trouble => "!!",
            Severity::Unusual => "~ ",
            Severity::Fine => "  ",
        };
        let text = format!("{} {}", worst.class.word(), worst.text);
        let more = worst
            .more
            .iter()
            .flat_map(|more| wrapped(more, width.saturating_sub(3)));
        let first = wrapped(printable_line(&text).as_str(), width.saturating_sub(3));
        for (nth, part) in first.into_iter().chain(more).take(5).enumerate() {
            let sign = if nth == 0 { sign } else { "  " };
            lines.push(
                app.theme
                    .line(Tone::from(worst.severity), format!("{sign} {part}")),
            );
        }
    }
    for lane in app.lanes() {
        if lane.severity == Severity::Fine || lines.len() + 1 >= height {
            continue;
        }
        let text = format!(
            "{} {} {}  HELD {}  {}",
            lane.severity.mark(),
            lane.index,
            lane.state.word(),
            lane.set_aside,
            lane.eta.as_deref().unwrap_or("-")
        );
        lines.push(app.theme.line(Tone::from(lane.severity), text));
    }
    lines
}
