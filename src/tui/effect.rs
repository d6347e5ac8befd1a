//! Work that the dashboard asks the loop to do: requests to the daemon, terminal control, files.

use crate::api::Resize;
use crate::domain::event::EventId;
use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};

/// Work for the loop.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// End the dashboard.
    Quit {
        /// True if the last screen stays in the terminal.
        leave_screen: bool,
    },
    /// Quit as Ctrl-C ends any command.
    Interrupt,
    /// Suspend the process until the shell resumes it.
    Suspend,
    /// Reconnect to the daemon with another namespace, window or interval.
    Follow,
    /// Read a lane with its cursors.
    Lane(LaneId),
    /// Read a stream with the waiting events of a handler.
    Stream(StreamName, Option<Name>),
    /// Read this number of the newest events, of a hook or stream if given.
    Events(Option<Name>, Option<StreamName>, usize),
    /// Read an event with its body.
    Event(EventId),
    /// Compute the plan for a resize to this number of lanes.
    Plan(u16),
    /// Perform an action.
    Do(Action),
    /// Copy a text to the terminal's clipboard.
    Copy(String),
    /// Write the screen to a file.
    Save,
}

/// An action on the daemon.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `pause`, `resume` or `drain` of a lane.
    Lane(&'static str, LaneId),
    /// A planned resize.
    Resize(Box<Resize>),
    /// `pause` or `resume` of a hook.
    Hook(&'static str, Name),
    /// `retry`, `hold` or `release` of a cursor.
    Cursor(&'static str, StreamName, Name),
    /// Skips the next event of a cursor to the dead letters.
    Skip(StreamName, Name, EventId),
}
