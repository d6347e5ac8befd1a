//! The hot path on Postgres: storing events, reading for turns, moving cursors. Each operation is one
//! statement that commits by itself, so no row stays locked while the server waits for a client. Behind
//! a pooler that shares sessions each is a transaction of one statement, whose rows stay locked until
//! the client sends the commit.
//!
//! Promises: a batch is stored once, even when its connection breaks meanwhile; a read sees everything
//! that was committed before it began. Left to others: the tables and all other statements, the order
//! between batches of one node, and retries.

mod advance;
mod append;
mod functions;
mod inputs;
mod inspect;
mod memory;
mod movers;
mod past;
mod prune;
mod refusal;
mod rows;
pub mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::time::timeout;

use self::memory::Memory;
use self::movers::MoveQueue;
pub use self::past::HISTORY;
use self::past::RecentHistory;
use super::session::{Alarm, Session, Sessions};
use super::silence::Silence;
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::store::Error;
use crate::store::backend::ops::{Acknowledged, Commit, History};

/// Number of connections of one node: its committers, its turns, and some to spare.
const CONNECTIONS_MAX: u32 = 16;

/// Time limit for getting a connection, and for reaching the server.
const ACQUIRE_MAX: Duration = Duration::from_secs(5);

/// Time limit for an answer. Longer than a statement may wait for a lock.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Settings of every statement. Rows are locked while a client is waited for only with shared sessions,
/// until the commit. The plan settings make `inputs` find its rows by index whatever the statistics
/// are, with one plan for all calls.
const SETTINGS: [(&str, &str); 9] = [
    ("lock_timeout", "'5s'"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "'2s'"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// Called after every transaction by the task that ran it.
pub type Observer = Arc<super::ops::Observer>;

/// Handle on the hot path. Cheap to clone; all clones are closed by [`Postgres::close`].
#[derive(Clone)]
pub struct Postgres {
    pool: PgPool,
    /// Statement that begins a transaction where sessions are shared.
    begin: Option<Arc<str>>,
    observer: Observer,
    alarm: Alarm,
    memory: Arc<Memory>,
    movers: Arc<MoveQueue>,
    past: Arc<RecentHistory>,
    silence: Silence,
}

impl Postgres {
    /// Connects to the primary, whose tables and functions must exist.
    ///
    /// # Errors
    /// Errors of the connection.
    pub async fn open(
        options: PgConnectOptions,
        sessions: Sessions,
        silence: Silence,
        observer: Observer,
        alarm: Alarm,
    ) -> Result<Self, Error> {
        let past = Arc::<RecentHistory>::default();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_MAX)
            // A broken connection fails at its first statement, whose outcome is then resolved.
            .test_before_acquire(false);
        let pool = attentive(pool, &silence);
        let (pool, begin) = match sessions {
            Sessions::Own => (prepared(pool, past.clone()), None),
            Sessions::Shared => (pool, Some(begin())),
        };
        Ok(Self {
            pool: pool.connect_with(options).await?,
            begin,
            observer,
            alarm,
            memory: Arc::default(),
            movers: Arc::default(),
            past,
            silence,
        })
    }

    /// Makes the next turn of these cursors read them and their events from the database.
    pub fn invalidate(&self, cursors: impl Iterator<Item = CursorId>) {
        cursors.for_each(|cursor| self.memory.invalidate(cursor));
    }

    /// Accepts this server, and drops everything that was cached from the previous one.
    pub fn accept(&self, history: History) {
        self.memory.clear();
        self.past.accept(history);
    }

    /// Events that this node acknowledged lately, on this server or the previous one.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.past.recent()
    }

    /// Those of the given events that the server does not have and that retention has not removed. An
    /// event that was held back counts as missing if it was removed since its release.
    pub async fn missing(&self, events: &[Acknowledged]) -> Result<Vec<Acknowledged>, Error> {
        const MISSING: &str = "select u.ord from unnest($1::bytea[], $2::bigint[], $3::bigint[])
              with ordinality as u (id, stream, seq, ord)
            where not exists (select 1 from events e where e.id = u.id)
              and not exists (select 1 from waiting w where w.id = u.id)
              and not exists (select 1 from streams s where s.id = u.stream and s.floor >= u.seq)";
        let ids: Vec<_> = events.iter().map(|event| *event.id.as_bytes()).collect();
        let places = || events.iter().map(|event| event.place.in_stream());
        let streams: Vec<_> = places().map(|at| at.map(|(stream, _)| stream.0)).collect();
        let seqs: Vec<_> = places().map(|at| at.map(|(_, seq)| seq.0)).collect();
        let mut db = self.connection().await?;
        let asked = sqlx::query_scalar(MISSING)
            .bind(ids)
            .bind(streams)
            .bind(seqs);
        let missing: Vec<i64> = asked.fetch_all(&mut db).await?;
        db.end().await?;
        let event = |ord: i64| events.get(usize::try_from(ord - 1).ok()?).cloned();
        Ok(missing.into_iter().filter_map(event).collect())
    }

    /// A connection to the accepted server.
    ///
    /// # Errors
    /// [`Error::Away`] while the server is silent: nothing was sent.
    async fn connection(&self) -> Result<Session<sqlx::Postgres>, Error> {
        let db = match self.silence.unless_silent(self.open_session()).await {
            Ok(db) => db,
            Err(_) if self.silence.lasts().is_some() => {
                return Err(Error::Away("the database does not answer".into()));
            }
            Err(error) => return Err(error.into()),
        };
        match self.past.is_other() {
            true => Err(Error::Lost("another server has taken its place".into())),
            false => Ok(db.watched(&self.alarm)),
        }
    }

    async fn open_session(&self) -> Result<Session<sqlx::Postgres>, sqlx::Error> {
        let Some(begin) = &self.begin else {
            return Ok(Session::own(self.pool.acquire().await?));
        };
        let begin = AssertSqlSafe(begin.clone());
        let (db, server) = Session::begin(&self.pool, begin).await?;
        self.past.note(&server)?;
        Ok(db)
    }

    /// Waits for an answer; `None` when it does not come in time or the server is silent.
    async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Option<Result<T, sqlx::Error>> {
        tokio::select! {
            biased;
            answer = timeout(ANSWER_MAX, answer) => {
                match &answer {
                    Ok(Err(error)) => self.silence.hear(error),
                    Ok(Ok(_)) => {}
                    Err(_) => self.silence.suspect(),
                }
                answer.ok()
            }
            () = self.silence.is_known() => None,
        }
    }

    /// Drops what is cached of streams that no longer exist.
    pub fn forget(&self, gone: &[StreamId]) {
        self.memory.forget(gone);
        self.past.forget(gone);
    }

    /// Waits for running statements and closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Reports a transaction that began at `began` to the observer.
    fn report<T>(&self, began: Instant, events: usize, steps: usize, result: &Result<T, Error>) {
        (self.observer)(Commit {
            took: began.elapsed(),
            synced: None,
            events,
            steps,
            error: result.as_ref().err().map(Error::again),
        });
    }
}

/// Idle time after which a connection must answer a ping before it is used.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Makes the pool close suspect connections instead of using them; see [`Silence`].
fn attentive(pool: PgPoolOptions, silence: &Silence) -> PgPoolOptions {
    let (taken, given_back) = (silence.clone(), silence.clone());
    pool.before_acquire(move |db, of| {
        let silence = taken.clone();
        Box::pin(async move { Ok(silence.may_use(db, of, IDLE_MAX).await) })
    })
    .after_release(move |_, _| {
        let is_known = given_back.lasts().is_some();
        Box::pin(std::future::ready(Ok(!is_known)))
    })
}

/// Makes each new connection apply the settings and read the server's history, once.
fn prepared(pool: PgPoolOptions, past: Arc<RecentHistory>) -> PgPoolOptions {
    pool.after_connect(move |db, _| {
        let past = past.clone();
        Box::pin(async move {
            prepare(db).await?;
            past.note(&sqlx::query(HISTORY).fetch_one(db).await?)
        })
    })
}

async fn prepare(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    let isolation = "set default_transaction_isolation = 'read committed'; ";
    let text = isolation.to_owned() + &settings("set");
    db.execute(AssertSqlSafe(text)).await?;
    Ok(())
}

/// Statement that begins a transaction in an unknown session: it applies the settings and reads the
/// server's history.
fn begin() -> Arc<str> {
    let settings = settings("set local");
    format!("begin isolation level read committed; {settings}{HISTORY}").into()
}

fn settings(set: &str) -> String {
    let settings = SETTINGS.iter();
    settings
        .map(|(name, value)| format!("{set} {name} = {value}; "))
        .collect()
}

/// Ends a session with its answer: commits, or closes the connection when the answer is an error or did
/// not come.
async fn settle<T>(
    mut db: Session<sqlx::Postgres>,
    answer: Option<Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    let settled = match answer {
        Some(answer) => answer.map_err(Error::from),
        None => Err(Error::Lost("no answer in time".into())),
    };
    match &settled {
        Ok(_) => db.end().await?,
        Err(Error::Lost(_) | Error::Memory(_)) => db.spoil(),
        Err(error) => db.hear(error),
    }
    settled
}

/// Waits a few milliseconds, at random, so that colliding transactions do not collide again.
async fn jitter() {
    let millis = 5 + u64::from(rand::random::<u8>()) / 8;
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
