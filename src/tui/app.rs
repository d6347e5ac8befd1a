//! What the dashboard knows, and what an answer does to it; what a key does is in `input.rs`. No terminal, no
//! clock, no network.

use std::time::Duration;

use crossterm::event::KeyEvent;

use super::dialog::Dialog;
use super::filter::Filter;
use super::fold::{self, Entry};
use super::theme::Theme;
use super::want::Want;
use crate::api::{
    Condition, CursorLine, EventRow, Lane, LaneShown, LogLine, NamespaceLine, NodeLine, Resize,
    Severity, Snapshot, Stream, StreamRow, Why, Window,
};
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::domain::time::Timestamp;

/// Events that are asked for at once, and kept.
pub const EVENTS_MAX: usize = 100;

/// Rows that the first screen has for lanes on the smallest terminal with a table.
const LANES_SHOWN: usize = 8;

/// Lines of the first screen that are not rows of lanes.
const LINES_BESIDE: usize = 16;

/// How long after a key the rows of lanes stay in their order.
const READS: Duration = Duration::from_secs(10);

/// Everything that is on the screen.
pub struct App {
    /// The namespace that is shown.
    pub namespace: Name,
    /// Where the daemon is, for people.
    pub place: String,
    /// How it looks.
    pub theme: Theme,
    /// Whether nothing may be done, whoever looks.
    pub read_only: bool,
    /// Now.
    pub now: Timestamp,
    /// How often the screen has news.
    pub interval: Duration,
    /// How far back the charts look.
    pub window: Window,
    /// Columns and rows of the screen.
    pub size: (u16, u16),
    /// What the daemon said last.
    pub latest: Option<Snapshot>,
    /// Whether it still says something.
    pub link: Link,
    /// What is shown instead of the latest.
    pub frozen: Option<Snapshot>,
    /// What the screen is about.
    pub view: View,
    /// The views on the way to it.
    pub trail: Vec<View>,
    /// The lane that is selected, of the first screen.
    pub lane: Option<LaneId>,
    /// Entries of the log that need somebody less than this are left out.
    pub level: Severity,
    /// Whether like entries of the log each have a line.
    pub is_unfolded: bool,
    /// Which rows are shown.
    pub filter: Filter,
    /// What keys do.
    pub mode: Mode,
    /// What lanes are sorted by.
    pub sort: Sort,
    /// Whether the order is turned round.
    pub is_reversed: bool,
    /// Whether numbers are written short even where they have room.
    pub is_short: bool,
    /// Whether the waits are shown instead of the lanes.
    pub shows_heat: bool,
    /// The finding that `!` showed last, as it is named in the verdicts.
    pub worst: Option<Target>,
    /// The lanes in the order in which they are shown where they are more than rows, by name.
    pub order: Vec<LaneId>,
    /// When a key was pressed last: while somebody reads, rows stay where they are.
    pub touched: Timestamp,
    /// What is asked.
    pub dialog: Option<Dialog>,
    /// What came of the last action.
    pub note: Option<String>,
}

/// The meaning of keys while no dialog is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They move, open and ask.
    Look,
    /// They write the filter.
    Filter,
    /// Help is shown, and they scroll or close it.
    Help {
        /// Lines above the first one that is shown.
        scroll: usize,
    },
}

/// The subject of the screen, with all that belongs to it: what the daemon has told, and what is selected.
#[allow(
    clippy::large_enum_variant,
    reason = "a dashboard has one view and a short trail"
)]
#[derive(Clone, Debug, PartialEq)]
pub enum View {
    /// All lanes.
    Overview,
    /// One lane.
    Lane(LaneView),
    /// One stream.
    Stream(StreamView),
    /// Webhooks as they come.
    Events(Events),
    /// One of them, whole.
    Event(EventView),
    /// The log; with the entry that is selected.
    Log(Option<LogLine>),
    /// The nodes; with the one that is selected.
    Nodes(Option<String>),
    /// The namespaces; with the one that is selected.
    Namespaces(Option<Name>),
}

/// One lane.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneView {
    /// The lane.
    pub id: LaneId,
    /// All of its cursors, where they are known.
    pub shown: Option<LaneShown>,
    /// The cursor that is selected.
    pub cursor: Option<(StreamName, Name)>,
}

impl LaneView {
    /// A lane of which nothing is known yet.
    pub fn new(id: LaneId) -> Self {
        Self {
            id,
            shown: None,
            cursor: None,
        }
    }
}

/// One stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamView {
    /// Its name.
    pub name: StreamName,
    /// The handler that is selected.
    pub handler: Option<Name>,
    /// The stream as the daemon has told of it.
    pub shown: Option<StreamShown>,
    /// The waiting event that is selected, counted from 0.
    pub scroll: usize,
}

impl StreamView {
    /// A stream of which nothing is known yet.
    pub fn new(name: StreamName, handler: Option<Name>) -> Self {
        Self {
            name,
            handler,
            shown: None,
            scroll: 0,
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventView {
    /// Its id.
    pub id: EventId,
    /// The event as the daemon has told of it.
    pub shown: Option<Box<EventRow>>,
    /// Lines of its body above the first one that is shown.
    pub scroll: usize,
}

impl EventView {
    /// An event of which nothing is known yet.
    pub fn new(id: EventId) -> Self {
        Self {
            id,
            shown: None,
            scroll: 0,
        }
    }
}

impl View {
    /// True if both are about the same thing, whatever is known and selected.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lane(one), Self::Lane(other)) => one.id == other.id,
            (Self::Stream(one), Self::Stream(other)) => one.name == other.name,
            (Self::Event(one), Self::Event(other)) => one.id == other.id,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// What `!` goes to: what a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A stream.
    Stream(StreamName),
    /// A lane.
    Lane(LaneId),
}

/// A stream, why it is where it is, and what waits in it.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamShown {
    /// Where its handlers are.
    pub stream: Stream,
    /// Why.
    pub why: Why,
    /// The handler whose events these are, and the next ones, in order.
    pub handler: Option<Name>,
    /// The events it needs next.
    pub waiting: Vec<EventRow>,
}

/// Webhooks as they come, the newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Events {
    /// Those that are known.
    pub rows: Vec<EventRow>,
    /// The one that is selected; none follows the newest.
    pub held: Option<EventId>,
    /// How many have come since it is held, as far as was looked.
    pub new: usize,
    /// Why there are none.
    pub why: Option<String>,
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
    /// The age of the oldest event that flows.
    Flow,
    /// Cursors set aside.
    Held,
    /// What comes.
    In,
    /// How long 99 of 100 wait.
    Wait,
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
    /// A lane as it stands.
    Lane(Result<Box<LaneShown>, String>),
    /// A stream as it stands.
    Stream(Result<Box<StreamShown>, String>),
    /// The newest events.
    Events(Result<Vec<EventRow>, String>),
    /// An event, whole.
    Event(Result<Box<EventRow>, String>),
    /// What a resize would mean.
    Plan(Result<Box<Resize>, String>),
    /// What came of an action.
    Done(Result<String, String>),
}

impl App {
    /// Nothing is known yet.
    pub fn new(namespace: Name, theme: Theme, read_only: bool, interval: Duration) -> Self {
        Self {
            namespace,
            place: String::new(),
            theme,
            read_only,
            interval,
            window: Window::default(),
            size: (80, 24),
            now: Timestamp::now(),
            latest: None,
            link: Link::Live,
            frozen: None,
            view: View::Overview,
            trail: Vec::new(),
            lane: None,
            level: Severity::Fine,
            is_unfolded: false,
            filter: Filter::default(),
            mode: Mode::Look,
            sort: Sort::Lane,
            is_reversed: false,
            is_short: false,
            shows_heat: false,
            worst: None,
            order: Vec::new(),
            touched: Timestamp::default(),
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
        let mut cursors: std::collections::HashMap<_, Vec<&CursorLine>> = Default::default();
        if !self.filter.is_empty() {
            for cursor in &snapshot.cursors {
                let lane = (cursor.generation, cursor.lane);
                cursors.entry(lane).or_default().push(cursor);
            }
        }
        let is_shown = |lane: &&Lane| {
            self.filter.is_empty() || {
                let of_lane = cursors.get(&(lane.id.generation, lane.id.index));
                let of_lane = of_lane.map_or(&[][..], Vec::as_slice);
                self.shows_lane(lane, of_lane)
            }
        };
        let mut lanes: Vec<_> = snapshot.lanes.iter().filter(is_shown).collect();
        if self.sort == Sort::Lane && self.is_crowded(lanes.len()) {
            let places = self.order.iter().enumerate();
            let places: std::collections::HashMap<_, _> =
                places.map(|(place, id)| (id, place)).collect();
            let place = |lane: &&Lane| places.get(&lane.id).copied();
            lanes.sort_by_key(|lane| place(lane).unwrap_or(usize::MAX));
        }
        self.sort.apply(&mut lanes);
        if self.is_reversed {
            lanes.reverse();
        }
        lanes
    }

    /// True if there are more lanes than the first screen has rows for them.
    fn is_crowded(&self, lanes: usize) -> bool {
        lanes > LANES_SHOWN.max(usize::from(self.size.1).saturating_sub(LINES_BESIDE))
    }

    /// Puts the lanes that need somebody first. While somebody reads only new ones are added, at the end.
    fn put_in_order(&mut self) {
        let reads = self.dialog.is_some() || self.now.since(self.touched) < READS;
        let Some(seen) = self.snapshot() else { return };
        let mut lanes: Vec<&Lane> = seen.lanes.iter().collect();
        lanes.sort_by_key(|lane| std::cmp::Reverse(lane.severity));
        let ranked: Vec<_> = lanes.iter().map(|lane| lane.id.clone()).collect();
        if !reads || self.order.is_empty() {
            self.order = ranked;
            return;
        }
        let known: std::collections::HashSet<_> = self.order.iter().cloned().collect();
        let new = ranked.into_iter().filter(|name| !known.contains(name));
        self.order.extend(new);
    }

    /// The findings that have a place to go to, the worst first, and behind them the other lanes in trouble.
    pub fn targets(&self) -> Vec<Target> {
        let Some(seen) = self.snapshot() else {
            return Vec::new();
        };
        let mut targets: Vec<Target> = Vec::new();
        let found = seen.verdicts.iter().filter_map(|verdict| {
            let stream = verdict.stream.clone().map(Target::Stream);
            stream.or_else(|| verdict.lane.clone().map(Target::Lane))
        });
        let lanes = seen.lanes.iter();
        let lanes = lanes.filter(|lane| lane.severity == Severity::Trouble);
        for target in found.chain(lanes.map(|lane| Target::Lane(lane.id.clone()))) {
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        targets
    }

    /// The stream that is shown, once the daemon has told of it.
    pub fn stream(&self) -> Option<&StreamShown> {
        match &self.view {
            View::Stream(view) => view.shown.as_ref(),
            _ => None,
        }
    }

    /// True if the handler that the stream view is about is held: its key releases it then.
    pub fn is_held(&self) -> bool {
        let shown = self.stream();
        let row = shown.and_then(|shown| self.handler_row(&shown.stream));
        row.is_some_and(|row| row.condition == Condition::Held)
    }

    fn shows_lane(&self, lane: &Lane, cursors: &[&CursorLine]) -> bool {
        let name = lane.id.to_string();
        let index = lane.id.index.to_string();
        let texts: Vec<_> = cursors.iter().map(|line| line.stream.to_string()).collect();
        let mut row = vec![
            ("lane", name.as_str()),
            ("lane", &index),
            ("state", lane.state.word()),
            ("node", lane.node.as_deref().unwrap_or("")),
        ];
        for (line, stream) in cursors.iter().zip(&texts) {
            row.push(("stream", stream));
            row.push(("hook", line.stream.hook.as_str()));
            row.push(("handler", line.handler.as_str()));
            row.push(("condition", line.condition.word()));
        }
        self.filter.shows(&row)
    }

    /// Whether a cursor is among what is shown.
    pub fn shows_cursor(&self, line: &CursorLine) -> bool {
        let stream = line.stream.to_string();
        self.filter.shows(&[
            ("stream", &stream),
            ("hook", line.stream.hook.as_str()),
            ("handler", line.handler.as_str()),
            ("condition", line.condition.word()),
            ("lane", &line.lane.to_string()),
        ])
    }

    /// The cursors of a lane that are shown: all that it has, where that is known.
    pub fn cursors(&self, lane: &Lane) -> Vec<&CursorLine> {
        let whole = match &self.view {
            View::Lane(view) => view.shown.as_ref(),
            _ => None,
        };
        let whole = whole.filter(|shown| shown.lane.id == lane.id);
        let whole = whole.filter(|_| self.frozen.is_none());
        let lines = match (whole, self.snapshot()) {
            (Some(shown), _) => &shown.cursors,
            (None, Some(snapshot)) => &snapshot.cursors,
            (None, None) => return Vec::new(),
        };
        let of_lane = lines.iter().filter(|line| line.is_in(lane));
        of_lane.filter(|line| self.shows_cursor(line)).collect()
    }

    /// The events that are shown, newest first.
    pub fn events(&self) -> Vec<&EventRow> {
        let is_shown = |row: &&EventRow| {
            let (stream, event) = (row.stream.to_string(), row.event.to_string());
            let fate = fate(row);
            let mut fields = vec![
                ("stream", stream.as_str()),
                ("hook", row.stream.hook.as_str()),
                ("event", &event),
                ("fate", &fate),
            ];
            fields.extend(
                row.fate
                    .iter()
                    .map(|fate| ("handler", fate.handler.as_str())),
            );
            self.filter.shows(&fields)
        };
        let View::Events(events) = &self.view else {
            return Vec::new();
        };
        events.rows.iter().filter(is_shown).collect()
    }

    /// The entries of the log that are shown, newest first.
    pub fn log(&self) -> Vec<Entry<'_>> {
        let log = self.snapshot().map_or(&[][..], |seen| &seen.log);
        let is_shown = |line: &&LogLine| {
            let fields = [("scope", line.scope.as_str()), ("what", &line.what)];
            line.severity >= self.level && self.filter.shows(&fields)
        };
        fold::entries(log.iter().filter(is_shown), self.is_unfolded)
    }

    /// The nodes that are shown: those that are silent or leave first.
    pub fn nodes(&self) -> Vec<&NodeLine> {
        let nodes = self.snapshot().map_or(&[][..], |seen| &seen.nodes);
        // The filter chooses the rows of the screen, not those of a panel beside them.
        let is_list = matches!(self.view, View::Nodes(_));
        let is_shown = |node: &&NodeLine| !is_list || self.filter.shows(&[("node", &node.node)]);
        let mut nodes: Vec<_> = nodes.iter().filter(is_shown).collect();
        nodes.sort_by_key(|node| !is_in_trouble(node));
        nodes
    }

    /// The namespaces that are shown.
    pub fn namespaces(&self) -> Vec<&NamespaceLine> {
        let lines = self.snapshot().map_or(&[][..], |seen| &seen.namespaces);
        let is_list = matches!(self.view, View::Namespaces(_));
        let is_shown = |line: &&NamespaceLine| {
            !is_list || self.filter.shows(&[("namespace", line.namespace.as_str())])
        };
        lines.iter().filter(is_shown).collect()
    }

    /// This lane.
    pub fn find(&self, id: &LaneId) -> Option<&Lane> {
        self.snapshot()?.lanes.iter().find(|lane| lane.id == *id)
    }

    /// The row that is selected, counted from 0.
    pub fn selected(&self, lanes: &[&Lane]) -> Option<usize> {
        let id = self.lane.as_ref()?;
        lanes.iter().position(|lane| lane.id == *id)
    }

    /// The row of a lane's cursors that is selected.
    pub fn cursor_row(&self, cursors: &[&CursorLine]) -> usize {
        let is_it = |line: &&CursorLine| {
            let View::Lane(view) = &self.view else {
                return false;
            };
            let known = view.cursor.as_ref();
            known
                .is_some_and(|(stream, handler)| line.stream == *stream && line.handler == *handler)
        };
        cursors.iter().position(is_it).unwrap_or(0)
    }

    /// The handler of a stream that the screen is about: the selected one, else the first that has work.
    pub fn handler_row<'s>(&self, stream: &'s Stream) -> Option<&'s StreamRow> {
        let named = |row: &&StreamRow| match &self.view {
            View::Stream(view) => Some(&row.handler) == view.handler.as_ref(),
            _ => false,
        };
        let cursors = stream.cursors.iter();
        let selected = cursors.clone().find(named);
        let behind = cursors.clone().find(|row| row.behind > 0);
        selected.or(behind).or_else(|| stream.cursors.first())
    }

    /// Rows that a list has room for.
    pub fn page(&self) -> usize {
        usize::from(self.size.1)
            .saturating_sub(8)
            .clamp(1, EVENTS_MAX)
    }

    /// Takes in what happened; says what is to be done.
    pub fn update(&mut self, message: Message) -> Option<Want> {
        match message {
            Message::Redraw => None,
            Message::Key(key) => self.key(key),
            Message::Snapshot(snapshot) => self.see(*snapshot),
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
            Message::Lane(Ok(shown)) => {
                if let View::Lane(view) = &mut self.view
                    && view.id == shown.lane.id
                {
                    view.shown = Some(*shown);
                }
                None
            }
            // Somebody who may only look sees what the snapshot has.
            Message::Lane(Err(_)) => None,
            Message::Stream(Ok(stream)) => {
                if let View::Stream(view) = &mut self.view
                    && view.name == stream.stream.stream
                {
                    view.shown = Some(*stream);
                    self.keep_dialog();
                }
                None
            }
            Message::Events(answer) => {
                if let View::Events(events) = &mut self.view {
                    match answer {
                        Ok(rows) => events.take(rows),
                        Err(why) => events.why = Some(why),
                    }
                }
                None
            }
            Message::Event(Ok(event)) => {
                if let View::Event(view) = &mut self.view
                    && view.id == event.event
                {
                    view.shown = Some(event);
                }
                None
            }
            Message::Plan(Ok(plan)) if plan.from == plan.to => {
                let lanes = crate::text::counted(u64::from(plan.to), "lane", "lanes");
                self.note = Some(format!("already {lanes}"));
                None
            }
            Message::Plan(Ok(plan)) => {
                self.dialog = Some(Dialog::resize(&plan, self.now));
                None
            }
            Message::Done(Ok(said)) => {
                self.note = Some(said);
                None
            }
            Message::Stream(Err(why))
            | Message::Event(Err(why))
            | Message::Plan(Err(why))
            | Message::Done(Err(why)) => {
                self.note = Some(why);
                None
            }
        }
    }

    fn see(&mut self, snapshot: Snapshot) -> Option<Want> {
        self.link = Link::Live;
        let is_other_process = self.latest.as_ref().is_some_and(|before| {
            before.node == snapshot.node && before.started_at < snapshot.started_at
        });
        if is_other_process {
            let at = super::frame::clock(snapshot.started_at);
            self.note = Some(format!("restarted {at}, counters from there"));
        }
        self.latest = Some(snapshot);
        self.put_in_order();
        self.keep_selection();
        self.keep_dialog();
        match self.frozen {
            None => self.refresh(),
            Some(_) => None,
        }
    }

    /// What the view needs besides the snapshot.
    pub fn refresh(&self) -> Option<Want> {
        match &self.view {
            View::Lane(view) => Some(Want::Lane(view.id.clone())),
            View::Stream(view) => Some(Want::Stream(view.name.clone(), view.handler.clone())),
            View::Events(_) => {
                let stream = self
                    .filter
                    .wants("stream")
                    .and_then(|text| text.parse().ok());
                let hook = self.filter.wants("hook").and_then(|text| text.parse().ok());
                let hook = hook.filter(|hook| self.knows_hook(hook));
                // What is left out must not leave the page empty.
                let count = if self.filter.is_empty() {
                    self.page()
                } else {
                    EVENTS_MAX
                };
                Some(Want::Events(hook, stream, count))
            }
            View::Overview
            | View::Event(_)
            | View::Log(_)
            | View::Nodes(_)
            | View::Namespaces(_) => None,
        }
    }

    /// A part of a hook's name is a filter, too, but nothing that the daemon could be asked for.
    fn knows_hook(&self, hook: &Name) -> bool {
        let hooks = self.latest.iter().flat_map(|seen| &seen.hooks);
        hooks.map(|line| &line.hook).any(|known| known == hook)
    }

    /// A dialog whose plan is not true any more goes, and nothing is done.
    fn keep_dialog(&mut self) {
        let Some(dialog) = &self.dialog else { return };
        let shown = self.stream().map(|shown| &shown.stream);
        if self
            .latest
            .as_ref()
            .is_some_and(|seen| !dialog.is_true(seen, shown))
        {
            self.dialog = None;
            self.note = Some("changed meanwhile, nothing was done".to_owned());
        }
    }

    /// The lane that is selected, of those that are shown: nothing is done to one that is not.
    pub fn chosen(&self) -> Option<&Lane> {
        let lanes = self.lanes();
        let at = self.selected(&lanes).unwrap_or(0);
        lanes.get(at).copied()
    }

    /// A lane that is gone is not selected any more; one that is only filtered out is, once it is shown again.
    fn keep_selection(&mut self) {
        let is_there = |id: &LaneId| self.find(id).is_some();
        if !self.lane.as_ref().is_some_and(is_there) {
            self.lane = self.chosen().map(|lane| lane.id.clone());
        }
    }
}

/// Whether a node is not as the others are.
pub fn is_in_trouble(node: &NodeLine) -> bool {
    node.leaving || node.beat_ms.is_some_and(|ms| ms > 9_000)
}

/// What became of an event: `done`, or the first handler that is not.
pub fn fate(row: &EventRow) -> String {
    use crate::api::Outcome::{Folded, Held, Skipped, Waiting};
    let open = row.fate.iter().find(|fate| fate.outcome != Folded);
    open.map_or_else(
        || "done".to_owned(),
        |fate| match fate.outcome {
            Waiting => format!("{} waits", fate.handler),
            Held => format!("{} held", fate.handler),
            Skipped => format!("{} dead", fate.handler),
            Folded => "done".to_owned(),
        },
    )
}

impl Events {
    /// Takes in the newest events; where one is held, only how many there are before it.
    fn take(&mut self, rows: Vec<EventRow>) {
        self.why = None;
        let Some(newest) = self.rows.first().filter(|_| self.held.is_some()) else {
            (self.rows, self.new) = (rows, 0);
            return;
        };
        let at = rows.iter().position(|row| row.event == newest.event);
        self.new = at.unwrap_or(rows.len());
    }
}

impl Sort {
    /// The next one.
    pub fn next(self) -> Self {
        match self {
            Self::Lane => Self::Oldest,
            Self::Oldest => Self::Flow,
            Self::Flow => Self::Held,
            Self::Held => Self::Backlog,
            Self::Backlog => Self::In,
            Self::In => Self::Wait,
            Self::Wait => Self::Lane,
        }
    }

    fn apply(self, lanes: &mut [&Lane]) {
        use std::cmp::Reverse;
        let whole = |rate: Option<f64>| (rate.unwrap_or(-1.0) * 1_000.0) as i64;
        match self {
            Self::Lane => {}
            Self::Oldest => lanes.sort_by_key(|lane| Reverse(lane.oldest_ms)),
            Self::Flow => lanes.sort_by_key(|lane| Reverse(lane.flow_ms)),
            Self::Held => lanes.sort_by_key(|lane| Reverse(lane.set_aside)),
            Self::Backlog => lanes.sort_by_key(|lane| Reverse(lane.backlog)),
            Self::In => lanes.sort_by_key(|lane| Reverse(whole(lane.in_per_s))),
            Self::Wait => {
                lanes.sort_by_key(|lane| Reverse(whole(lane.wait_ms.map(|wait| wait.p99))));
            }
        }
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lane => "lane",
            Self::Oldest => "oldest",
            Self::Flow => "flow",
            Self::Held => "held",
            Self::Backlog => "backlog",
            Self::In => "in/s",
            Self::Wait => "p99",
        }
    }
}
