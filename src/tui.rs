//! The dashboard: the screen and keys of `hooklane top`.
//!
//! Promises: the screen is a pure function of [`app::App`]; text from outside cannot control the
//! terminal; no key changes anything directly, because every action first shows a plan; the terminal is
//! restored in every case. The daemon computes the data, once a second for all viewers.
//!
//! - `app.rs`: the state; `input.rs`: keys; `effect.rs`: work for the loop; `filter.rs`: which rows show
//! - `overview.rs`, `wide.rs`: all lanes; `detail.rs`: a lane, a stream, help; `events.rs`: events;
//!   `lists.rs`: log, nodes, namespaces; `fold.rs`: equal entries of the log; `dialog.rs`: dialogs
//! - `frame.rs`: parts that screens share; `theme.rs`, `columns.rs`, `chart.rs`: appearance
//! - `guard.rs`: switches the terminal to raw mode and restores it

pub mod app;
mod chart;
mod columns;
mod detail;
mod dialog;
pub mod effect;
mod events;
pub mod filter;
mod fold;
mod frame;
pub mod guard;
mod input;
mod lists;
mod overview;
mod sort;
pub mod theme;
pub mod view;
mod wide;

use ratatui::Frame;
use ratatui::style::Modifier;
use ratatui::text::{Line, Text};
use ratatui::widgets::Paragraph;

use app::{App, Mode};
use view::View;

/// Draws the whole screen.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    let lines = lines(app, usize::from(area.width), usize::from(area.height));
    frame.render_widget(Paragraph::new(Text::from(lines)), area);
    if let Some(dialog) = &app.dialog {
        dialog.draw(&app.theme, frame);
    }
}

/// The screen without its dialog, as lines of at most `width` characters.
pub fn lines(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    if width == 0 || height == 0 {
        return Vec::new();
    }
    let mut lines = match (app.mode, &app.view) {
        (Mode::Help { scroll }, _) => detail::help(app, scroll, width, height),
        _ if width < 60 || height < 16 => overview::small(app, width, height),
        (_, View::Overview) => overview::whole(app, width, height),
        (_, View::Lane(view)) => detail::lane(app, &view.id, width, height),
        (_, View::Stream(view)) => detail::stream(app, view, width, height),
        (_, View::Events(known)) => events::events(app, known, width, height),
        (_, View::Event(view)) => events::event(app, view, width, height),
        (_, View::Log(_)) => lists::log(app, width, height),
        (_, View::Nodes(_)) => lists::nodes(app, width, height),
        (_, View::Namespaces(_)) => lists::namespaces(app, width, height),
    };
    lines.truncate(height);
    let lines = lines.into_iter().enumerate();
    lines
        .map(|(nth, line)| aged(app, nth, app.theme.shown(clipped(line, width))))
        .collect()
}

/// A time in a form for file names.
pub fn stamp(at: crate::domain::time::Timestamp) -> String {
    frame::clock(at).replace(':', "")
}

/// First line of the figures that are stale while the database is silent; above are header, note,
/// totals and verdict.
const OLD_FROM: usize = 6;

/// Dims stale figures while the daemon is silent; without colour, underlines the first line instead.
fn aged(app: &App, nth: usize, line: Line<'static>) -> Line<'static> {
    let is_old = app.snapshot().is_some_and(|seen| seen.old_since.is_some());
    match (&app.link, app.theme.colour, nth) {
        (app::Link::Lost { .. }, true, 2..) => line.patch_style(Modifier::DIM),
        (app::Link::Lost { .. }, false, 0) => line.patch_style(Modifier::UNDERLINED),
        // The first lines say what is wrong now; the figures below are stale.
        (app::Link::Live, true, OLD_FROM..) if is_old => line.patch_style(Modifier::DIM),
        (app::Link::Live, false, 0) if is_old => line.patch_style(Modifier::UNDERLINED),
        _ => line,
    }
}

/// Cuts a line to `width` characters and makes it safe for the terminal.
fn clipped(mut line: Line<'static>, width: usize) -> Line<'static> {
    let mut room = width;
    for span in &mut line.spans {
        let shown = crate::text::printable_line(&span.content);
        if shown.as_str() != span.content {
            span.content = shown.to_string().into();
        }
        if unicode_width::UnicodeWidthStr::width(&*span.content) > room {
            span.content = columns::clip(&span.content, room).into();
        }
        room -= unicode_width::UnicodeWidthStr::width(&*span.content).min(room);
    }
    line
}

/// Height of a picture: room for everything, and a last line with the keys.
const LONG: usize = 200;

/// The screen as plain text, without the line of keys.
pub fn plain(app: &App, width: usize) -> String {
    let mut lines = lines(app, width, LONG);
    if lines.len() == LONG {
        lines.pop();
    }
    let lines = lines
        .iter()
        .map(|line| line.to_string().trim_end().to_owned());
    let text = lines.collect::<Vec<_>>().join("\n");
    text.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests;
