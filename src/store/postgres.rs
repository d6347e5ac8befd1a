//! The hot path on Postgres: storing events, reading for turns, moving cursors. Each is one statement
//! that commits by itself; no row is ever locked while a client is waited for.
//!
//! Promises: a batch is stored once, also when its connection breaks while it is being stored; what is
//! read was committed before the read began. Leaves to others: the tables and every other statement,
//! the order between batches of one node, and when to try again.

mod advance;
mod append;
mod functions;
mod inputs;
mod memory;
mod past;
mod prune;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Executor as _, Postgres};
use tokio::time::error::Elapsed;

use self::memory::Memory;
use self::past::{Acknowledged, Past};
use super::Error;
use super::history::History;
use super::writer::Commit;
use crate::domain::cursor::CursorId;
use crate::domain::event::StreamId;

/// Connections of one node: its committers, its turns, and some to spare.
const CONNECTIONS_MAX: u32 = 16;

/// How long a free connection is waited for, and the server when it cannot be reached.
const ACQUIRE_MAX: Duration = Duration::from_secs(5);

/// How long an answer is waited for. Longer than a statement may wait for a lock.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What every connection works under. No client is waited for with rows locked; `inputs` must find its
/// rows by index whatever the statistics say, and be planned once.
const SESSION: &str = "set lock_timeout = '5s'; set statement_timeout = 0;
    set idle_in_transaction_session_timeout = '10s';
    set default_transaction_isolation = 'read committed';
    set plan_cache_mode = force_generic_plan; set jit = off;
    set enable_seqscan = off; set enable_bitmapscan = off;
    set enable_hashjoin = off; set enable_mergejoin = off";

/// Is told of every transaction, by whichever task ran it.
pub type Observer = Arc<dyn Fn(Commit) + Send + Sync>;

/// The hot path. Cheap to clone; closed when [`Hot::close`] was called.
#[derive(Clone)]
pub struct Hot {
    pool: PgPool,
    observer: Observer,
    memory: Arc<Memory>,
    movers: Arc<advance::Movers>,
    past: Arc<Past>,
}

impl Hot {
    /// Connects to the primary. The tables and functions must be there.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn open(options: PgConnectOptions, observer: Observer) -> Result<Self, Error> {
        let past = Arc::<Past>::default();
        let server = past.clone();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_MAX)
            // A broken connection shows itself by the first statement, whose outcome is then resolved.
            .test_before_acquire(false)
            .after_connect(move |db, _| {
                let server = server.clone();
                Box::pin(async move {
                    prepare(db).await?;
                    server.look(db).await
                })
            })
            .connect_with(options)
            .await?;
        Ok(Self {
            pool,
            observer,
            memory: Arc::default(),
            movers: Arc::default(),
            past,
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
        let missing: Vec<i64> = asked.fetch_all(&mut *db).await?;
        let event = |ord: i64| events.get(usize::try_from(ord - 1).ok()?).copied();
        Ok(missing.into_iter().filter_map(event).collect())
    }

    /// A connection to the server that is known.
    async fn connection(&self) -> Result<PoolConnection<Postgres>, Error> {
        let db = self.pool.acquire().await?;
        match self.past.is_other() {
            true => Err(Error::Lost("another server has taken its place".into())),
            false => Ok(db),
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

async fn prepare(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    db.execute(SESSION).await?;
    Ok(())
}

/// The answer to a statement. A connection that failed, or whose answer did not come, is not used again.
fn settle<T>(
    mut db: PoolConnection<Postgres>,
    answer: Result<Result<T, sqlx::Error>, Elapsed>,
) -> Result<T, Error> {
    let settled = match answer {
        Ok(answer) => answer.map_err(Error::from),
        Err(_) => Err(Error::Lost(format!("no answer within {ANSWER_MAX:?}"))),
    };
    if matches!(settled, Err(Error::Lost(_))) {
        db.close_on_drop();
    }
    settled
}

/// A little while, different for each who waits it, so that those who collided do not meet again.
async fn jitter() {
    let millis = 5 + u64::from(rand::random::<u8>()) / 8;
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
