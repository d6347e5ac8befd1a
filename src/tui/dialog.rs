//! Dialogs: the plan of an action, with Cancel as the default answer.

use crossterm::event::KeyCode;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Padding, Paragraph};
use unicode_width::UnicodeWidthStr as _;

use super::columns::{chunked, wrapped};
use super::effect::{Action, Effect};
use super::theme::{Theme, Tone};
use crate::api::{Condition, Lane, LaneState, Resize, Snapshot, Stream, command};
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;
use crate::text::printable_line;

/// A question in the middle of the screen.
#[derive(Clone, Debug, PartialEq)]
pub struct Dialog {
    title: String,
    /// The plan as label and text.
    plan: Vec<(&'static str, String)>,
    asks: Asks,
    stands_on: Basis,
}

/// An action in a menu, with the dialog that asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    label: String,
    dialog: Dialog,
}

impl Item {
    /// A line of a menu.
    pub fn new(label: String, dialog: Dialog) -> Self {
        Self { label, dialog }
    }
}

/// The situation that a plan was made for.
#[derive(Clone, Debug, PartialEq)]
enum Basis {
    Always,
    Generation(i64),
    Lane(LaneId, LaneState),
    /// A hook, and whether it was paused, if that was known.
    Hook(Name, Option<bool>),
    /// A cursor, and its condition where it was known.
    Cursor(StreamName, Name, Option<Condition>),
    /// The event that a cursor needs next.
    Next(StreamName, Name, EventId),
}

#[derive(Clone, Debug, PartialEq)]
enum Asks {
    /// Choose one of these actions.
    Menu {
        items: Vec<Item>,
        at: usize,
        /// Reason why no action is allowed.
        forbidden: Option<String>,
    },
    /// Yes or no; no is the default.
    Yes { action: Action, is_yes: bool },
    /// Type the number of lanes.
    Count { typed: String },
    /// Type this text.
    Typed {
        action: Action,
        due: String,
        typed: String,
    },
}

impl Dialog {
    /// A menu of actions; `forbidden` is the reason why the viewer may use none.
    pub fn menu(title: String, items: Vec<Item>, forbidden: Option<String>) -> Self {
        Self {
            title,
            plan: Vec::new(),
            asks: Asks::Menu {
                items,
                at: 0,
                forbidden,
            },
            stands_on: Basis::Always,
        }
    }

    /// Asks for the number of lanes.
    pub fn ask_count(snapshot: &Snapshot) -> Self {
        let lanes = snapshot.lanes.len();
        Self {
            title: format!("resize lanes of {}", snapshot.namespace),
            plan: vec![(
                "now",
                format!("{lanes} lanes, generation {}", snapshot.generation),
            )],
            asks: Asks::Count {
                typed: String::new(),
            },
            stands_on: Basis::Generation(snapshot.generation),
        }
    }

    /// The plan of a resize; the number must be typed again.
    pub fn resize(plan: &Resize, now: Timestamp) -> Self {
        let (from, next) = (plan.generation, plan.generation + 1);
        let mut facts = vec![(
            "",
            format!(
                "{} -> {} lanes, generation {from} -> {next}",
                plan.from, plan.to
            ),
        )];
        facts.extend(plan.told(false, now));
        Self {
            title: format!("resize lanes of {}", plan.namespace),
            plan: facts,
            asks: Asks::Typed {
                due: plan.to.to_string(),
                action: Action::Resize(Box::new(plan.clone())),
                typed: String::new(),
            },
            stands_on: Basis::Generation(plan.generation),
        }
    }

    /// `retry`, `hold` or `release` of a cursor.
    pub fn cursor(
        verb: &'static str,
        stream: StreamName,
        handler: Name,
        condition: Option<Condition>,
    ) -> Self {
        let how = match verb {
            "retry" => "its next event is tried now, and it flows if that goes well",
            "hold" => "it is held: its events are accepted, and wait until it is released",
            _ => "it flows again, and the events that waited are applied in order",
        };
        let command = command::streams(verb, &stream, &handler);
        Self::yes(
            format!("{verb} {stream} -> {handler}"),
            vec![
                ("how", how.to_owned()),
                ("holds up", "nothing else: only its own events".to_owned()),
                ("same as", command),
            ],
            Basis::Cursor(stream.clone(), handler.clone(), condition),
            Action::Cursor(verb, stream, handler),
        )
    }

    /// `pause` or `resume` of a hook.
    pub fn hook(verb: &'static str, hook: Name, is_paused: Option<bool>) -> Self {
        let how = match verb {
            "pause" => "its cursors take no turns; its events are accepted, and wait",
            _ => "its cursors take turns again, and the events that waited are applied in order",
        };
        Self::yes(
            format!("{verb} hook {hook}"),
            vec![
                ("how", how.to_owned()),
                ("same as", command::hooks(verb, &hook)),
            ],
            Basis::Hook(hook.clone(), is_paused),
            Action::Hook(verb, hook),
        )
    }

    /// Skipping an event. The end of its id must be typed, which is short whatever the name of the
    /// stream is.
    pub fn skip(stream: StreamName, handler: Name, event: EventId) -> Self {
        let short = super::events::short(event);
        let command = command::streams("skip", &stream, &handler);
        Self {
            title: format!("skip {short}"),
            plan: vec![
                ("event", event.to_string()),
                ("of", format!("{stream} -> {handler}")),
                (
                    "how",
                    "it goes to the dead letters, and the stream goes on with the next event"
                        .to_owned(),
                ),
                ("look", format!("hooklane events show {event} --body")),
                ("same as", format!("{command} --event {event}")),
            ],
            stands_on: Basis::Next(stream.clone(), handler.clone(), event),
            asks: Asks::Typed {
                due: short.rsplit('.').next().unwrap_or(&short).to_owned(),
                action: Action::Skip(stream, handler, event),
                typed: String::new(),
            },
        }
    }

    /// `drain`, `pause` or `resume` of a lane.
    pub fn lane(verb: &'static str, lane: &Lane) -> Self {
        let how = match verb {
            "drain" => "it applies the events that wait now; later ones wait until it is resumed",
            "pause" => "it begins no turn; events are accepted, and wait until it is resumed",
            _ => "it takes turns again, and applies the events that waited",
        };
        let same = command::lanes(verb, &lane.id);
        Self::yes(
            format!("{verb} {}", lane.id),
            vec![("how", how.to_owned()), ("same as", same)],
            Basis::Lane(lane.id.clone(), lane.state),
            Action::Lane(verb, lane.id.clone()),
        )
    }

    fn yes(
        title: String,
        plan: Vec<(&'static str, String)>,
        stands_on: Basis,
        action: Action,
    ) -> Self {
        Self {
            title,
            plan,
            asks: Asks::Yes {
                action,
                is_yes: false,
            },
            stands_on,
        }
    }

    /// True if the situation that the plan was made for still exists, as far as the dashboard knows.
    pub fn is_true(&self, seen: &Snapshot, shown: Option<&Stream>) -> bool {
        let cursor = |stream: &StreamName, handler: &Name| {
            let of = shown.filter(|shown| shown.stream == *stream)?;
            of.cursors.iter().find(|row| row.handler == *handler)
        };
        match &self.stands_on {
            Basis::Always => true,
            Basis::Generation(generation) => seen.generation == *generation,
            Basis::Lane(id, state) => {
                let lane = seen.lanes.iter().find(|lane| lane.id == *id);
                lane.is_some_and(|lane| lane.state == *state)
            }
            Basis::Hook(name, was_paused) => {
                let mut hooks = seen.hooks.iter().filter(|line| line.hook == *name);
                let is_paused = hooks.next().map(|line| line.paused);
                was_paused.is_none() || is_paused.is_none() || is_paused == *was_paused
            }
            Basis::Cursor(stream, handler, condition) => {
                let row = cursor(stream, handler);
                condition.is_none() || row.is_none_or(|row| Some(row.condition) == *condition)
            }
            Basis::Next(stream, handler, event) => {
                let row = cursor(stream, handler);
                row.is_none_or(|row| row.next == Some(*event))
            }
        }
    }

    /// Handles a key; returns whether the dialog is over, and the request to carry out.
    pub fn key(&mut self, key: KeyCode) -> (bool, Option<Effect>) {
        if key == KeyCode::Esc {
            return (true, None);
        }
        let mut next = None;
        let over = match &mut self.asks {
            Asks::Menu {
                forbidden: Some(_), ..
            } => matches!(key, KeyCode::Enter).then_some(None),
            Asks::Menu { items, at, .. } => match key {
                KeyCode::Up | KeyCode::Char('k') => {
                    *at = at.saturating_sub(1);
                    None
                }
                KeyCode::Down | KeyCode::Char('j') => {
                    *at = (*at + 1).min(items.len().saturating_sub(1));
                    None
                }
                KeyCode::Enter => {
                    next = items.get(*at).map(|item| item.dialog.clone());
                    None
                }
                _ => None,
            },
            Asks::Yes { action, is_yes } => match key {
                KeyCode::Left | KeyCode::Right | KeyCode::Tab => {
                    *is_yes = !*is_yes;
                    None
                }
                KeyCode::Enter if *is_yes => Some(Some(Effect::Do(action.clone()))),
                KeyCode::Enter => Some(None),
                _ => None,
            },
            Asks::Count { typed } => match key {
                KeyCode::Enter => match typed.parse() {
                    Ok(lanes @ 1..=1024) => Some(Some(Effect::Plan(lanes))),
                    _ => {
                        typed.clear();
                        None
                    }
                },
                key => {
                    write(typed, key);
                    None
                }
            },
            Asks::Typed { action, due, typed } => match key {
                KeyCode::Enter if typed == due => Some(Some(Effect::Do(action.clone()))),
                KeyCode::Enter => {
                    typed.clear();
                    None
                }
                key => {
                    write(typed, key);
                    None
                }
            },
        };
        if let Some(next) = next {
            *self = next;
        }
        match over {
            Some(want) => (true, want),
            None => (false, None),
        }
    }

    /// Plan and question in at most `room` lines; if they do not fit, the plan is cut.
    fn lines(&self, theme: &Theme, width: usize, room: usize) -> Vec<Line<'static>> {
        let asked = self.question(theme, width, room);
        let mut lines = self.plan_lines(width);
        let room = room.saturating_sub(asked.len() + 1);
        if lines.len() > room {
            lines.truncate(room.saturating_sub(1));
            lines.extend((room > 0).then(|| Line::from("..")));
        }
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        lines.extend(asked);
        lines
    }

    fn plan_lines(&self, width: usize) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        let label = self
            .plan
            .iter()
            .map(|(label, _)| label.len())
            .max()
            .unwrap_or(0);
        for (name, text) in &self.plan {
            let room = width.saturating_sub(label + 2).max(10);
            for (nth, part) in wrapped(printable_line(text).as_str(), room)
                .iter()
                .enumerate()
            {
                let name = if nth == 0 { name } else { "" };
                let gap = if label == 0 { "" } else { "  " };
                lines.push(Line::from(format!("{name:<label$}{gap}{part}")));
            }
        }
        lines
    }

    fn question(&self, theme: &Theme, width: usize, room: usize) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        match &self.asks {
            Asks::Menu {
                items,
                at,
                forbidden,
            } => {
                let items = items.iter().enumerate();
                for (nth, item) in items.skip((at + 1).saturating_sub(room)).take(room) {
                    let label = printable_line(&item.label);
                    lines.push(match forbidden {
                        Some(_) => theme.line(Tone::Quiet, format!("  {label}")),
                        None => choice(theme, label.as_str(), nth == *at),
                    });
                }
                if let Some(why) = forbidden {
                    lines.push(Line::default());
                    lines.push(Line::from(printable_line(why).to_string()));
                }
            }
            Asks::Yes { is_yes, .. } => lines.push(Line::from(vec![
                button(theme, "Cancel", !*is_yes),
                Span::raw("   "),
                button(theme, "Do it", *is_yes),
                Span::raw("     Tab chooses, Enter confirms"),
            ])),
            Asks::Count { typed } => lines.push(Line::from(format!(
                "New number, 1 to 1024, Esc cancels:  [{typed:<4}]"
            ))),
            Asks::Typed { due, typed, .. } => {
                let asked = format!("Type {due} to go on, Esc cancels:");
                let room = due.width().max(typed.width());
                let field = format!("[{typed}{}]", " ".repeat(room - typed.width()));
                match asked.width() + 2 + field.width() <= width {
                    true => lines.push(Line::from(format!("{asked}  {field}"))),
                    false => {
                        lines.extend(wrapped(&asked, width).into_iter().map(Line::from));
                        lines.extend(chunked(&field, width).into_iter().map(Line::from));
                    }
                }
            }
        }
        lines
    }

    /// Draws the dialog over the screen.
    pub fn draw(&self, theme: &Theme, frame: &mut Frame<'_>) {
        let area = frame.area();
        let width = area.width.min(76);
        if width < 8 || area.height < 3 {
            return;
        }
        let room = usize::from(area.height).saturating_sub(2);
        let lines = self.lines(theme, usize::from(width).saturating_sub(4), room);
        let lines: Vec<_> = lines.into_iter().map(|line| theme.shown(line)).collect();
        let height = u16::try_from(lines.len() + 2)
            .unwrap_or(area.height)
            .min(area.height);
        let place = Rect {
            x: (area.width - width) / 2,
            y: (area.height - height) / 2,
            width,
            height,
        };
        let title = format!("─ {} ", printable_line(&self.title));
        let block = Block::bordered().padding(Padding::horizontal(1));
        let mut block = block.title(theme.shown(Line::from(title)));
        if theme.ascii {
            block = block.border_set(ASCII_BORDER);
        }
        frame.render_widget(Clear, place);
        let inner = Paragraph::new(Text::from(lines)).block(block);
        frame.render_widget(inner, place);
    }
}

fn write(typed: &mut String, key: KeyCode) {
    match key {
        KeyCode::Backspace => drop(typed.pop()),
        KeyCode::Char(c) if typed.len() < 250 && !c.is_control() => typed.push(c),
        _ => {}
    }
}

fn choice(theme: &Theme, text: &str, is_chosen: bool) -> Line<'static> {
    Line::from(button(theme, text, is_chosen))
}

fn button(theme: &Theme, text: &str, is_chosen: bool) -> Span<'static> {
    let style = theme.style(Tone::Plain);
    match is_chosen {
        true => Span::styled(format!("> {text} "), style.add_modifier(Modifier::REVERSED)),
        false => Span::styled(format!("  {text} "), style),
    }
}

const ASCII_BORDER: ratatui::symbols::border::Set<'static> = ratatui::symbols::border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};
