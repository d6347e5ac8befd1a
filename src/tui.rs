//! The dashboard: what `hooklane top` shows and does.
//!
//! Promises: the screen is a plain function of [`app::App`]; no text from outside acts on the terminal;
//! no key changes anything by itself, every action shows a plan first; whatever ends it, the terminal is
//! as it was. What is seen is computed by the daemon, once a second for all who look.
//!
//! - `app.rs`: the state, and what an answer does to it; `input.rs`: what a key does, `want.rs`: what it asks for; `filter.rs`: which rows
//! - `overview.rs`, `wide.rs`: all lanes; `detail.rs`: one lane, one stream, help; `events.rs`: webhooks;
//!   `lists.rs`: the log, nodes, namespaces; `fold.rs`: like entries of the log; `dialog.rs`: what is asked
//! - `frame.rs`: the parts that screens share; `theme.rs`, `columns.rs`, `chart.rs`: how things look
//! - `guard.rs`: the terminal, taken and given back

pub mod app;
mod chart;
mod columns;
mod detail;
mod dialog;
mod events;
pub mod filter;
mod fold;
mod frame;
pub mod guard;
mod input;
mod lists;
mod overview;
pub mod theme;
pub mod want;
mod wide;

use ratatui::Frame;
use ratatui::style::Modifier;
use ratatui::text::{Line, Text};
use ratatui::widgets::Paragraph;

use app::{App, Mode, View};

/// The whole screen.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    let lines = lines(app, usize::from(area.width), usize::from(area.height));
    frame.render_widget(Paragraph::new(Text::from(lines)), area);
    if let Some(dialog) = &app.dialog {
        dialog.draw(&app.theme, frame);
    }
}

/// The screen without its dialog, a line each, none wider than `width`.
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

/// A moment as a part of a file's name.
pub fn stamp(at: crate::domain::time::Timestamp) -> String {
    frame::clock(at).replace(':', "")
}

/// The lines above what is old while the database is silent: header, note, totals, verdict.
const OLD_FROM: usize = 6;

/// The line as it looks while the daemon is silent: old numbers are dim, and where that may not be
/// seen the first line is underlined.
fn aged(app: &App, nth: usize, line: Line<'static>) -> Line<'static> {
    let is_old = app.snapshot().is_some_and(|seen| seen.old_since.is_some());
    match (&app.link, app.theme.colour, nth) {
        (app::Link::Lost { .. }, true, 2..) => line.patch_style(Modifier::DIM),
        (app::Link::Lost { .. }, false, 0) => line.patch_style(Modifier::UNDERLINED),
        // What is wrong is new: the figures below it are old.
        (app::Link::Live, true, OLD_FROM..) if is_old => line.patch_style(Modifier::DIM),
        (app::Link::Live, false, 0) if is_old => line.patch_style(Modifier::UNDERLINED),
        _ => line,
    }
}

/// The line in `width` characters at most; nothing in it acts on the terminal, wherever it came from.
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

/// The height of a picture: room for everything, and a last line with the keys.
const LONG: usize = 200;

/// The screen as plain text, for a terminal that is none: without the line that says which keys there are.
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
