//! State of the dashboard, and the changes that answers make to it. Keys are in `input.rs`. This file
//! uses no terminal, no clock and no network.

use std::time::Duration;

use crossterm::event::KeyEvent;

use super::dialog::Dialog;
use super::effect::Effect;
use super::filter::Filter;
use super::fold::{self, Entry};
use super::sort::Sort;
use super::theme::Theme;
use super::view::{StreamShown, Target, View};
use crate::api::{
    Condition, CursorLine, EventRow, Fate, Lane, LaneDetail, LogLine, NamespaceLine, NodeLine,
    Resize, Severity, Snapshot, Stream, StreamRow, Window,
};
use crate::domain::lane::LaneId;
use crate::domain::name::Name;
use crate::domain::time::Timestamp;

/// Number of events requested and kept at most.
pub const EVENTS_MAX: usize = 100;

/// Rows for lanes on the overview of the smallest terminal that shows a table.
const LANES_SHOWN: usize = 8;

/// Lines of the overview that are not rows of lanes.
const LINES_BESIDE: usize = 16;

/// Time after a key press during which the rows of lanes keep their order.
const READS: Duration = Duration::from_secs(10);

/// State of the dashboard: data from the daemon, and choices of the user.
pub struct App {
    /// The namespace shown.
    pub namespace: Name,
    /// Address of the daemon, for display.
    pub place: String,
    /// Colours and characters that the terminal can show.
    pub theme: Theme,
    /// True if the dashboard was started without actions (`--read-only`).
    pub read_only: bool,
    /// Present time, set by the loop before each message.
    pub now: Timestamp,
    /// Interval between snapshots.
    pub interval: Duration,
    /// Time span of the charts.
    pub window: Window,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// Latest snapshot from the daemon; `None` before the first.
    pub latest: Option<Snapshot>,
    /// State of the connection to the daemon.
    pub link: Link,
    /// Snapshot shown while the screen is frozen; `None` shows the latest.
    pub frozen: Option<Snapshot>,
    /// The view shown.
    pub view: View,
    /// Views to go back to; the last one is the next.
    pub trail: Vec<View>,
    /// The lane that is selected, of the first screen.
    pub lane: Option<LaneId>,
    /// Entries of the log that need somebody less than this are left out.
    pub level: Severity,
    /// True if equal log entries have a line each instead of being folded into one.
    pub is_unfolded: bool,
    /// Filter of the rows.
    pub filter: Filter,
    /// Present meaning of keys.
    pub mode: Mode,
    /// Column by which lanes are sorted.
    pub sort: Sort,
    /// True if the sort order is reversed.
    pub is_reversed: bool,
    /// True if numbers are abbreviated even where they fit.
    pub is_short: bool,
    /// True if the heat map of waits is shown in place of the lanes.
    pub shows_heat: bool,
    /// Subject of the finding that `!` showed last.
    pub worst: Option<Target>,
    /// The lanes in the order in which they are shown where they are more than rows, by name.
    pub order: Vec<LaneId>,
    /// Time of the last key press: while somebody reads, rows stay where they are.
    pub touched: Timestamp,
    /// The open dialog.
    pub dialog: Option<Dialog>,
    /// Result of the last action.
    pub note: Option<String>,
}

/// Meaning of keys while no dialog is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Keys move, open views and open dialogs.
    Look,
    /// Keys write the filter.
    Filter,
    /// Help is open: keys scroll or close it.
    Help {
        /// Help lines scrolled off above.
        scroll: usize,
    },
}

/// State of the connection to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// The daemon answers.
    Live,
    /// The daemon does not answer.
    Lost {
        /// Time of the first failure.
        since: Timestamp,
        /// Cause of the last failure.
        why: String,
        /// Time of the next try.
        retry_at: Timestamp,
        /// Number of tries so far.
        tries: u32,
    },
}

/// Something that the loop reports to the dashboard.
pub enum Message {
    /// A key press.
    Key(KeyEvent),
    /// The terminal changed its size, or must be drawn again.
    Redraw,
    /// A snapshot from the daemon.
    Snapshot(Box<Snapshot>),
    /// The daemon does not answer.
    Lost {
        /// Cause of the failure.
        why: String,
        /// Time of the next try.
        retry_at: Timestamp,
    },
    /// A lane, or the cause for which it could not be read.
    Lane(Result<Box<LaneDetail>, String>),
    /// A stream, or the cause for which it could not be read.
    Stream(Result<Box<StreamShown>, String>),
    /// The newest events, or the cause for which they could not be read.
    Events(Result<Vec<EventRow>, String>),
    /// An event, or the cause for which it could not be read.
    Event(Result<Box<EventRow>, String>),
    /// The plan of a resize, or the cause for which there is none.
    Plan(Result<Box<Resize>, String>),
    /// The result of an action.
    Done(Result<String, String>),
}

impl App {
    /// A dashboard without data.
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

    /// The snapshot to show: the frozen one, or the latest.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.frozen.as_ref().or(self.latest.as_ref())
    }

    /// True if the user may act.
    pub fn may_act(&self) -> bool {
        let may = self.latest.as_ref().is_some_and(|seen| seen.viewer.may_act);
        may && !self.read_only
    }

    /// The lanes that pass the filter, in display order.
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

    /// True if there are more lanes than rows for them.
    fn is_crowded(&self, lanes: usize) -> bool {
        lanes > LANES_SHOWN.max(usize::from(self.size.1).saturating_sub(LINES_BESIDE))
    }

    /// Updates [`Self::order`]: lanes in trouble first. Within [`READS`] of a key press the order is
    /// kept and new lanes are added at the end.
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

    /// Subjects of the findings, worst first, then the other lanes in trouble.
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

    /// The stream shown, if it has been received.
    pub fn stream(&self) -> Option<&StreamShown> {
        match &self.view {
            View::Stream(view) => view.shown.as_deref(),
            _ => None,
        }
    }

    /// True if the selected handler of the stream view is held, so that its key releases it.
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

    /// True if a cursor passes the filter.
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

    /// The cursors of a lane that pass the filter: of all of them if they are known, otherwise of those
    /// in the snapshot.
    pub fn cursors(&self, lane: &Lane) -> Vec<&CursorLine> {
        let whole = match &self.view {
            View::Lane(view) => view.shown.as_deref(),
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

    /// The events that pass the filter, newest first.
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

    /// The log entries that pass the filter and the level, newest first.
    pub fn log(&self) -> Vec<Entry<'_>> {
        let log = self.snapshot().map_or(&[][..], |seen| &seen.log);
        let is_shown = |line: &&LogLine| {
            let fields = [("scope", line.scope.as_str()), ("what", &line.what)];
            line.severity >= self.level && self.filter.shows(&fields)
        };
        fold::entries(log.iter().filter(is_shown), self.is_unfolded)
    }

    /// The nodes shown, silent and leaving ones first.
    pub fn nodes(&self) -> Vec<&NodeLine> {
        let nodes = self.snapshot().map_or(&[][..], |seen| &seen.nodes);
        // The filter applies to the main list only, not to a panel beside it.
        let is_list = matches!(self.view, View::Nodes(_));
        let is_shown = |node: &&NodeLine| !is_list || self.filter.shows(&[("node", &node.node)]);
        let mut nodes: Vec<_> = nodes.iter().filter(is_shown).collect();
        nodes.sort_by_key(|node| std::cmp::Reverse(severity(node)));
        nodes
    }

    /// The namespaces that pass the filter.
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

    /// Index of the selected lane in `lanes`.
    pub fn selected(&self, lanes: &[&Lane]) -> Option<usize> {
        let id = self.lane.as_ref()?;
        lanes.iter().position(|lane| lane.id == *id)
    }

    /// Index of the selected cursor in `cursors`.
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

    /// The row of the stream view's handler: the selected one, otherwise the first with work.
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

    /// Number of rows that fit in a list.
    pub fn page(&self) -> usize {
        usize::from(self.size.1)
            .saturating_sub(8)
            .clamp(1, EVENTS_MAX)
    }

    /// Processes a message; returns work for the loop, if any.
    pub fn update(&mut self, message: Message) -> Option<Effect> {
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
                    view.shown = Some(shown);
                }
                None
            }
            // A user without the right to read more still sees the snapshot's cursors.
            Message::Lane(Err(_)) => None,
            Message::Stream(Ok(stream)) => {
                if let View::Stream(view) = &mut self.view
                    && view.name == stream.stream.stream
                {
                    view.shown = Some(stream);
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

    fn see(&mut self, snapshot: Snapshot) -> Option<Effect> {
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

    /// The request for data of the view that a snapshot does not have.
    pub fn refresh(&self) -> Option<Effect> {
        match &self.view {
            View::Lane(view) => Some(Effect::Lane(view.id.clone())),
            View::Stream(view) => Some(Effect::Stream(view.name.clone(), view.handler.clone())),
            View::Events(_) => {
                let stream = self
                    .filter
                    .wants("stream")
                    .and_then(|text| text.parse().ok());
                let hook = self.filter.wants("hook").and_then(|text| text.parse().ok());
                let hook = hook.filter(|hook| self.knows_hook(hook));
                // The filter may remove rows, so a full page is requested even then.
                let count = if self.filter.is_empty() {
                    self.page()
                } else {
                    EVENTS_MAX
                };
                Some(Effect::Events(hook, stream, count))
            }
            View::Overview
            | View::Event(_)
            | View::Log(_)
            | View::Nodes(_)
            | View::Namespaces(_) => None,
        }
    }

    /// True if the hook exists. The filter may hold part of a name, which the daemon would refuse.
    fn knows_hook(&self, hook: &Name) -> bool {
        let hooks = self.latest.iter().flat_map(|seen| &seen.hooks);
        hooks.map(|line| &line.hook).any(|known| known == hook)
    }

    /// Closes the dialog, without an action, if its plan no longer holds.
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

    /// The selected lane, if it is shown: hidden lanes cannot be acted on.
    pub fn chosen(&self) -> Option<&Lane> {
        let lanes = self.lanes();
        let at = self.selected(&lanes).unwrap_or(0);
        lanes.get(at).copied()
    }

    /// Drops the selection of a lane that no longer exists; a lane that is only filtered out stays
    /// selected.
    fn keep_selection(&mut self) {
        let is_there = |id: &LaneId| self.find(id).is_some();
        if !self.lane.as_ref().is_some_and(is_there) {
            self.lane = self.chosen().map(|lane| lane.id.clone());
        }
    }
}

/// Severity of a node. As in the verdicts, its silence is a finding after 2 s, and its lanes have no owner
/// after 9 s.
pub fn severity(node: &NodeLine) -> Severity {
    match node.beat_ms.unwrap_or(0) {
        9_000.. if !node.leaving => Severity::Trouble,
        2_000.. => Severity::Unusual,
        _ if node.leaving => Severity::Unusual,
        _ => Severity::Fine,
    }
}

/// Fate of an event in a word: `done`, or the first handler that has not applied it.
pub fn fate(row: &EventRow) -> String {
    use crate::api::Outcome::{Delivered, Folded, Held, Passed, Skipped, Waiting};
    let is_done = |fate: &&Fate| matches!(fate.outcome, Folded | Delivered | Passed);
    let open = row.fate.iter().find(|fate| !is_done(fate));
    open.map_or_else(
        || "done".to_owned(),
        |fate| match fate.outcome {
            Waiting => format!("{} waits", fate.handler),
            Held => format!("{} held", fate.handler),
            Skipped => format!("{} dead", fate.handler),
            Folded | Delivered | Passed => "done".to_owned(),
        },
    )
}
