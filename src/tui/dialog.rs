//! What is asked before anything is changed: a plan first, and Cancel unless somebody says otherwise.

use crossterm::event::KeyCode;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::app::{Action, App, Want};
use super::columns::wrapped;
use super::theme::Tone;
use crate::api::{Resize, Snapshot};
use crate::domain::event::EventId;
use crate::domain::name::StreamName;
use crate::text::{count, counted, printable_line};

/// A question in the middle of the screen.
#[derive(Clone, Debug, PartialEq)]
pub struct Dialog {
    title: String,
    /// Label and text.
    plan: Vec<(&'static str, String)>,
    asks: Asks,
}

#[derive(Clone, Debug, PartialEq)]
enum Asks {
    /// Which of these.
    Menu {
        lane: String,
        items: Vec<&'static str>,
        at: usize,
    },
    /// Yes or, to begin with, no.
    Yes { action: Action, is_yes: bool },
    /// How many lanes.
    Count { typed: String },
    /// That this is typed.
    Typed {
        action: Action,
        due: String,
        typed: String,
    },
}

impl Dialog {
    /// What can be done with a lane.
    pub fn menu(lane: String, items: Vec<&'static str>) -> Self {
        Self {
            title: lane.clone(),
            plan: Vec::new(),
            asks: Asks::Menu { lane, items, at: 0 },
        }
    }

    /// How many lanes there shall be.
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
        }
    }

    /// What a resize means; the number is to be typed again.
    pub fn resize(plan: &Resize) -> Self {
        let (from, next) = (plan.generation, plan.generation + 1);
        let mut facts = vec![
            (
                "",
                format!(
                    "{} -> {} lanes, generation {from} -> {next}",
                    plan.from, plan.to
                ),
            ),
            (
                "how",
                "live: each lane finishes its running turn and seals, the new ones go on"
                    .to_owned(),
            ),
            (
                "moves",
                format!(
                    "{} of {}; all keep their order",
                    count(plan.moves),
                    counted(plan.streams, "stream", "streams")
                ),
            ),
            (
                "helps",
                format!(
                    "of {} the fullest lane has {} now, {} after",
                    counted(plan.backlog, "waiting event", "waiting events"),
                    count(plan.fullest_lane),
                    count(plan.fullest_lane_after)
                ),
            ),
        ];
        if !plan.in_the_way.is_empty() {
            facts.push(("in the way", plan.in_the_way.join("; ")));
        }
        Self {
            title: format!("resize lanes of {}", plan.namespace),
            plan: facts,
            asks: Asks::Typed {
                due: plan.to.to_string(),
                action: Action::Resize(plan.clone()),
                typed: String::new(),
            },
        }
    }

    /// Trying a stream again.
    pub fn retry(stream: StreamName) -> Self {
        Self {
            title: format!("retry {stream}"),
            plan: vec![("", "its next event is tried now".to_owned())],
            asks: Asks::Yes {
                action: Action::Retry(stream),
                is_yes: false,
            },
        }
    }

    /// Skipping an event; the name of its stream is to be typed.
    pub fn skip(stream: StreamName, event: EventId) -> Self {
        Self {
            title: format!("skip an event of {stream}"),
            plan: vec![
                ("event", event.to_string()),
                (
                    "how",
                    "it goes to the dead letters, the stream goes on behind it".to_owned(),
                ),
            ],
            asks: Asks::Typed {
                due: stream.to_string(),
                action: Action::Skip(stream, event),
                typed: String::new(),
            },
        }
    }

    fn lane(verb: &'static str, lane: String) -> Self {
        let how = match verb {
            "drain" => "applies what waits now, keeps what comes later until resume",
            "pause" => "no turn begins any more; events are accepted as ever",
            _ => "takes turns again, and what was kept is applied",
        };
        Self {
            title: format!("{verb} {lane}"),
            plan: vec![("", how.to_owned())],
            asks: Asks::Yes {
                action: Action::Lane(verb, lane),
                is_yes: false,
            },
        }
    }

    /// Whether the dialog is over, and what is to be done.
    pub fn key(&mut self, key: KeyCode) -> (bool, Option<Want>) {
        if key == KeyCode::Esc {
            return (true, None);
        }
        let mut next = None;
        let over = match &mut self.asks {
            Asks::Menu { lane, items, at } => match key {
                KeyCode::Up | KeyCode::Char('k') => {
                    *at = at.saturating_sub(1);
                    None
                }
                KeyCode::Down | KeyCode::Char('j') => {
                    *at = (*at + 1).min(items.len().saturating_sub(1));
                    None
                }
                KeyCode::Enter => {
                    next = items.get(*at).map(|verb| Self::lane(verb, lane.clone()));
                    None
                }
                _ => None,
            },
            Asks::Yes { action, is_yes } => match key {
                KeyCode::Left | KeyCode::Right | KeyCode::Tab => {
                    *is_yes = !*is_yes;
                    None
                }
                KeyCode::Enter if *is_yes => Some(Some(Want::Do(action.clone()))),
                KeyCode::Enter => Some(None),
                _ => None,
            },
            Asks::Count { typed } => match key {
                KeyCode::Enter => match typed.parse() {
                    Ok(lanes @ 1..=1024) => Some(Some(Want::Plan(lanes))),
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
                KeyCode::Enter if typed == due => Some(Some(Want::Do(action.clone()))),
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

    fn lines(&self, app: &App, width: usize) -> Vec<Line<'static>> {
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
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        match &self.asks {
            Asks::Menu { items, at, .. } => {
                for (nth, item) in items.iter().enumerate() {
                    lines.push(choice(app, item, nth == *at));
                }
            }
            Asks::Yes { is_yes, .. } => lines.push(Line::from(vec![
                button(app, "Cancel", !*is_yes),
                Span::raw("   "),
                button(app, "Do it", *is_yes),
                Span::raw("     Tab chooses, Enter confirms"),
            ])),
            Asks::Count { typed } => lines.push(Line::from(format!(
                "New number, 1 to 1024, Esc cancels:  [{typed:<4}]"
            ))),
            Asks::Typed { due, typed, .. } => {
                lines.push(Line::from(format!(
                    "Type {due} to go on, Esc cancels:  [{typed}]"
                )));
            }
        }
        lines
    }
}

fn write(typed: &mut String, key: KeyCode) {
    match key {
        KeyCode::Backspace => drop(typed.pop()),
        KeyCode::Char(c) if typed.len() < 250 && !c.is_control() => typed.push(c),
        _ => {}
    }
}

fn choice(app: &App, text: &str, is_chosen: bool) -> Line<'static> {
    Line::from(button(app, text, is_chosen))
}

fn button(app: &App, text: &str, is_chosen: bool) -> Span<'static> {
    let style = app.theme.style(Tone::Plain);
    match is_chosen {
        true => Span::styled(format!("> {text} "), style.add_modifier(Modifier::REVERSED)),
        false => Span::styled(format!("  {text} "), style),
    }
}

/// Draws the dialog over the screen, if one is open.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let Some(dialog) = &app.dialog else { return };
    let area = frame.area();
    let width = area.width.min(76);
    if width < 8 || area.height < 3 {
        return;
    }
    let lines = dialog.lines(app, usize::from(width).saturating_sub(4));
    let lines: Vec<_> = lines
        .into_iter()
        .map(|line| app.theme.shown(line))
        .collect();
    let height = u16::try_from(lines.len() + 2)
        .unwrap_or(area.height)
        .min(area.height);
    let place = Rect {
        x: (area.width - width) / 2,
        y: (area.height - height) / 2,
        width,
        height,
    };
    let title = format!(" {} ", printable_line(&dialog.title));
    let mut block = Block::bordered().title(app.theme.shown(Line::from(title)));
    if app.theme.ascii {
        block = block.border_set(ASCII_BORDER);
    }
    frame.render_widget(Clear, place);
    let inner = Paragraph::new(Text::from(lines)).block(block);
    frame.render_widget(inner, place);
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
