//! Detects a server that no longer answers while its connections still look open.
//!
//! One connection without an answer makes all connections of its age suspect. They are closed instead
//! of used, so that the time-out is paid once and not once for each. Then a new connection is tried. If
//! that one gets no answer either, the server is known to be silent: until it answers again no caller
//! waits for it, and those that wait are told at once. A server that refuses connections, because it was
//! killed or still starts, is treated in the same way. The pools would try to reach it for seconds.

use std::fmt::{self, Debug};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// Time within which a connection must answer a ping, and a new connection must be accepted.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Time for which a silence must go on until callers give up a call that may yet be resolved.
const STAYS: Duration = Duration::from_millis(500);

/// Pause between two attempts to connect.
const TRY_EVERY: Duration = Duration::from_millis(250);

/// A statement that takes longer than this starts the attempt of a new connection.
const LONG: Duration = Duration::from_secs(10);

/// A statement that takes longer than this is given up.
const STATEMENT_MAX: Duration = Duration::from_secs(60);

/// Code of the error of a server that starts, recovers or shuts down.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// Records since when a server has been silent, if it is. Cheap to clone.
#[derive(Clone)]
pub struct Silence(Arc<Inner>);

/// A silence that has begun and not ended.
#[derive(Clone, Copy, Debug)]
struct PresentSilence {
    since: Instant,
    /// True if the server refuses connections. Then it may be back in a moment, with all outcomes.
    is_refusing: bool,
}

struct Inner {
    server: PgConnectOptions,
    /// Connections opened before this moment are not used again.
    suspect: Mutex<Option<Instant>>,
    /// `None` while the server answers.
    known: watch::Sender<Option<PresentSilence>>,
    is_trying: AtomicBool,
}

impl Silence {
    /// Creates the watch over a server, which counts as answering at first.
    pub fn of(server: &PgConnectOptions) -> Self {
        Self(Arc::new(Inner {
            server: server.clone(),
            suspect: Mutex::new(None),
            known: watch::channel(None).0,
            is_trying: AtomicBool::new(false),
        }))
    }

    /// Records that a connection did not answer in time, and starts the check of a new connection.
    pub fn suspect(&self) {
        *self.0.suspect.lock() = Some(Instant::now());
        self.find_out();
    }

    /// Tries a new connection in a task, unless such a task already runs.
    pub fn find_out(&self) {
        if !self.0.is_trying.swap(true, Ordering::AcqRel) {
            tokio::spawn(find_out(Arc::downgrade(&self.0)));
        }
    }

    /// Duration of the silence so far; `None` while the server answers.
    pub fn lasts(&self) -> Option<Duration> {
        let known = *self.0.known.borrow();
        known.map(|known| known.since.elapsed())
    }

    /// Duration of the silence so far; `None` while the server answers or refuses connections.
    pub fn lasts_unanswered(&self) -> Option<Duration> {
        let known = self.0.known.borrow().filter(|known| !known.is_refusing);
        known.map(|known| known.since.elapsed())
    }

    /// Tries a new connection if the error says that one broke or could not be opened.
    pub fn hear(&self, error: &sqlx::Error) {
        if matches!(error, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) {
            self.find_out();
        }
    }

    /// True if a connection from the pool may be used. One that was idle for longer than `idle_max`
    /// must answer a ping first.
    pub async fn may_use(
        &self,
        db: &mut impl Connection,
        of: PoolConnectionMetadata,
        idle_max: Duration,
    ) -> bool {
        let opened = Instant::now().checked_sub(of.age);
        if opened < *self.0.suspect.lock() {
            return false;
        }
        of.idle_for <= idle_max || self.answers(db).await
    }

    /// True if a connection may go back to the pool, which itself would wait for its answer without a
    /// time limit.
    pub async fn may_keep(&self, db: &mut impl Connection) -> bool {
        self.answers(db).await
    }

    async fn answers(&self, db: &mut impl Connection) -> bool {
        match timeout(ANSWER_MAX, db.ping()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                self.hear(&error);
                false
            }
            Err(_) => {
                self.suspect();
                false
            }
        }
    }

    /// Waits until the server is known to be silent.
    pub async fn is_known(&self) {
        let mut known = self.0.known.subscribe();
        if known.wait_for(Option::is_some).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until the server is known to be silent, and still is after [`STAYS`].
    pub async fn stays(&self) {
        loop {
            self.is_known().await;
            sleep(STAYS).await;
            if self.lasts().is_some_and(|lasts| lasts >= STAYS) {
                return;
            }
        }
    }

    /// Waits for `answer`, but no longer than the server is known to answer.
    ///
    /// # Errors
    /// Those of `answer`, and a time-out when the server is silent.
    pub async fn unless_silent<T>(
        &self,
        answer: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let long = async {
            sleep(LONG).await;
            self.find_out();
            sleep(STATEMENT_MAX - LONG).await;
        };
        tokio::select! {
            biased;
            () = self.is_known() => Err(no_answer()),
            answer = answer => answer.inspect_err(|error| self.hear(error)),
            () = long => Err(no_answer()),
        }
    }
}

impl Debug for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Silence").field(&self.lasts()).finish()
    }
}

fn no_answer() -> sqlx::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the server does not answer").into()
}

/// Tries to connect until the server lets nodes in or gives another error than "not now", or until every
/// [`Silence`] handle is dropped.
async fn find_out(silence: Weak<Inner>) {
    while let Some(inner) = silence.upgrade() {
        let greeted = timeout(ANSWER_MAX, greet(&inner.server)).await;
        let is_refusing = matches!(&greeted, Ok(Err(error)) if is_refusal(error));
        if greeted.is_ok() && !is_refusing {
            if inner.known.send_replace(None).is_some() {
                tracing::info!("the database answers again");
            }
            inner.is_trying.store(false, Ordering::Release);
            return;
        }
        *inner.suspect.lock() = Some(Instant::now());
        inner.note(is_refusing);
        drop(inner);
        sleep(TRY_EVERY).await;
    }
}

impl Inner {
    /// Records that the server did not answer or refused a connection. The first time counts.
    fn note(&self, is_refusing: bool) {
        let before = *self.known.borrow();
        if before.is_none() {
            tracing::error!("the database does not answer: nobody waits for it until it does");
        }
        let since = before.map_or_else(Instant::now, |before| before.since);
        self.known
            .send_replace(Some(PresentSilence { since, is_refusing }));
    }
}

async fn greet(server: &PgConnectOptions) -> Result<(), sqlx::Error> {
    PgConnection::connect_with(server).await?.close().await
}

/// True if nothing listens there, or the server takes no connections yet.
fn is_refusal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
        ),
        sqlx::Error::Database(error) => error.code().as_deref() == Some(CANNOT_CONNECT_NOW),
        _ => false,
    }
}
