//! A way to a database that takes its time: everything that is asked reaches it later, as if it were far away.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use std::io::{Read as _, Write as _};

use tempfile::TempDir;

use crate::postgres::Server;

/// The name of a server's socket in its directory.
const SOCKET: &str = ".s.PGSQL.5432";

/// A directory with a socket that leads to a server. It ends with the process of the tests.
pub struct Far {
    dir: TempDir,
    delay_ms: Arc<AtomicU64>,
}

impl Far {
    /// A way to `server` that takes no time yet.
    pub fn to(server: &Server) -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let (to, delay_ms) = (server.dir().join(SOCKET), Arc::new(AtomicU64::new(0)));
        let far = Self {
            dir,
            delay_ms: delay_ms.clone(),
        };
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { return };
                carry(near, to.clone(), delay_ms.clone());
            }
        });
        far
    }

    /// The directory of its socket.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// From now on everything takes so long to get there.
    pub fn is_away(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap();
        self.delay_ms.store(millis, Ordering::Relaxed);
    }
}

/// Carries what comes on one connection, both ways: there with the delay, back at once.
fn carry(near: UnixStream, to: PathBuf, delay_ms: Arc<AtomicU64>) {
    let Ok(far) = UnixStream::connect(to) else {
        return;
    };
    let (mut back, mut answers) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut back);
        let _ = back.shutdown(std::net::Shutdown::Both);
    });
    let (sent, arrives) = mpsc::channel::<(Instant, Vec<u8>)>();
    let mut there = far;
    std::thread::spawn(move || {
        for (due, bytes) in arrives {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if there.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = there.shutdown(std::net::Shutdown::Both);
    });
    let mut near = near;
    std::thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        while let Ok(length @ 1..) = near.read(&mut buffer) {
            let due = Instant::now() + Duration::from_millis(delay_ms.load(Ordering::Relaxed));
            if sent.send((due, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
}
