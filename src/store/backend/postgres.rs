//! The hot path on Postgres: storing events, reading for turns, moving cursors. Each is one statement
//! that commits by itself; no row is ever locked while a client is waited for. Behind a pooler that shares
//! sessions each is a transaction with one statement, whose rows stay locked until the client says commit.
//!
//! Promises: a batch is stored once, also when its connection breaks while it is being stored; what is
//! read was committed before the read began. Leaves to others: the tables and every other statement,
//! the order between batches of one node, and when to try again.

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
use self::movers::Movers;
pub use self::past::HISTORY;
use self::past::Past;
use super::session::{Alarm, Session, Sessions};
use super::silence::Silence;
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;
use crate::store::Error;
use crate::store::backend::ops::{Acknowledged, Commit, History};

/// Connections of one node: its committers, its turns, and some to spare.
const CONNECTIONS_MAX: u32 = 16;

/// How long a free connection is waited for, and the server when it cannot be reached.
const ACQUIRE_MAX: Duration = Duration::from_secs(5);

/// How long an answer is waited for. Longer than a statement may wait for a lock.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What every statement works under. No client is waited for with rows locked, but for its word to commit
/// where sessions are shared; `inputs` must find its rows by index whatever the statistics say, and be
/// planned once.
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

/// Called after every transaction, by the task that ran it.
pub type Observer = Arc<super::ops::Observer>;

/// The hot path. Cheap to clone; closed when [`Postgres::close`] was called.
#[derive(Clone)]
pub struct Postgres {
    pool: PgPool,
    /// Begins a transaction where sessions are shared.
    begin: Option<Arc<str>>,
    observer: Observer,
    alarm: Alarm,
    memory: Arc<Memory>,
    movers: Arc<Movers>,
    past: Arc<Past>,
    silence: Silence,
}

impl Postgres {
    /// Connects to the primary. The tables and functions must be there.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn open(
        options: PgConnectOptions,
        sessions: Sessions,
        silence: Silence,
        observer: Observer,
        alarm: Alarm,
    ) -> Result<Self, Error> {
        let past = Arc::<Past>::default();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_MAX)
            // A broken connection shows itself by the first statement, whose outcome is then resolved.
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

    /// Has the next turn of these cursors read them and their events: other nodes may have moved them,
    /// or stored some.
    pub fn doubt(&self, cursors: impl Iterator<Item = CursorId>) {
        cursors.for_each(|cursor| self.memory.doubt(cursor));
    }

    /// Goes on with this server, forgetting everything that was known of the one before.
    pub fn accept(&self, history: History) {
        self.memory.clear();
        self.past.accept(history);
    }

    /// What was acknowledged lately, by this server or by the one before.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.past.recent()
    }

    /// Those of some events that the server does not have, and that retention has not removed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn missing(&self, events: &[Acknowledged]) -> Result<Vec<Acknowledged>, Error> {
        const MISSING: &str = "select u.ord from unnest($1::bytea[], $2::bigint[], $3::bigint[])
              with ordinality as u (id, stream, seq, ord)
            where not exists (select 1 from events e where e.id = u.id)
              and not exists (select 1 from streams s where s.id = u.stream and s.floor >= u.seq)";
        let ids: Vec<_> = events.iter().map(|event| *event.id.as_bytes()).collect();
        let mut db = self.connection().await?;
        let asked = sqlx::query_scalar(MISSING)
            .bind(ids)
            .bind(
                events
                    .iter()
                    .map(|event| event.stream.0)
                    .collect::<Vec<_>>(),
            )
            .bind(events.iter().map(|event| event.seq.0).collect::<Vec<_>>());
        let missing: Vec<i64> = asked.fetch_all(&mut db).await?;
        db.end().await?;
        let event = |ord: i64| events.get(usize::try_from(ord - 1).ok()?).copied();
        Ok(missing.into_iter().filter_map(event).collect())
    }

    /// A connection to the server that is known.
    ///
    /// # Errors
    /// [`Error::Away`] while the server is silent: nothing was sent to it.
    async fn connection(&self) -> Result<Session<sqlx::Postgres>, Error> {
        let db = match self.silence.unless_silent(self.open_session()).await {
            Ok(db) => db,
            Err(_) if self.silence.lasts().is_some() => {
                return Err(Error::Away("the database does not answer".into()));
            }
            Err(error) => {
                if matches!(error, sqlx::Error::PoolTimedOut) {
                    self.silence.find_out();
                }
                return Err(error.into());
            }
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

    /// Waits for an answer; none when it did not come in time, or when the server is silent.
    async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Option<Result<T, sqlx::Error>> {
        tokio::select! {
            biased;
            answer = timeout(ANSWER_MAX, answer) => {
                if answer.is_err() {
                    self.silence.suspect();
                }
                answer.ok()
            }
            () = self.silence.is_known() => None,
        }
    }

    /// Forgets what is kept of streams that are gone.
    pub fn forget(&self, gone: &[StreamId]) {
        self.memory.forget(gone);
    }

    /// Waits for the statements that run and closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Tells of a transaction that began at `began`.
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

/// A connection that was idle for longer has to answer before it is used.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Connections of which none is used that is as old as one that was silent.
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

/// Connections whose sessions know the settings, and whose servers are looked at, once.
fn prepared(pool: PgPoolOptions, past: Arc<Past>) -> PgPoolOptions {
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

/// What begins a transaction in a session of which nothing is known, and says whose it is.
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

/// The answer to a statement, once it has committed. A connection that failed, or whose answer did not
/// come, is not used again.
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

/// A little while, different for each who waits it, so that those who collided do not meet again.
async fn jitter() {
    let millis = 5 + u64::from(rand::random::<u8>()) / 8;
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
