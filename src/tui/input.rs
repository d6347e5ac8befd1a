//! What a key does. No letter changes anything by itself: those that act open a dialog.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::app::{App, Target, View};
use super::dialog::{Dialog, Item};
use super::fold::Entry;
use super::want::Want;
use crate::api::{LaneState, Severity, Snapshot, Window};
use crate::domain::name::{Name, StreamName};

/// How often the screen may have news.
const INTERVALS: [u64; 4] = [1, 2, 5, 10];

impl App {
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Want> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Want::Interrupt),
                KeyCode::Char('z') => Some(Want::Suspend),
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
        if self.shows_help {
            self.turn_help(key.code);
            return None;
        }
        if self.is_filtering {
            return self.write_filter(key.code);
        }
        self.note = None;
        match key.code {
            KeyCode::Char('q') => Some(Want::Quit {
                leave_screen: false,
            }),
            KeyCode::Char('Q') => Some(Want::Quit { leave_screen: true }),
            KeyCode::Char('o') => Some(Want::Save),
            KeyCode::Char('c') => self.copied().map(Want::Copy),
            KeyCode::Char('!') => self.go_to_worst(),
            KeyCode::Esc => self.back(),
            KeyCode::Enter => self.open(),
            KeyCode::Char('e') => self.show(View::Events),
            KeyCode::Char('l') => self.show(View::Log),
            KeyCode::Char('n') => self.show(View::Namespaces),
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

    /// Keys that only change how the screen looks.
    fn turn(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char('?') => (self.shows_help, self.help_scroll) = (true, 0),
            KeyCode::Char('f') => {
                self.frozen = match self.frozen.take() {
                    Some(_) => None,
                    None => self.latest.clone(),
                };
            }
            KeyCode::Char('/') => self.is_filtering = true,
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
            KeyCode::End if self.view == View::Events => self.events.held = None,
            KeyCode::Char('G') | KeyCode::End => self.go(isize::MAX / 2),
            _ => {}
        }
    }

    /// Scrolls the help as far as there is more of it; any other key closes it.
    fn turn_help(&mut self, code: KeyCode) {
        let (width, height) = (usize::from(self.size.0), usize::from(self.size.1));
        let lines = super::detail::help_lines(width).len();
        let room = height.saturating_sub(2).max(1);
        let (page, last) = (room.saturating_sub(1).max(1), lines.saturating_sub(room));
        let at = self.help_scroll;
        let to = match code {
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => at + 1,
            KeyCode::PageUp => at.saturating_sub(page),
            KeyCode::PageDown | KeyCode::Char(' ') => at + page,
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            _ => {
                self.shows_help = false;
                return;
            }
        };
        self.shows_help = last > 0;
        self.help_scroll = to.min(last);
    }

    fn rows(&self) -> isize {
        isize::try_from(self.page()).unwrap_or(1)
    }

    fn write_filter(&mut self, key: KeyCode) -> Option<Want> {
        match key {
            KeyCode::Esc => {
                self.filter.clear();
                self.is_filtering = false;
            }
            KeyCode::Enter => self.is_filtering = false,
            KeyCode::Backspace => self.filter.pop(),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        match self.is_filtering {
            true => None,
            false => self.refresh(),
        }
    }

    /// Shows another view, and remembers the way back.
    fn show(&mut self, view: View) -> Option<Want> {
        if self.view != view {
            let before = std::mem::replace(&mut self.view, view);
            self.trail.retain(|known| *known != self.view);
            self.trail.push(before);
            self.scroll = 0;
            self.event = None;
            if self.view == View::Events {
                self.events = Default::default();
            }
        }
        self.refresh()
    }

    fn back(&mut self) -> Option<Want> {
        if !self.filter.is_empty() {
            self.filter.clear();
        } else {
            self.view = self.trail.pop().unwrap_or(View::Overview);
            self.event = None;
        }
        self.refresh()
    }

    /// The next part of what is shown: the nodes after the lanes, the next handler of a stream.
    fn next_part(&mut self) -> Option<Want> {
        match &self.view {
            View::Overview => self.show(View::Nodes),
            View::Nodes => self.back(),
            View::Stream(_) => {
                let stream = &self.stream.as_ref()?.stream;
                let now = self.handler_row(stream)?.handler.clone();
                let at = stream.cursors.iter().position(|row| row.handler == now)?;
                let next = stream.cursors.get((at + 1) % stream.cursors.len())?;
                self.handler = Some(next.handler.clone());
                self.refresh()
            }
            _ => None,
        }
    }

    fn look(&mut self, by: isize) -> Option<Want> {
        let at = Window::ALL.iter().position(|known| *known == self.window)?;
        self.window = *Window::ALL.get(at.checked_add_signed(by)?)?;
        Some(Want::Follow)
    }

    fn hurry(&mut self, by: isize) -> Option<Want> {
        let now = self.interval.as_secs();
        let at = INTERVALS.iter().position(|known| *known >= now)?;
        let next = INTERVALS.get(at.checked_add_signed(by)?)?;
        self.interval = Duration::from_secs(*next);
        Some(Want::Follow)
    }

    fn open(&mut self) -> Option<Want> {
        match &self.view {
            View::Overview => {
                let lane = self.chosen()?.lane.clone();
                self.cursor = None;
                self.lane = Some(lane.clone());
                self.show(View::Lane(lane))
            }
            View::Lane(name) => {
                let lane = self.find(name)?;
                let cursors = self.cursors(lane);
                let line = cursors.get(self.cursor_row(&cursors))?;
                let (stream, handler) = (line.stream.clone(), line.handler.clone());
                self.open_stream(stream, Some(handler))
            }
            View::Stream(_) => {
                let waiting = &self.stream.as_ref()?.waiting;
                let event = waiting
                    .get(self.scroll.min(waiting.len().saturating_sub(1)))?
                    .event;
                self.show(View::Event(event));
                Some(Want::Event(event))
            }
            View::Events => {
                let event = self.event_row()?.event;
                self.show(View::Event(event));
                Some(Want::Event(event))
            }
            View::Event(_) => {
                let stream = self.event.as_ref()?.stream.clone();
                self.open_stream(stream, None)
            }
            View::Nodes => {
                let node = self.node_name()?;
                self.view = View::Overview;
                self.trail.clear();
                self.filter.set(format!("node:{node}"));
                None
            }
            View::Namespaces => {
                self.namespace = self.namespace_name()?;
                (self.view, self.frozen, self.lane) = (View::Overview, None, None);
                self.trail.clear();
                Some(Want::Follow)
            }
            View::Log => {
                let scope = self.entry_row()?.line.scope.clone();
                let stream = scope.split(" -> ").next()?.parse::<StreamName>().ok()?;
                scope.contains(" -> ").then_some(())?;
                self.open_stream(stream, None)
            }
        }
    }

    fn open_stream(&mut self, stream: StreamName, handler: Option<Name>) -> Option<Want> {
        self.handler = handler;
        self.stream = None;
        self.show(View::Stream(stream))
    }

    /// The event that is selected: the newest where none is held.
    pub(super) fn event_row(&self) -> Option<&crate::api::EventRow> {
        let rows = self.events();
        let held = rows.iter().find(|row| Some(row.event) == self.events.held);
        held.or_else(|| rows.first()).copied()
    }

    /// The entry of the log that is selected: the newest where none is.
    pub(super) fn entry_row(&self) -> Option<Entry<'_>> {
        let rows = self.log();
        let selected = self.entry_place(&rows).and_then(|at| rows.get(at));
        selected.or_else(|| rows.first()).copied()
    }

    /// Where the selected entry stands, or what it is folded into.
    fn entry_place(&self, rows: &[Entry<'_>]) -> Option<usize> {
        let entry = self.entry.as_ref()?;
        rows.iter().position(|row| row.has(entry))
    }

    /// The node that is selected: the first where none is.
    pub(super) fn node_name(&self) -> Option<String> {
        let nodes = self.nodes();
        let selected = nodes
            .iter()
            .find(|node| Some(&node.node) == self.node.as_ref());
        let node = selected.or_else(|| nodes.first())?;
        Some(node.node.clone())
    }

    /// The namespace that is selected: the one that is shown where none is.
    pub(super) fn namespace_name(&self) -> Option<Name> {
        let lines = self.namespaces();
        let named = |name: &Name| lines.iter().find(|line| line.namespace == *name);
        let selected = self.selected_namespace.as_ref().and_then(named);
        let line = selected
            .or_else(|| named(&self.namespace))
            .or_else(|| lines.first())?;
        Some(line.namespace.clone())
    }

    fn hold_events(&mut self) {
        if self.view == View::Events {
            self.events.held = match self.events.held {
                Some(_) => None,
                None => self.event_row().map(|row| row.event),
            };
        }
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
                self.lane = lanes.get(to).map(|lane| lane.lane.clone());
            }
            View::Lane(name) => {
                let Some(lane) = self.find(&name) else { return };
                let cursors = self.cursors(lane);
                let to = moved(Some(self.cursor_row(&cursors)), cursors.len());
                let line = cursors.get(to);
                self.cursor = line.map(|line| (line.stream.clone(), line.handler.clone()));
            }
            View::Events => {
                let rows = self.events();
                let at = rows
                    .iter()
                    .position(|row| Some(row.event) == self.events.held);
                let held = rows.get(moved(at, rows.len())).map(|row| row.event);
                self.events.held = held;
            }
            View::Log => {
                let log = self.log();
                let at = self.entry_place(&log);
                let entry = log.get(moved(at, log.len())).map(|row| row.line.clone());
                self.entry = entry;
            }
            View::Nodes => {
                let nodes = self.nodes();
                let at = nodes
                    .iter()
                    .position(|node| Some(&node.node) == self.node.as_ref());
                let node = nodes
                    .get(moved(at, nodes.len()))
                    .map(|node| node.node.clone());
                self.node = node;
            }
            View::Namespaces => {
                let lines = self.namespaces();
                let now = self.namespace_name();
                let at = lines
                    .iter()
                    .position(|line| Some(&line.namespace) == now.as_ref());
                let line = lines.get(moved(at, lines.len()));
                self.selected_namespace = line.map(|line| line.namespace.clone());
            }
            View::Stream(_) => {
                let waiting = self.stream.as_ref().map_or(0, |shown| shown.waiting.len());
                self.scroll = moved(Some(self.scroll), waiting);
            }
            View::Event(_) => {
                let lines = self
                    .event
                    .as_ref()
                    .map_or(0, |event| super::events::body_lines(event));
                self.scroll = moved(Some(self.scroll), lines);
            }
        }
    }

    /// Shows the worst finding; from there the next one, and after the last the first again.
    fn go_to_worst(&mut self) -> Option<Want> {
        let targets = self.targets();
        let shown = self.worst.as_ref();
        let before = shown.filter(|target| match (&self.view, target) {
            (View::Stream(shown), Target::Stream(stream)) => shown == stream,
            (View::Lane(shown), Target::Lane(lane)) => shown == lane,
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
                if let Some(name) = lane.map(|lane| lane.lane.clone()) {
                    self.lane = Some(name);
                }
                self.open_stream(stream, handler)
            }
            Target::Lane(lane) => {
                self.lane = Some(lane.clone());
                self.cursor = None;
                self.show(View::Lane(lane))
            }
        }
    }

    fn copied(&self) -> Option<String> {
        match &self.view {
            View::Stream(stream) => Some(stream.to_string()),
            View::Lane(lane) => {
                let cursors = self.cursors(self.find(lane)?);
                let line = cursors.get(self.cursor_row(&cursors));
                Some(line.map_or_else(|| lane.clone(), |line| line.stream.to_string()))
            }
            View::Events => Some(self.event_row()?.event.to_string()),
            View::Event(event) => Some(event.to_string()),
            View::Log => Some(self.entry_row()?.line.scope.clone()),
            View::Nodes => self.node_name(),
            View::Namespaces => Some(self.namespace_name()?.to_string()),
            View::Overview => Some(self.chosen()?.lane.clone()),
        }
    }

    /// Why nothing may be done from here; none where it may.
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

    fn ask(&mut self, dialog: Option<Dialog>) -> Option<Want> {
        match self.forbids() {
            Some(why) => self.note = Some(why),
            None => self.dialog = dialog,
        }
        None
    }

    fn ask_count(&mut self) -> Option<Want> {
        let dialog = self
            .latest
            .as_ref()
            .map(|seen: &Snapshot| Dialog::ask_count(seen));
        self.ask(dialog)
    }

    fn menu(&mut self) -> Option<Want> {
        let (title, items) = match &self.view {
            View::Overview => {
                let lane = self.chosen()?.lane.clone();
                let items = self.lane_items(&lane)?;
                (lane, items)
            }
            View::Lane(name) => {
                let lane = self.find(name)?;
                let cursors = self.cursors(lane);
                let line = cursors.get(self.cursor_row(&cursors));
                let mut items = self.lane_items(name)?;
                if let Some(line) = line {
                    items.extend(stream_items(&line.stream, &line.handler, &line.condition));
                    items.extend(self.hook_items(&line.stream.hook));
                }
                (name.clone(), items)
            }
            View::Stream(name) => {
                let row = self.handler_row(&self.stream.as_ref()?.stream)?;
                let mut items = stream_items(name, &row.handler, &row.condition);
                if let (true, Some(event)) = (row.behind > 0, row.next) {
                    let skip = Dialog::skip(name.clone(), row.handler.clone(), event);
                    let short = super::events::short(event);
                    items.push(Item::new(format!("skip {short}"), skip));
                }
                items.extend(self.hook_items(&name.hook));
                (name.to_string(), items)
            }
            View::Events | View::Event(_) => {
                let row = match &self.view {
                    View::Event(_) => self.event.as_deref()?,
                    _ => self.event_row()?,
                };
                let handlers = row.fate.iter().map(|fate| &fate.handler);
                let items = handlers.flat_map(|handler| stream_items(&row.stream, handler, ""));
                let mut items: Vec<_> = items.collect();
                items.extend(self.hook_items(&row.stream.hook));
                (row.stream.to_string(), items)
            }
            View::Log | View::Nodes | View::Namespaces => return None,
        };
        // Whoever may do nothing sees what could be done, and why not by him.
        self.dialog = Some(Dialog::menu(title, items, self.forbids()));
        None
    }

    fn lane_items(&self, name: &str) -> Option<Vec<Item>> {
        let lane = self.find(name)?;
        let verbs: &[&'static str] = match lane.state {
            LaneState::Active | LaneState::NoOwner => &["drain", "pause"],
            LaneState::Draining => &["pause", "resume"],
            LaneState::Drained | LaneState::Paused => &["resume"],
        };
        let item = |verb: &&'static str| {
            let dialog = Dialog::lane(verb, lane);
            Item::new(format!("{verb} lane {}", lane.index), dialog)
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

    /// The row of the stream that is shown, which `R`, `K` and `H` are about.
    fn stream_row(&self) -> Option<(StreamName, &crate::api::StreamRow)> {
        let View::Stream(name) = &self.view else {
            return None;
        };
        let row = self.handler_row(&self.stream.as_ref()?.stream)?;
        Some((name.clone(), row))
    }

    fn retry(&mut self) -> Option<Want> {
        let (name, row) = self.stream_row()?;
        let dialog = Dialog::cursor("retry", name, row.handler.clone(), &row.condition);
        self.ask(Some(dialog))
    }

    fn hold(&mut self) -> Option<Want> {
        let (name, row) = self.stream_row()?;
        let verb = if row.condition == "held" {
            "release"
        } else {
            "hold"
        };
        let dialog = Dialog::cursor(verb, name, row.handler.clone(), &row.condition);
        self.ask(Some(dialog))
    }

    fn skip(&mut self) -> Option<Want> {
        let (name, row) = self.stream_row()?;
        let Some(event) = row.next else {
            self.note = Some(format!("{name} waits for nothing that could be skipped"));
            return None;
        };
        let dialog = Dialog::skip(name, row.handler.clone(), event);
        self.ask(Some(dialog))
    }
}

/// What can be done with a cursor; `condition` is empty where it is not known.
fn stream_items(stream: &StreamName, handler: &Name, condition: &str) -> Vec<Item> {
    let verbs: &[&'static str] = match condition {
        "held" => &["retry", "release"],
        "waiting" => &["retry", "hold"],
        _ => &["hold"],
    };
    let item = |verb: &&'static str| {
        let dialog = Dialog::cursor(verb, stream.clone(), handler.clone(), condition);
        Item::new(format!("{verb} {stream} -> {handler}"), dialog)
    };
    verbs.iter().map(item).collect()
}
