//! The limit of open files, from which the number of connections follows.

use crate::admin::doctor::FILES_BESIDE;
use crate::cli::{Exit, Trouble};
use crate::http::edge::Limits;

/// Number of connections that the node accepts. Each one is an open file. The limit of open files is
/// raised to its maximum, because shells set a lower one, and [`FILES_BESIDE`] files are reserved for
/// the database, the log and the socket.
///
/// # Errors
/// The limit leaves no room for senders.
pub fn connections_max() -> anyhow::Result<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = ?limit.current, "the limit of open files stays");
    }
    let wanted = Limits::default().connections_max;
    let Some(files) = getrlimit(Resource::Nofile).current else {
        return Ok(wanted);
    };
    let left = usize::try_from(files.saturating_sub(FILES_BESIDE)).unwrap_or(usize::MAX);
    if left < CONNECTIONS_MIN {
        let least = FILES_BESIDE + CONNECTIONS_MIN as u64;
        let message = format!("the limit of open files is {files}, and a node needs {least}");
        return Err(Trouble::new(Exit::Usage, "files", message)
            .fact("raise", "ulimit -n, or LimitNOFILE= in its unit")
            .into());
    }
    if left < wanted {
        let connections = left;
        tracing::warn!(files, connections, "few open files are allowed: ulimit -n");
    }
    Ok(left.min(wanted))
}

/// Number of connections below which starting a node is pointless.
const CONNECTIONS_MIN: usize = 16;
