//! Parts that screens share: header, foot, rules, notes, times.

use ratatui::text::{Line, Span};

use super::app::{App, Link, Mode};
use super::columns::{age, clip, cut, fit, number};
use super::sort::Sort;
use super::theme::Tone;
use super::view::View;
use crate::api::Eta;
use crate::domain::time::Timestamp;
use crate::text::{counted, duration, printable_line, short};

/// Width from which panels are shown beside the lanes, in columns.
pub const WIDE: usize = 120;

/// The first line of each screen.
pub fn header(app: &App, place: &str, width: usize) -> Line<'static> {
    let snapshot = app.snapshot();
    let node = snapshot.map_or("-", |seen| seen.node.as_str());
    let node = printable_line(node);
    let left = match (place, snapshot) {
        ("", Some(seen)) => {
            let mut left = format!(
                " hooklane  {node}   {}{}: {} gen {}, {}",
                reached(app, width),
                seen.namespace,
                counted(seen.lanes.len() as u64, "lane", "lanes"),
                seen.generation,
                counted(seen.nodes.len() as u64, "node", "nodes")
            );
            if width >= WIDE {
                left += &format!(
                    ", {}, {}   you: {}{}",
                    counted(seen.hooks_count, "hook", "hooks"),
                    counted(seen.streams_count, "stream", "streams"),
                    printable_line(&seen.viewer.name),
                    if app.may_act() { "" } else { " (read only)" }
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

/// Address of the daemon, if there is room.
fn reached(app: &App, width: usize) -> String {
    match width >= WIDE && !app.place.is_empty() {
        true => format!("{}   ", cut(printable_line(&app.place).as_str(), 32)),
        false => String::new(),
    }
}

/// Mark that says if the data is current, with its time.
pub fn trust(app: &App) -> (String, Tone) {
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
            let window = app.window.word();
            (format!("LIVE {every}  win {window}  {clock}"), Tone::Good)
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

/// Time such as `02:59:14Z`.
pub fn clock(at: Timestamp) -> String {
    at.clock()
}

/// Forecast of when all is applied, in words or as a time.
pub fn eta(word: Option<Eta>, ms: Option<u64>) -> String {
    match (word, ms) {
        (Some(eta), _) => eta.word().to_owned(),
        (None, Some(ms)) => format!("~{}", age(Some(ms))),
        (None, None) => "-".to_owned(),
    }
}

/// A number with all digits if they fit and short numbers are not chosen.
pub fn figure(app: &App, figure: u64, width: usize) -> String {
    match app.is_short {
        true => short(figure),
        false => number(figure, width),
    }
}

/// A horizontal rule with a title.
pub fn rule(app: &App, title: &str, width: usize) -> Line<'static> {
    let text = if title.is_empty() {
        "─".repeat(width)
    } else {
        format!("── {title} {}", "─".repeat(width))
    };
    app.theme.line(Tone::Quiet, clip(&text, width))
}

/// The last line: keys, or the filter while it is edited.
pub fn foot(app: &App, width: usize) -> Line<'static> {
    let sort = match (app.sort, app.is_reversed) {
        (Sort::Lane, false) => "s sort".to_owned(),
        (other, false) => format!("s by {}", other.word()),
        (other, true) => format!("s by {} rev", other.word()),
    };
    let filter = printable_line(app.filter.text());
    let text = match (&app.view, app.mode) {
        (_, Mode::Filter) => format!(" filter: {filter}_   Enter keeps it, Esc clears"),
        _ if !app.filter.is_empty() => {
            format!(" filter: {filter}   / edit  Esc clears it  a act  ? help  q")
        }
        (View::Overview, _) if width >= WIDE => format!(
            " Enter open  ! worst  / filter  {sort}  f freeze  [ ] window  e events  l log  n namespaces  \
             Tab nodes  a act  r resize  ? help  q"
        ),
        (View::Overview, _) if width >= 78 => {
            format!(
                " Enter open  ! worst  / filter  {sort}  f freeze  [ ] window  a act  ? help  q"
            )
        }
        (View::Overview, _) => format!(" Enter open  ! worst  / filter  {sort}  a act  ? help  q"),
        (View::Lane(_), _) => {
            " Esc back  Enter stream  / filter  a act  f freeze  c copy  ? help  q".into()
        }
        (View::Stream(_), _) => {
            let hold = match app.is_held() {
                true => "release",
                false => "hold",
            };
            format!(
                " Esc back  Enter event  R retry  K skip  H {hold}  a act  c copy id  ? help  q"
            )
        }
        (View::Events(_), _) => {
            " Esc back  Space follow/hold  Enter whole event  / filter  c copy  ? help  q".into()
        }
        (View::Event(_), _) => {
            " Esc back  Up Down scroll  Enter its stream  a act  c copy id  ? help  q".into()
        }
        (View::Log(_), _) => {
            " Esc back  Enter its stream  1 2 3 levels  / filter  f freeze  ? help  q".into()
        }
        (View::Nodes(_), _) => " Esc back  Enter its lanes  / filter  f freeze  ? help  q".into(),
        (View::Namespaces(_), _) => {
            " Esc back  Enter shows it  / filter  f freeze  ? help  q".into()
        }
    };
    app.theme.line(Tone::Quiet, cut(&text, width))
}

/// Line with the result of the last action.
pub fn note(app: &App, width: usize) -> Option<Line<'static>> {
    let note = app.note.as_ref()?;
    let text = format!(" {}", printable_line(note));
    Some(app.theme.line(Tone::Unusual, cut(&text, width)))
}

/// The lines, cut or padded to the height of the screen, with the keys below.
pub fn ended(
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
