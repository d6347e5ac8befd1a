//! Key handling. No letter changes anything by itself: keys that act open a dialog.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::app::{App, Mode};
use super::dialog::{Dialog, Item};
use super::effect::Effect;
use super::fold::Entry;
use super::view::{EventView, Events, LaneView, StreamView, Target, View};
use crate::api::{Condition, LaneState, Outcome, Severity, Snapshot, Window};
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};

/// Intervals between snapshots that the user can choose, in seconds.
const INTERVALS: [u64; 4] = [1, 2, 5, 10];

impl App {
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Effect> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Effect::Interrupt),
                KeyCode::Char('z') => Some(Effect::Suspend),
                _ => None,
            };
        }
        self.touched = self.now;
        if let Some(dialog) = &mut self.dialog {
            let (is_over, want) = dialog.key(key.code);
            if is_over {
                self.dialog = None;
            }
            return want;
        }
        match self.mode {
            Mode::Help { scroll } => {
                self.turn_help(scroll, key.code);
                return None;
            }
            Mode::Filter => return self.write_filter(key.code),
            Mode::Look => self.note = None,
        }
        match key.code {
            KeyCode::Char('q') => Some(Effect::Quit {
                leave_screen: false,
            }),
            KeyCode::Char('Q') => Some(Effect::Quit { leave_screen: true }),
            KeyCode::Char('o') => Some(Effect::Save),
            KeyCode::Char('c') => self.copied().map(Effect::Copy),
            KeyCode::Char('!') => self.go_to_worst(),
            KeyCode::Esc => self.back(),
            KeyCode::Enter => self.open(),
            KeyCode::Char('e') => self.show(View::Events(Events::default())),
            KeyCode::Char('l') => self.show(View::Log(None)),
            KeyCode::Char('n') => self.show(View::Namespaces(None)),
            KeyCode::Tab => self.next_part(),
            KeyCode::Char('[') => self.look(-1),
            KeyCode::Char(']') => self.look(1),
            KeyCode::Char('+') => self.hurry(-1),
            KeyCode::Char('-') => self.hurry(1),
            KeyCode::Char('a') => self.menu(),
            KeyCode::Char('r') => self.ask_count(),
            KeyCode::Char('R') => self.retry(),
            KeyCode::Char('K') => self.skip(),
            KeyCode::Char('H') => self.hold(),
            code => {
                self.turn(code);
                None
            }
        }
    }

    /// Handles keys that only change the appearance of the screen.
    fn turn(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char('?') => self.mode = Mode::Help { scroll: 0 },
            KeyCode::Char('f') => {
                self.frozen = match self.frozen.take() {
                    Some(_) => None,
                    None => self.latest.clone(),
                };
            }
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('S') => self.is_reversed = !self.is_reversed,
            KeyCode::Char('u') => self.is_short = !self.is_short,
            KeyCode::Char('h') => self.shows_heat = !self.shows_heat,
            KeyCode::Char('x') => self.is_unfolded = !self.is_unfolded,
            KeyCode::Char('1') => self.level = Severity::Fine,
            KeyCode::Char('2') => self.level = Severity::Unusual,
            KeyCode::Char('3') => self.level = Severity::Trouble,
            KeyCode::Char(' ') => self.hold_events(),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-self.rows()),
            KeyCode::PageDown => self.go(self.rows()),
            KeyCode::Char('g') | KeyCode::Home => self.go(isize::MIN / 2),
            KeyCode::End if matches!(self.view, View::Events(_)) => self.hold_event(None),
            KeyCode::Char('G') | KeyCode::End => self.go(isize::MAX / 2),
            _ => {}
        }
    }

    /// Scrolls the help; any other key closes it.
    fn turn_help(&mut self, at: usize, code: KeyCode) {
        let (width, height) = (usize::from(self.size.0), usize::from(self.size.1));
        let lines = super::detail::help_lines(width).len();
        let room = height.saturating_sub(2).max(1);
        let (page, last) = (room.saturating_sub(1).max(1), lines.saturating_sub(room));
        let to = match code {
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => at + 1,
            KeyCode::PageUp => at.saturating_sub(page),
            KeyCode::PageDown | KeyCode::Char(' ') => at + page,
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            _ => {
                self.mode = Mode::Look;
                return;
            }
        };
        self.mode = match last {
            0 => Mode::Look,
            _ => Mode::Help {
                scroll: to.min(last),
            },
        };
    }

    fn rows(&self) -> isize {
        isize::try_from(self.page()).unwrap_or(1)
    }

    fn write_filter(&mut self, key: KeyCode) -> Option<Effect> {
        match key {
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Look;
            }
            KeyCode::Enter => self.mode = Mode::Look,
            KeyCode::Backspace => self.filter.pop(),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        match self.mode {
            Mode::Filter => None,
            _ => self.refresh(),
        }
    }

    /// Shows another view, and adds the present one to the trail.
    fn show(&mut self, view: View) -> Option<Effect> {
        if !self.view.is_same(&view) {
            let before = std::mem::replace(&mut self.view, view);
            self.trail.retain(|known| !known.is_same(&self.view));
            self.trail.push(before);
        }
        self.refresh()
    }

    fn back(&mut self) -> Option<Effect> {
        if !self.filter.is_empty() {
            self.filter.clear();
        } else {
            self.view = self.trail.pop().unwrap_or(View::Overview);
        }
        self.refresh()
    }

    /// Selects the next part of the view: nodes after lanes, the next handler of a stream.
    fn next_part(&mut self) -> Option<Effect> {
        match &self.view {
            View::Overview => self.show(View::Nodes(None)),
            View::Nodes(_) => self.back(),
            View::Stream(_) => {
                let stream = &self.stream()?.stream;
                let now = self.handler_row(stream)?.handler.clone();
                let at = stream.cursors.iter().position(|row| row.handler == now)?;
                let next = stream.cursors.get((at + 1) % stream.cursors.len())?;
                let next = next.handler.clone();
                if let View::Stream(view) = &mut self.view {
                    view.handler = Some(next);
                }
                self.refresh()
            }
            _ => None,
        }
    }

    fn look(&mut self, by: isize) -> Option<Effect> {
        let at = Window::ALL.iter().position(|known| *known == self.window)?;
        self.window = *Window::ALL.get(at.checked_add_signed(by)?)?;
        Some(Effect::Follow)
    }

    fn hurry(&mut self, by: isize) -> Option<Effect> {
        let now = self.interval.as_secs();
        let at = INTERVALS.iter().position(|known| *known >= now)?;
        let next = INTERVALS.get(at.checked_add_signed(by)?)?;
        self.interval = Duration::from_secs(*next);
        Some(Effect::Follow)
    }

    fn open(&mut self) -> Option<Effect> {
        match &self.view {
            View::Overview => {
                let lane = self.chosen()?.id.clone();
                self.open_lane(lane)
            }
            View::Lane(view) => {
                let lane = self.find(&view.id)?;
                let cursors = self.cursors(lane);
                let line = cursors.get(self.cursor_row(&cursors))?;
                let (stream, handler) = (line.stream.clone(), line.handler.clone());
                self.open_stream(stream, Some(handler))
            }
            View::Stream(view) => {
                let waiting = &view.shown.as_ref()?.waiting;
                let event = waiting
                    .get(view.scroll.min(waiting.len().saturating_sub(1)))?
                    .event;
                self.open_event(event)
            }
            View::Events(_) => {
                let event = self.event_row()?.event;
                self.open_event(event)
            }
            View::Event(view) => {
                let stream = view.shown.as_ref()?.stream.clone();
                self.open_stream(stream, None)
            }
            View::Nodes(_) => {
                let node = self.node_name()?;
                self.view = View::Overview;
                self.trail.clear();
                self.filter.set(format!("node:{node}"));
                None
            }
            View::Namespaces(_) => {
                self.namespace = self.namespace_name()?;
                (self.view, self.frozen, self.lane) = (View::Overview, None, None);
                self.trail.clear();
                Some(Effect::Follow)
            }
            View::Log(_) => {
                let scope = self.entry_row()?.line.scope.clone();
                let stream = scope.split(" -> ").next()?.parse::<StreamName>().ok()?;
                scope.contains(" -> ").then_some(())?;
                self.open_stream(stream, None)
            }
        }
    }

    fn open_stream(&mut self, stream: StreamName, handler: Option<Name>) -> Option<Effect> {
        self.open_anew(View::Stream(StreamView::new(stream, handler)))
    }

    fn open_lane(&mut self, lane: LaneId) -> Option<Effect> {
        self.lane = Some(lane.clone());
        self.open_anew(View::Lane(LaneView::new(lane)))
    }

    fn open_event(&mut self, event: EventId) -> Option<Effect> {
        self.show(View::Event(EventView::new(event)));
        Some(Effect::Event(event))
    }

    /// Shows a view without data, even if one with the same subject is shown.
    fn open_anew(&mut self, view: View) -> Option<Effect> {
        if self.view.is_same(&view) {
            self.view = view.clone();
        }
        self.show(view)
    }

    /// The selected event: the newest if none is selected.
    pub(super) fn event_row(&self) -> Option<&crate::api::EventRow> {
        let rows = self.events();
        let held = rows.iter().find(|row| Some(row.event) == self.held());
        held.or_else(|| rows.first()).copied()
    }

    fn held(&self) -> Option<EventId> {
        match &self.view {
            View::Events(events) => events.held,
            _ => None,
        }
    }

    fn hold_event(&mut self, event: Option<EventId>) {
        if let View::Events(events) = &mut self.view {
            events.held = event;
        }
    }

    /// The selected entry of the log: the newest if none is selected.
    pub(super) fn entry_row(&self) -> Option<Entry<'_>> {
        let rows = self.log();
        let selected = self.entry_place(&rows).and_then(|at| rows.get(at));
        selected.or_else(|| rows.first()).copied()
    }

    /// Index of the selected entry, or of the entry into which it is folded.
    fn entry_place(&self, rows: &[Entry<'_>]) -> Option<usize> {
        let View::Log(Some(entry)) = &self.view else {
            return None;
        };
        rows.iter().position(|row| row.has(entry))
    }

    /// Name of the selected node: the first if none is selected.
    pub(super) fn node_name(&self) -> Option<String> {
        let nodes = self.nodes();
        let selected = match &self.view {
            View::Nodes(Some(name)) => nodes.iter().find(|node| node.node == *name),
            _ => None,
        };
        let node = selected.or_else(|| nodes.first())?;
        Some(node.node.clone())
    }

    /// The selected namespace: the shown one if none is selected.
    pub(super) fn namespace_name(&self) -> Option<Name> {
        let lines = self.namespaces();
        let named = |name: &Name| lines.iter().find(|line| line.namespace == *name);
        let selected = match &self.view {
            View::Namespaces(Some(name)) => named(name),
            _ => None,
        };
        let line = selected
            .or_else(|| named(&self.namespace))
            .or_else(|| lines.first())?;
        Some(line.namespace.clone())
    }

    fn hold_events(&mut self) {
        let held = match self.held() {
            Some(_) => None,
            None => self.event_row().map(|row| row.event),
        };
        self.hold_event(held);
    }

    fn go(&mut self, by: isize) {
        let moved = |at: Option<usize>, len: usize| {
            let at = isize::try_from(at.unwrap_or(0))
                .unwrap_or(0)
                .saturating_add(by);
            let last = isize::try_from(len.saturating_sub(1)).unwrap_or(0);
            usize::try_from(at.clamp(0, last)).unwrap_or(0)
        };
        match self.view.clone() {
            View::Overview => {
                let lanes = self.lanes();
                let to = moved(self.selected(&lanes), lanes.len());
                self.lane = lanes.get(to).map(|lane| lane.id.clone());
            }
            View::Lane(view) => {
                let Some(lane) = self.find(&view.id) else {
                    return;
                };
                let cursors = self.cursors(lane);
                let to = moved(Some(self.cursor_row(&cursors)), cursors.len());
                let line = cursors.get(to);
                let cursor = line.map(|line| (line.stream.clone(), line.handler.clone()));
                self.view = View::Lane(LaneView { cursor, ..view });
            }
            View::Events(_) => {
                let rows = self.events();
                let at = rows.iter().position(|row| Some(row.event) == self.held());
                let held = rows.get(moved(at, rows.len())).map(|row| row.event);
                self.hold_event(held);
            }
            View::Log(_) => {
                let log = self.log();
                let at = self.entry_place(&log);
                let entry = log.get(moved(at, log.len())).map(|row| row.line.clone());
                self.view = View::Log(entry);
            }
            View::Nodes(now) => {
                let nodes = self.nodes();
                let at = nodes
                    .iter()
                    .position(|node| Some(&node.node) == now.as_ref());
                let node = nodes
                    .get(moved(at, nodes.len()))
                    .map(|node| node.node.clone());
                self.view = View::Nodes(node);
            }
            View::Namespaces(_) => {
                let lines = self.namespaces();
                let now = self.namespace_name();
                let at = lines
                    .iter()
                    .position(|line| Some(&line.namespace) == now.as_ref());
                let line = lines.get(moved(at, lines.len()));
                self.view = View::Namespaces(line.map(|line| line.namespace.clone()));
            }
            View::Stream(view) => {
                let waiting = view.shown.as_ref();
                let waiting = waiting.map_or(0, |shown| shown.waiting.len());
                let scroll = moved(Some(view.scroll), waiting);
                self.view = View::Stream(StreamView { scroll, ..view });
            }
            View::Event(view) => {
                let lines = view.shown.as_ref();
                let lines = lines.map_or(0, |event| super::events::body_lines(event));
                let scroll = moved(Some(view.scroll), lines);
                self.view = View::Event(EventView { scroll, ..view });
            }
        }
    }

    /// Shows the subject of the worst finding; each further call the next one, and after the last the
    /// first again.
    fn go_to_worst(&mut self) -> Option<Effect> {
        let targets = self.targets();
        let shown = self.worst.as_ref();
        let before = shown.filter(|target| match (&self.view, target) {
            (View::Stream(shown), Target::Stream(stream)) => shown.name == *stream,
            (View::Lane(shown), Target::Lane(lane)) => shown.id == *lane,
            (View::Overview, Target::Lane(lane)) => self.lane.as_ref() == Some(lane),
            _ => false,
        });
        let before = before.and_then(|shown| targets.iter().position(|target| target == shown));
        let next = before.map_or(0, |at| (at + 1) % targets.len().max(1));
        let target = targets.get(next)?.clone();
        self.worst = Some(target.clone());
        match target {
            Target::Stream(stream) => {
                let snapshot = self.snapshot()?;
                let of_stream = snapshot.cursors.iter().find(|line| line.stream == stream);
                let handler = of_stream.map(|line| line.handler.clone());
                let lane = of_stream.and_then(|line| snapshot.lanes.iter().find(|l| line.is_in(l)));
                if let Some(name) = lane.map(|lane| lane.id.clone()) {
                    self.lane = Some(name);
                }
                self.open_stream(stream, handler)
            }
            Target::Lane(lane) => self.open_lane(lane),
        }
    }

    fn copied(&self) -> Option<String> {
        match &self.view {
            View::Stream(view) => Some(view.name.to_string()),
            View::Lane(LaneView { id, .. }) => {
                let cursors = self.cursors(self.find(id)?);
                let line = cursors.get(self.cursor_row(&cursors));
                Some(line.map_or_else(|| id.to_string(), |line| line.stream.to_string()))
            }
            View::Events(_) => Some(self.event_row()?.event.to_string()),
            View::Event(view) => Some(view.id.to_string()),
            View::Log(_) => Some(self.entry_row()?.line.scope.clone()),
            View::Nodes(_) => self.node_name(),
            View::Namespaces(_) => Some(self.namespace_name()?.to_string()),
            View::Overview => Some(self.chosen()?.id.to_string()),
        }
    }

    /// Reason for which the user may not act; `None` if he may.
    fn forbids(&self) -> Option<String> {
        if self.may_act() {
            return None;
        }
        let viewer = self.latest.as_ref().map(|seen| seen.viewer.name.clone());
        Some(match self.read_only {
            true => "--read-only: nothing can be changed from here".to_owned(),
            false => format!("{} may not change anything", viewer.unwrap_or_default()),
        })
    }

    fn ask(&mut self, dialog: Option<Dialog>) -> Option<Effect> {
        match self.forbids() {
            Some(why) => self.note = Some(why),
            None => self.dialog = dialog,
        }
        None
    }

    fn ask_count(&mut self) -> Option<Effect> {
        let dialog = self
            .latest
            .as_ref()
            .map(|seen: &Snapshot| Dialog::ask_count(seen));
        self.ask(dialog)
    }

    fn menu(&mut self) -> Option<Effect> {
        let (title, items) = match &self.view {
            View::Overview => {
                let lane = self.chosen()?.id.clone();
                let items = self.lane_items(&lane)?;
                (lane.to_string(), items)
            }
            View::Lane(LaneView { id, .. }) => {
                let lane = self.find(id)?;
                let cursors = self.cursors(lane);
                let line = cursors.get(self.cursor_row(&cursors));
                let mut items = self.lane_items(id)?;
                if let Some(line) = line {
                    items.extend(stream_items(
                        &line.stream,
                        &line.handler,
                        Some(line.condition),
                    ));
                    items.extend(self.hook_items(&line.stream.hook));
                }
                (id.to_string(), items)
            }
            View::Stream(StreamView { name, .. }) => {
                let row = self.handler_row(&self.stream()?.stream)?;
                let mut items = stream_items(name, &row.handler, Some(row.condition));
                if let (true, Some(event)) = (row.behind > 0, row.next) {
                    let skip = Dialog::skip(name.clone(), row.handler.clone(), event);
                    let short = super::events::short(event);
                    items.push(Item::new(format!("skip {short}"), skip));
                }
                items.extend(self.hook_items(&name.hook));
                (name.to_string(), items)
            }
            View::Events(_) | View::Event(_) => {
                let row = match &self.view {
                    View::Event(view) => view.shown.as_deref()?,
                    _ => self.event_row()?,
                };
                let items = row.fate.iter().flat_map(|fate| {
                    let is_held = fate.outcome == Outcome::Held;
                    let condition = is_held.then_some(Condition::Held);
                    stream_items(&row.stream, &fate.handler, condition)
                });
                let mut items: Vec<_> = items.collect();
                items.extend(self.hook_items(&row.stream.hook));
                (row.stream.to_string(), items)
            }
            View::Log(_) | View::Nodes(_) | View::Namespaces(_) => return None,
        };
        // Read-only users see the actions too, with the reason why they are not allowed.
        self.dialog = Some(Dialog::menu(title, items, self.forbids()));
        None
    }

    fn lane_items(&self, id: &LaneId) -> Option<Vec<Item>> {
        let lane = self.find(id)?;
        let verbs: &[&'static str] = match lane.state {
            LaneState::Active | LaneState::NoOwner => &["drain", "pause"],
            LaneState::Draining => &["pause", "resume"],
            LaneState::Drained | LaneState::Paused => &["resume"],
        };
        let item = |verb: &&'static str| {
            let dialog = Dialog::lane(verb, lane);
            Item::new(format!("{verb} lane {}", lane.id.index), dialog)
        };
        Some(verbs.iter().map(item).collect())
    }

    fn hook_items(&self, hook: &Name) -> Vec<Item> {
        let hooks = self.latest.iter().flat_map(|seen| &seen.hooks);
        let known = hooks
            .filter(|line| line.hook == *hook)
            .map(|line| line.paused)
            .next();
        let verb = if known == Some(true) {
            "resume"
        } else {
            "pause"
        };
        let dialog = Dialog::hook(verb, hook.clone(), known);
        vec![Item::new(format!("{verb} hook {hook}"), dialog)]
    }

    /// Name and handler row of the stream view, on which `R`, `K` and `H` act.
    fn stream_row(&self) -> Option<(StreamName, &crate::api::StreamRow)> {
        let View::Stream(view) = &self.view else {
            return None;
        };
        let row = self.handler_row(&view.shown.as_ref()?.stream)?;
        Some((view.name.clone(), row))
    }

    fn retry(&mut self) -> Option<Effect> {
        let (name, row) = self.stream_row()?;
        let dialog = Dialog::cursor("retry", name, row.handler.clone(), Some(row.condition));
        self.ask(Some(dialog))
    }

    fn hold(&mut self) -> Option<Effect> {
        let (name, row) = self.stream_row()?;
        let verb = if row.condition == Condition::Held {
            "release"
        } else {
            "hold"
        };
        let dialog = Dialog::cursor(verb, name, row.handler.clone(), Some(row.condition));
        self.ask(Some(dialog))
    }

    fn skip(&mut self) -> Option<Effect> {
        let (name, row) = self.stream_row()?;
        let Some(event) = row.next else {
            self.note = Some(format!("{name} waits for nothing that could be skipped"));
            return None;
        };
        let dialog = Dialog::skip(name, row.handler.clone(), event);
        self.ask(Some(dialog))
    }
}

/// Menu items for a cursor; `condition` is `None` if it is not known.
fn stream_items(stream: &StreamName, handler: &Name, condition: Option<Condition>) -> Vec<Item> {
    let verbs: &[&'static str] = match condition {
        Some(Condition::Held) => &["retry", "release"],
        Some(Condition::Waiting) => &["retry", "hold"],
        _ => &["hold"],
    };
    let item = |verb: &&'static str| {
        let dialog = Dialog::cursor(verb, stream.clone(), handler.clone(), condition);
        Item::new(format!("{verb} {stream} -> {handler}"), dialog)
    };
    verbs.iter().map(item).collect()
}
