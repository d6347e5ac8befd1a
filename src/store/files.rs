//! Detects a process that has run out of file descriptors. SQLite reports only that it cannot open a
//! file.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Fewer free descriptors than this count as none, because some may have become free since the failure.
const SHORT: u64 = 16;

/// True if no descriptor is free, or none was a moment ago. Relies on a new descriptor having the
/// lowest free number.
pub(super) fn are_short() -> bool {
    match File::open("/dev/null") {
        Ok(file) => {
            let number = u64::try_from(file.as_raw_fd()).unwrap_or(0);
            let limit = getrlimit(Resource::Nofile).current;
            limit.is_some_and(|limit| number + SHORT >= limit)
        }
        Err(error) => {
            let code = error.raw_os_error();
            [Errno::MFILE, Errno::NFILE]
                .map(|errno| Some(errno.raw_os_error()))
                .contains(&code)
        }
    }
}
