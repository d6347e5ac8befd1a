//! What the dashboard knows, and what a key or an answer does to it. No terminal, no clock, no network.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::dialog::Dialog;
use super::theme::Theme;
use crate::api::{CursorLine, Lane, LaneState, Resize, Severity, Snapshot, Stream};
use crate::domain::event::EventId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;

/// A page of rows.
const PAGE: usize = 10;

/// Everything that is on the screen.
pub struct App {
    /// The namespace that is shown.
    pub namespace: Name,
    /// How it looks.
    pub theme: Theme,
    /// Whether nothing may be done, whoever looks.
    pub read_only: bool,
    /// Now.
    pub now: Timestamp,
    /// How often it is asked for news.
    pub interval: Duration,
    /// What the daemon said last.
    pub latest: Option<Snapshot>,
    /// Whether it still says something.
    pub link: Link,
    /// What is shown instead of the latest.
    pub frozen: Option<Snapshot>,
    /// What the screen is about.
    pub view: View,
    /// The stream whose cursors are shown.
    pub stream: Option<Stream>,
    /// The lane that is selected, by name.
    pub lane: Option<String>,
    /// The cursor that is selected, in a lane.
    pub cursor: Option<(StreamName, Name)>,
    /// Rows with these words are shown.
    pub filter: String,
    /// Whether the filter is being written.
    pub is_filtering: bool,
    /// What lanes are sorted by.
    pub sort: Sort,
    /// Whether the largest come first.
    pub is_reversed: bool,
    /// Whether help is shown.
    pub shows_help: bool,
    /// What is asked.
    pub dialog: Option<Dialog>,
    /// What came of the last action.
    pub note: Option<String>,
}

/// What the screen is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// All lanes.
    Overview,
    /// One lane, by name.
    Lane(String),
    /// One stream.
    Stream(StreamName),
    /// What happened.
    Log,
}

/// Whether the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It does.
    Live,
    /// It does not.
    Lost {
        /// Since when.
        since: Timestamp,
        /// Why.
        why: String,
        /// When it is asked again.
        retry_at: Timestamp,
        /// How often it was asked.
        tries: u32,
    },
}

/// What lanes are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Their numbers: rows do not jump.
    Lane,
    /// The age of the oldest event.
    Oldest,
    /// What waits.
    Backlog,
    /// What comes.
    In,
}

/// What is to be done for the dashboard.
#[derive(Clone, Debug, PartialEq)]
pub enum Want {
    /// End it; the screen stays behind or not.
    Quit {
        /// Whether it stays.
        leave_screen: bool,
    },
    /// End it as Ctrl-C ends any command.
    Interrupt,
    /// Stop until the shell lets it go on.
    Suspend,
    /// The cursors of a stream.
    Stream(StreamName),
    /// What a resize would mean.
    Plan(u16),
    /// Change something.
    Do(Action),
    /// Put a text into the clipboard of the terminal.
    Copy(String),
    /// Write the screen to a file.
    Save,
}

/// Something that is changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `pause`, `resume` or `drain` of a lane.
    Lane(&'static str, String),
    /// Another number of lanes, as planned.
    Resize(Resize),
    /// A set-aside stream tries now.
    Retry(StreamName),
    /// The next event of a stream goes to the dead letters.
    Skip(StreamName, EventId),
}

/// Something that happened.
pub enum Message {
    /// A key.
    Key(KeyEvent),
    /// The terminal has another size, or is to be drawn again.
    Redraw,
    /// What the daemon says.
    Snapshot(Box<Snapshot>),
    /// It says nothing.
    Lost {
        /// Why.
        why: String,
        /// When it is asked again.
        retry_at: Timestamp,
    },
    /// A stream as it stands.
    Stream(Result<Stream, String>),
    /// What a resize would mean.
    Plan(Result<Resize, String>),
    /// What came of an action.
    Done(Result<String, String>),
}

impl App {
    /// Nothing is known yet.
    pub fn new(namespace: Name, theme: Theme, read_only: bool, interval: Duration) -> Self {
        Self {
            namespace,
            theme,
            read_only,
            interval,
            now: Timestamp::now(),
            latest: None,
            link: Link::Live,
            frozen: None,
            view: View::Overview,
            stream: None,
            lane: None,
            cursor: None,
            filter: String::new(),
            is_filtering: false,
            sort: Sort::Lane,
            is_reversed: false,
            shows_help: false,
            dialog: None,
            note: None,
        }
    }

    /// What is on the screen: the latest, or what it was frozen at.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.frozen.as_ref().or(self.latest.as_ref())
    }

    /// Whether the one who looks may change something.
    pub fn may_act(&self) -> bool {
        let may = self.latest.as_ref().is_some_and(|seen| seen.viewer.may_act);
        may && !self.read_only
    }

    /// The lanes that are shown, in their order.
    pub fn lanes(&self) -> Vec<&Lane> {
        let Some(snapshot) = self.snapshot() else {
            return Vec::new();
        };
        let mut lanes: Vec<_> = snapshot.lanes.iter().filter(|l| self.is_shown(l)).collect();
        match self.sort {
            Sort::Lane => {}
            Sort::Oldest => lanes.sort_by_key(|lane| std::cmp::Reverse(lane.oldest_ms)),
            Sort::Backlog => lanes.sort_by_key(|lane| std::cmp::Reverse(lane.backlog)),
            Sort::In => lanes.sort_by(|a, b| {
                let rate = |lane: &Lane| lane.in_per_s.unwrap_or(0.0);
                rate(b).total_cmp(&rate(a))
            }),
        }
        if self.is_reversed {
            lanes.reverse();
        }
        lanes
    }

    fn is_shown(&self, lane: &Lane) -> bool {
        let text = format!(
            "{} {} {} lane:{} state:{}",
            lane.lane,
            lane.state.word(),
            lane.node.as_deref().unwrap_or(""),
            lane.index,
            lane.state.word()
        );
        self.filter
            .split_whitespace()
            .all(|word| match word.strip_prefix('-') {
                Some(word) if !word.is_empty() => !text.contains(word),
                _ => text.contains(word),
            })
    }

    /// The cursors of a lane that are shown.
    pub fn cursors(&self, lane: &Lane) -> Vec<&CursorLine> {
        let Some(snapshot) = self.snapshot() else {
            return Vec::new();
        };
        let of_lane = snapshot
            .cursors
            .iter()
            .filter(|line| line.lane == lane.index);
        of_lane
            .filter(|line| line.stream.to_string().contains(&self.filter))
            .collect()
    }

    /// The lane of this name.
    pub fn find(&self, name: &str) -> Option<&Lane> {
        self.snapshot()?.lanes.iter().find(|lane| lane.lane == name)
    }

    /// The row that is selected, counted from 0.
    pub fn selected(&self, lanes: &[&Lane]) -> Option<usize> {
        let name = self.lane.as_ref()?;
        lanes.iter().position(|lane| lane.lane == *name)
    }

    /// Takes in what happened; says what is to be done.
    pub fn update(&mut self, message: Message) -> Option<Want> {
        match message {
            Message::Redraw => None,
            Message::Key(key) => self.key(key),
            Message::Snapshot(snapshot) => {
                self.link = Link::Live;
                let is_other_process = self.latest.as_ref().is_some_and(|before| {
                    before.node == snapshot.node && before.started_at < snapshot.started_at
                });
                if is_other_process {
                    let at = super::overview::clock(snapshot.started_at);
                    self.note = Some(format!("restarted {at}, counters from there"));
                }
                self.latest = Some(*snapshot);
                self.keep_selection();
                match &self.view {
                    View::Stream(stream) if self.frozen.is_none() => {
                        Some(Want::Stream(stream.clone()))
                    }
                    _ => None,
                }
            }
            Message::Lost { why, retry_at } => {
                let (since, tries) = match &self.link {
                    Link::Live => (self.now, 0),
                    Link::Lost { since, tries, .. } => (*since, *tries),
                };
                self.link = Link::Lost {
                    since,
                    why,
                    retry_at,
                    tries: tries + 1,
                };
                None
            }
            Message::Stream(Ok(stream)) => {
                self.stream = Some(stream);
                None
            }
            Message::Plan(Ok(plan)) => {
                self.dialog = Some(Dialog::resize(&plan));
                None
            }
            Message::Done(Ok(said)) => {
                self.note = Some(said);
                None
            }
            Message::Stream(Err(why)) | Message::Plan(Err(why)) | Message::Done(Err(why)) => {
                self.note = Some(why);
                None
            }
        }
    }

    fn keep_selection(&mut self) {
        let is_there = self
            .lane
            .as_ref()
            .is_some_and(|name| self.find(name).is_some());
        if !is_there {
            let first = self.lanes().first().map(|lane| lane.lane.clone());
            self.lane = first;
        }
    }

    fn key(&mut self, key: KeyEvent) -> Option<Want> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Want::Interrupt),
                KeyCode::Char('z') => Some(Want::Suspend),
                _ => None,
            };
        }
        if let Some(dialog) = &mut self.dialog {
            let (is_over, want) = dialog.key(key.code);
            if is_over {
                self.dialog = None;
            }
            return want;
        }
        if self.shows_help {
            self.shows_help = false;
            return None;
        }
        if self.is_filtering {
            self.write_filter(key.code);
            return None;
        }
        self.note = None;
        match key.code {
            KeyCode::Char('q') => Some(Want::Quit {
                leave_screen: false,
            }),
            KeyCode::Char('Q') => Some(Want::Quit { leave_screen: true }),
            KeyCode::Char('?') => {
                self.shows_help = true;
                None
            }
            KeyCode::Char('f') => {
                self.frozen = match self.frozen.take() {
                    Some(_) => None,
                    None => self.latest.clone(),
                };
                None
            }
            KeyCode::Char('/') => {
                self.is_filtering = true;
                None
            }
            KeyCode::Char('l') => {
                self.view = View::Log;
                None
            }
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                None
            }
            KeyCode::Char('S') => {
                self.is_reversed = !self.is_reversed;
                None
            }
            KeyCode::Char('o') => Some(Want::Save),
            KeyCode::Char('c') => self.copied(),
            KeyCode::Char('!') => self.go_to_worst(),
            KeyCode::Esc => {
                self.back();
                None
            }
            KeyCode::Enter => self.open(),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-(PAGE as isize)),
            KeyCode::PageDown => self.go(PAGE as isize),
            KeyCode::Char('g') | KeyCode::Home => self.go(isize::MIN / 2),
            KeyCode::Char('G') | KeyCode::End => self.go(isize::MAX / 2),
            KeyCode::Char('r') => self.ask(Dialog::ask_count),
            KeyCode::Char('a') => self.menu(),
            KeyCode::Char('R') => self.retry(),
            KeyCode::Char('K') => self.skip(),
            _ => None,
        }
    }

    fn write_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Esc => {
                self.filter.clear();
                self.is_filtering = false;
            }
            KeyCode::Enter => self.is_filtering = false,
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        self.keep_selection();
    }

    fn back(&mut self) {
        match &self.view {
            _ if !self.filter.is_empty() => self.filter.clear(),
            View::Stream(_) => {
                self.stream = None;
                let lane = self.lane.clone();
                self.view = lane.map_or(View::Overview, View::Lane);
            }
            _ => self.view = View::Overview,
        }
    }

    fn open(&mut self) -> Option<Want> {
        match &self.view {
            View::Overview => {
                let lane = self.lane.clone()?;
                self.cursor = None;
                self.view = View::Lane(lane);
                None
            }
            View::Lane(name) => {
                let lane = self.find(name)?;
                let cursors = self.cursors(lane);
                let at = self.cursor_row(&cursors);
                let stream = cursors.get(at)?.stream.clone();
                self.view = View::Stream(stream.clone());
                Some(Want::Stream(stream))
            }
            View::Stream(_) | View::Log => None,
        }
    }

    /// The row of a lane's cursors that is selected.
    pub fn cursor_row(&self, cursors: &[&CursorLine]) -> usize {
        let is_it = |line: &&CursorLine| {
            let known = self.cursor.as_ref();
            known
                .is_some_and(|(stream, handler)| line.stream == *stream && line.handler == *handler)
        };
        cursors.iter().position(is_it).unwrap_or(0)
    }

    fn go(&mut self, by: isize) -> Option<Want> {
        let moved = |at: usize, len: usize| {
            let at = isize::try_from(at).unwrap_or(0).saturating_add(by);
            let last = isize::try_from(len.saturating_sub(1)).unwrap_or(0);
            usize::try_from(at.clamp(0, last)).unwrap_or(0)
        };
        match &self.view {
            View::Overview => {
                let lanes = self.lanes();
                let at = self.selected(&lanes).unwrap_or(0);
                let lane = lanes.get(moved(at, lanes.len()));
                self.lane = lane.map(|lane| lane.lane.clone());
            }
            View::Lane(name) => {
                let cursors = self.cursors(self.find(name)?);
                let at = moved(self.cursor_row(&cursors), cursors.len());
                let line = cursors.get(at);
                self.cursor = line.map(|line| (line.stream.clone(), line.handler.clone()));
            }
            View::Stream(_) | View::Log => {}
        }
        None
    }

    fn go_to_worst(&mut self) -> Option<Want> {
        let worst = self.snapshot()?.verdicts.first()?.clone();
        if let Some(stream) = worst.stream {
            let lane = self
                .snapshot()?
                .cursors
                .iter()
                .find(|line| line.stream == stream);
            let index = lane.map(|line| line.lane);
            let lane = self
                .snapshot()?
                .lanes
                .iter()
                .find(|lane| Some(lane.index) == index);
            let lane = lane.map(|lane| lane.lane.clone());
            self.lane = lane.or(self.lane.take());
            self.view = View::Stream(stream.clone());
            return Some(Want::Stream(stream));
        }
        let lanes = self.lanes();
        let bad = lanes.iter().find(|lane| lane.severity == Severity::Trouble);
        let lane = worst.lane.or_else(|| bad.map(|lane| lane.lane.clone()))?;
        self.lane = Some(lane.clone());
        self.view = View::Lane(lane);
        None
    }

    fn copied(&self) -> Option<Want> {
        Some(Want::Copy(match &self.view {
            View::Stream(stream) => stream.to_string(),
            View::Lane(lane) => {
                let cursors = self.cursors(self.find(lane)?);
                let line = cursors.get(self.cursor_row(&cursors));
                line.map_or_else(|| lane.clone(), |line| line.stream.to_string())
            }
            View::Overview | View::Log => self.lane.clone()?,
        }))
    }

    fn refuse(&mut self) -> Option<Want> {
        let viewer = self.latest.as_ref().map(|seen| seen.viewer.name.clone());
        self.note = Some(match self.read_only {
            true => "--read-only: nothing can be changed from here".to_owned(),
            false => format!("{} may not change anything", viewer.unwrap_or_default()),
        });
        None
    }

    fn ask(&mut self, dialog: impl FnOnce(&Snapshot) -> Dialog) -> Option<Want> {
        if !self.may_act() {
            return self.refuse();
        }
        self.dialog = Some(dialog(self.latest.as_ref()?));
        None
    }

    fn menu(&mut self) -> Option<Want> {
        if let View::Stream(_) = self.view {
            return match self.may_act() {
                true => {
                    self.note = Some("R retry   K skip its next event".to_owned());
                    None
                }
                false => self.refuse(),
            };
        }
        let lane = self.find(self.lane.as_ref()?)?;
        let (name, state) = (lane.lane.clone(), lane.state);
        let mut items = Vec::new();
        if matches!(state, LaneState::Active | LaneState::NoOwner) {
            items.push("drain");
            items.push("pause");
        } else {
            items.push("resume");
        }
        self.ask(|_| Dialog::menu(name, items))
    }

    fn retry(&mut self) -> Option<Want> {
        let View::Stream(stream) = self.view.clone() else {
            return None;
        };
        self.ask(|_| Dialog::retry(stream))
    }

    fn skip(&mut self) -> Option<Want> {
        let View::Stream(stream) = self.view.clone() else {
            return None;
        };
        let next = self
            .stream
            .as_ref()?
            .cursors
            .iter()
            .find_map(|cursor| cursor.next);
        match next {
            Some(event) => self.ask(|_| Dialog::skip(stream, event)),
            None => {
                let name = stream.to_string();
                self.note = Some(format!("{name} waits for nothing that could be skipped"));
                None
            }
        }
    }
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::Lane => Self::Oldest,
            Self::Oldest => Self::Backlog,
            Self::Backlog => Self::In,
            Self::In => Self::Lane,
        }
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lane => "lane",
            Self::Oldest => "oldest",
            Self::Backlog => "backlog",
            Self::In => "in/s",
        }
    }
}
