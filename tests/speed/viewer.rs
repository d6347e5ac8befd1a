//! A viewer with the dashboard open, which counts the bytes it receives.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::daemon::Home;

/// As `hooklane top` asks.
const ASK: &str =
    "GET /v1/admin/snapshot/live HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip\r\n\r\n";

/// A viewer; it closes when dropped.
pub struct Viewer {
    stream: UnixStream,
    bytes: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Viewer {
    /// Opens the dashboard of a node.
    pub fn of(home: &Home) -> Self {
        let mut stream = UnixStream::connect(home.data().join("hooklane.sock")).unwrap();
        stream.write_all(ASK.as_bytes()).unwrap();
        let bytes = Arc::new(AtomicU64::new(0));
        let (mut read, counted) = (stream.try_clone().unwrap(), bytes.clone());
        let thread = std::thread::spawn(move || {
            let mut piece = [0; 16 * 1024];
            while let Ok(length @ 1..) = read.read(&mut piece) {
                counted.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
        Self {
            stream,
            bytes,
            thread: Some(thread),
        }
    }

    /// Bytes that were sent to it.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        drop(self.thread.take().map(JoinHandle::join));
    }
}
