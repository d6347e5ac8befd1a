//! A server that does not answer, and does not say so either: its connections look as if they were open.
//!
//! One connection that is silent makes all of its age suspect: they are closed instead of used, so that it costs its
//! time once and not once for each. Then a new connection is tried. If that is silent too, the silence is known: until
//! the server answers again nobody waits for it, and who waits is told at once.

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

/// How long a connection may take to say that it is there, and a new one to be let in.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The time from one try to get in to the next.
const TRY_EVERY: Duration = Duration::from_millis(250);

/// A statement that takes longer has a new connection tried beside it.
const LONG: Duration = Duration::from_secs(10);

/// A statement that takes longer is given up.
const STATEMENT_MAX: Duration = Duration::from_secs(60);

/// Whether a server is silent, and since when. Cheap to clone.
#[derive(Clone)]
pub struct Silence(Arc<Inner>);

struct Inner {
    server: PgConnectOptions,
    /// Connections from before this moment are not used again.
    suspect: Mutex<Option<Instant>>,
    /// Since when it is known.
    known: watch::Sender<Option<Instant>>,
    is_trying: AtomicBool,
}

impl Silence {
    /// Nothing is known yet.
    pub fn of(server: &PgConnectOptions) -> Self {
        Self(Arc::new(Inner {
            server: server.clone(),
            suspect: Mutex::new(None),
            known: watch::channel(None).0,
            is_trying: AtomicBool::new(false),
        }))
    }

    /// Notes that a connection did not answer in time.
    pub fn suspect(&self) {
        *self.0.suspect.lock() = Some(Instant::now());
        self.find_out();
    }

    /// Tries a new connection, unless that is being done.
    pub fn find_out(&self) {
        if !self.0.is_trying.swap(true, Ordering::AcqRel) {
            tokio::spawn(find_out(Arc::downgrade(&self.0)));
        }
    }

    /// For how long it is known.
    pub fn lasts(&self) -> Option<Duration> {
        let known = *self.0.known.borrow();
        known.map(|since| since.elapsed())
    }

    /// Whether a connection from the pool may be used. One that was idle for longer than `idle_max` has to answer first.
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

    /// Whether a connection may go back to the pool, which would wait for its answer without an end.
    pub async fn may_keep(&self, db: &mut impl Connection) -> bool {
        self.answers(db).await
    }

    async fn answers(&self, db: &mut impl Connection) -> bool {
        match timeout(ANSWER_MAX, db.ping()).await {
            Ok(answer) => answer.is_ok(),
            Err(_) => {
                self.suspect();
                false
            }
        }
    }

    /// Waits until it is known.
    pub async fn is_known(&self) {
        let mut known = self.0.known.subscribe();
        if known.wait_for(Option::is_some).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits for an answer, and not while the server is silent.
    ///
    /// # Errors
    /// Those of the answer; that none came.
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
            answer = answer => answer,
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

/// Tries until there is an answer, whichever, or until nobody is left who would want it.
async fn find_out(silence: Weak<Inner>) {
    while let Some(inner) = silence.upgrade() {
        if timeout(ANSWER_MAX, greet(&inner.server)).await.is_ok() {
            if inner.known.send_replace(None).is_some() {
                tracing::info!("the database answers again");
            }
            inner.is_trying.store(false, Ordering::Release);
            return;
        }
        *inner.suspect.lock() = Some(Instant::now());
        let was_known = inner.known.borrow().is_some();
        if !was_known {
            tracing::error!("the database does not answer: nobody waits for it until it does");
            inner.known.send_replace(Some(Instant::now()));
        }
        drop(inner);
        sleep(TRY_EVERY).await;
    }
}

async fn greet(server: &PgConnectOptions) -> Result<(), sqlx::Error> {
    PgConnection::connect_with(server).await?.close().await
}
