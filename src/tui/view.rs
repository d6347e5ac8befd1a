//! The views of the dashboard, each with its own data and selection.

use crate::api::{Diagnosis, EventRow, LaneDetail, LogLine, Stream};
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};

/// A view, with its own data and selection.
#[derive(Clone, Debug, PartialEq)]
pub enum View {
    /// Overview of all lanes.
    Overview,
    /// One lane.
    Lane(LaneView),
    /// One stream.
    Stream(StreamView),
    /// List of events.
    Events(Events),
    /// One event with its body.
    Event(EventView),
    /// The log, with the selected entry.
    Log(Option<LogLine>),
    /// The nodes, with the name of the selected one.
    Nodes(Option<String>),
    /// The namespaces, with the selected one.
    Namespaces(Option<Name>),
}

impl View {
    /// True if both views have the same subject, regardless of data and selection.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lane(one), Self::Lane(other)) => one.id == other.id,
            (Self::Stream(one), Self::Stream(other)) => one.name == other.name,
            (Self::Event(one), Self::Event(other)) => one.id == other.id,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// Data of the view of a lane.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneView {
    /// Id of the lane.
    pub id: LaneId,
    /// The lane with all its cursors; `None` until the daemon has sent it.
    pub shown: Option<Box<LaneDetail>>,
    /// The selected cursor.
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

/// Data of the view of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamView {
    /// Name of the stream.
    pub name: StreamName,
    /// The selected handler.
    pub handler: Option<Name>,
    /// The stream; `None` until the daemon has sent it.
    pub shown: Option<Box<StreamShown>>,
    /// Index of the selected waiting event, from 0.
    pub scroll: usize,
}

impl StreamView {
    /// A view without data.
    pub fn new(name: StreamName, handler: Option<Name>) -> Self {
        Self {
            name,
            handler,
            shown: None,
            scroll: 0,
        }
    }
}

/// A stream with its diagnosis and waiting events.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamShown {
    /// The stream with the state of its handlers.
    pub stream: Stream,
    /// The diagnosis of the stream.
    pub why: Diagnosis,
    /// The handler of `waiting`.
    pub handler: Option<Name>,
    /// The next events of the handler, in order.
    pub waiting: Vec<EventRow>,
}

/// Data of the view of an event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventView {
    /// Id of the event.
    pub id: EventId,
    /// The event; `None` until the daemon has sent it.
    pub shown: Option<Box<EventRow>>,
    /// Lines of the body scrolled off above.
    pub scroll: usize,
}

impl EventView {
    /// A view without data.
    pub fn new(id: EventId) -> Self {
        Self {
            id,
            shown: None,
            scroll: 0,
        }
    }
}

/// Data of the list of events, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Events {
    /// The events received.
    pub rows: Vec<EventRow>,
    /// The selected event; `None` selects the newest and follows it.
    pub held: Option<EventId>,
    /// Number of events that arrived since the selection, as far as known.
    pub new: usize,
    /// Cause for which the list is empty, such as an error of the daemon.
    pub why: Option<String>,
}

impl Events {
    /// Stores the newest events; while one is selected, only counts those newer than it.
    pub fn take(&mut self, rows: Vec<EventRow>) {
        self.why = None;
        let Some(newest) = self.rows.first().filter(|_| self.held.is_some()) else {
            (self.rows, self.new) = (rows, 0);
            return;
        };
        let at = rows.iter().position(|row| row.event == newest.event);
        self.new = at.unwrap_or(rows.len());
    }
}

/// Subject of a finding, which `!` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A stream.
    Stream(StreamName),
    /// A lane.
    Lane(LaneId),
}
