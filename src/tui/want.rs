//! What the dashboard asks of those who can: the daemon, the terminal, the file system.

use crate::api::Resize;
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};

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
    /// Follow the daemon anew: another namespace, window or interval.
    Follow,
    /// A lane with its cursors.
    Lane(LaneId),
    /// A stream, and what waits for a handler of it.
    Stream(StreamName, Option<Name>),
    /// So many of the newest events, of a hook or a stream where the filter says so.
    Events(Option<Name>, Option<StreamName>, usize),
    /// One event, whole.
    Event(EventId),
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
    Lane(&'static str, LaneId),
    /// Another number of lanes, as planned.
    Resize(Box<Resize>),
    /// `pause` or `resume` of a hook.
    Hook(&'static str, Name),
    /// `retry`, `hold` or `release` of a cursor.
    Cursor(&'static str, StreamName, Name),
    /// The next event of a cursor goes to the dead letters.
    Skip(StreamName, Name, EventId),
}
