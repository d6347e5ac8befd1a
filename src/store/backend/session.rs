//! Sessions of a Postgres server. Without a pooler, a connection has its own session. Behind a
//! transaction pooler, a connection has some session for the length of one transaction.
//!
//! In a shared session nothing may outlive a transaction, neither a setting nor a prepared statement,
//! because another client gets the session next. Even an unnamed statement is sent in two steps,
//! between which the session may change. Therefore every statement there runs in a transaction, is
//! unnamed, and makes its settings at the beginning of the transaction.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use sqlx::any::{Any, AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{
    PgConnectOptions, PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo, Postgres,
};
use sqlx::{
    AnyPool, Connection as _, Database, Describe, Either, Execute, Executor, Pool, Row as _,
    SqlSafeStr, SqlStr, Transaction,
};
use tokio::time::timeout;

use super::silence::Silence;
use crate::store::Error;

/// Time limit for beginning a transaction: a pooler lets clients wait while the server is away.
const BEGIN_MAX: Duration = Duration::from_secs(5);

/// Time limit for ending a transaction.
const END_MAX: Duration = Duration::from_secs(10);

/// Number of comparisons of two connections. One is enough for a pooler without other clients.
const LOOKS: usize = 8;

/// Begins a transaction in a shared session. The flag that it reads is 1 on a standby, whose data may
/// be old. The time-out ends transactions that a node forgot, which would block everyone else.
const BEGIN: &str = "begin; set local idle_in_transaction_session_timeout = '60s';
    select case when pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' then 1 else 0 end";

/// Like [`BEGIN`], with one snapshot for all statements of the transaction.
const BEGIN_SNAPSHOT: &str = "begin isolation level repeatable read;
    set local idle_in_transaction_session_timeout = '60s';
    select case when pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' then 1 else 0 end";

/// Called with every error after which the process must end, no matter which statement meets it. Cheap
/// to clone.
#[derive(Clone)]
pub struct Alarm(Arc<dyn Fn(Error) + Send + Sync>);

impl Alarm {
    pub fn new(raise: impl Fn(Error) + Send + Sync + 'static) -> Self {
        Self(Arc::new(raise))
    }

    /// Calls the alarm if the error is fatal.
    pub fn hear(&self, error: &Error) {
        if error.is_fatal() {
            (self.0)(error.again());
        }
    }

    /// Calls the alarm if the error is fatal, and returns the error.
    fn heard(&self, error: sqlx::Error) -> sqlx::Error {
        self.hear(&Error::of_sqlx(&error));
        error
    }
}

impl Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alarm")
    }
}

/// Relation between connections and sessions of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// Each connection has its own session.
    Own,
    /// A pooler gives a connection some session for one transaction at a time.
    Shared,
}

impl Sessions {
    /// Finds out whether sessions are shared: looks for two connections in one session, or one
    /// connection in two sessions.
    ///
    /// # Errors
    /// Errors of the connection. A pooler without transactions answers with its own error.
    pub async fn find(options: &PgConnectOptions) -> Result<Self, sqlx::Error> {
        const ASK: &str = "select pg_backend_pid()";
        const HOLD: &str = "begin; select pg_backend_pid()";
        let mut db = PgConnection::connect_with(options).await?;
        let mut other = PgConnection::connect_with(options).await?;
        let own = session(&mut db, ASK).await?;
        let mut found = Self::Own;
        for _ in 0..LOOKS {
            // The open transaction of the other connection keeps its session from being handed out.
            let is_shared = session(&mut other, HOLD).await? == own
                || session(&mut db, ASK).await? != own
                || session(&mut db, ASK).await? != own;
            sqlx::raw_sql("rollback").execute(&mut other).await?;
            if is_shared {
                found = Self::Shared;
                break;
            }
        }
        let _ = (db.close().await, other.close().await);
        Ok(found)
    }
}

/// Process id of the session that a connection has now.
async fn session(db: &mut PgConnection, ask: &'static str) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql(ask).fetch_one(db).await?.try_get(0)
}

/// A connection in use: in its own session, or in a transaction of a shared one. When it is dropped
/// before such a transaction has ended, the connection is closed and the pooler rolls back.
#[derive(Debug)]
pub struct Session<DB: Database> {
    db: PoolConnection<DB>,
    is_shared: bool,
    /// True if the connection can go back to the pool.
    is_clean: bool,
    alarm: Option<Alarm>,
}

impl<DB: Database> Session<DB> {
    /// A connection in its own session.
    pub fn own(db: PoolConnection<DB>) -> Self {
        Self {
            db,
            is_shared: false,
            is_clean: true,
            alarm: None,
        }
    }

    /// Reports fatal errors of its statements to the alarm.
    pub fn watched(mut self, alarm: &Alarm) -> Self {
        self.alarm = Some(alarm.clone());
        self
    }

    /// Calls the alarm if the error is fatal.
    pub fn hear(&self, error: &Error) {
        if let Some(alarm) = &self.alarm {
            alarm.hear(error);
        }
    }

    /// The connection itself.
    pub fn connection(&mut self) -> &mut DB::Connection {
        &mut self.db
    }

    /// Marks the connection to be closed instead of reused.
    pub fn spoil(&mut self) {
        self.is_clean = false;
    }
}

impl<DB: Database> Session<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    /// Begins a transaction in a shared session. `text` begins it and selects one row, which is
    /// returned.
    pub async fn begin(
        pool: &Pool<DB>,
        text: impl SqlSafeStr,
    ) -> Result<(Self, DB::Row), sqlx::Error> {
        let mut session = Self {
            db: pool.acquire().await?,
            is_shared: true,
            is_clean: false,
            alarm: None,
        };
        let begin = sqlx::raw_sql(text).fetch_all(&mut *session.db);
        let row = in_time(BEGIN_MAX, begin).await?.pop();
        Ok((session, row.ok_or(sqlx::Error::RowNotFound)?))
    }

    /// Commits the transaction of a shared session. In an own session each statement has already
    /// committed.
    pub async fn end(mut self) -> Result<(), sqlx::Error> {
        if self.is_shared {
            in_time(END_MAX, sqlx::raw_sql("commit").execute(&mut *self.db)).await?;
            self.is_clean = true;
        }
        Ok(())
    }
}

impl<DB: Database> Drop for Session<DB> {
    fn drop(&mut self) {
        if !self.is_clean {
            self.db.close_on_drop();
        }
    }
}

async fn in_time<T>(
    most: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer");
    timeout(most, answer).await.map_err(|_| late())?
}

/// Begins a transaction outside the hot path, on a primary only.
async fn begin(pool: &AnyPool, text: &'static str) -> Result<Session<Any>, sqlx::Error> {
    let (session, row) = Session::begin(pool, text).await?;
    match row.try_get::<i64, _>(0)? {
        0 => Ok(session),
        _ => Err(sqlx::Error::Protocol("the server only follows".into())),
    }
}

/// Runs single read-only statements outside the hot path.
#[derive(Clone, Debug)]
pub struct Reader {
    pub pool: AnyPool,
    pub sessions: Sessions,
    pub alarm: Alarm,
    /// `None` on SQLite.
    pub silence: Option<Silence>,
}

/// A transaction outside the hot path. Dropping it rolls back.
#[derive(Debug)]
pub struct Tx {
    open: Open,
    alarm: Alarm,
    silence: Option<Silence>,
}

#[derive(Debug)]
enum Open {
    Own(Transaction<'static, Any>),
    Shared(Session<Any>),
}

impl Tx {
    /// Begins a transaction, in an own session by the statement `text`.
    pub async fn begin(
        pool: &AnyPool,
        reader: &Reader,
        text: &'static str,
    ) -> Result<Self, sqlx::Error> {
        let (alarm, silence) = (reader.alarm.clone(), reader.silence.clone());
        let open = async {
            Ok(match reader.sessions {
                Sessions::Own => Open::Own(pool.begin_with(text).await?),
                Sessions::Shared => Open::Shared(begin(pool, BEGIN).await?),
            })
        };
        let open = unless_silent(silence.as_ref(), open).await;
        let open = open.map_err(|error| alarm.heard(error))?;
        Ok(Self {
            open,
            alarm,
            silence,
        })
    }

    /// Begins a read-only transaction with one snapshot, in a shared session.
    pub async fn snapshot(reader: &Reader) -> Result<Self, sqlx::Error> {
        let (alarm, silence) = (reader.alarm.clone(), reader.silence.clone());
        let open = unless_silent(silence.as_ref(), begin(&reader.pool, BEGIN_SNAPSHOT)).await;
        let open = open.map_err(|error| alarm.heard(error))?;
        Ok(Self {
            open: Open::Shared(open),
            alarm,
            silence,
        })
    }

    pub async fn commit(self) -> Result<(), sqlx::Error> {
        let commit = async {
            match self.open {
                Open::Own(tx) => tx.commit().await,
                Open::Shared(session) => session.end().await,
            }
        };
        let committed = unless_silent(self.silence.as_ref(), commit).await;
        committed.map_err(|error| self.alarm.heard(error))
    }
}

/// Waits for an answer. On Postgres, gives up while the server is silent.
async fn unless_silent<T>(
    silence: Option<&Silence>,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match silence {
        Some(silence) => silence.unless_silent(answer).await,
        None => answer.await,
    }
}

/// Streams the rows of SQLite. The rows of a server are collected first, because it may fall silent
/// between two of them.
fn rows_unless_silent<'e, T: Send + 'e>(
    silence: Option<&'e Silence>,
    rows: BoxStream<'e, Result<T, sqlx::Error>>,
) -> BoxStream<'e, Result<T, sqlx::Error>> {
    let Some(silence) = silence else {
        return rows;
    };
    let read = async move {
        let rows: Vec<_> = silence.unless_silent(rows.try_collect()).await?;
        Ok(stream::iter(rows.into_iter().map(Ok)))
    };
    read.try_flatten_stream().boxed()
}

/// Runs a query as a named (cached) prepared statement only where that is allowed.
struct Statement<Q> {
    query: Q,
    may_be_named: bool,
}

impl<'q, DB: Database, Q: Execute<'q, DB>> Execute<'q, DB> for Statement<Q> {
    fn sql(self) -> SqlStr {
        self.query.sql()
    }

    fn statement(&self) -> Option<&DB::Statement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<DB::Arguments>, BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        self.may_be_named && self.query.persistent()
    }
}

/// Methods of [`Executor`] that our statements never call.
macro_rules! prepared_elsewhere {
    ($db:ty, $statement:ty, $info:ty) => {
        fn prepare_with<'e>(
            self,
            _: SqlStr,
            _: &'e [$info],
        ) -> BoxFuture<'e, Result<$statement, sqlx::Error>>
        where
            'c: 'e,
        {
            let why = "statements are prepared as they run";
            std::future::ready(Err(sqlx::Error::Protocol(why.into()))).boxed()
        }

        fn describe<'e>(self, _: SqlStr) -> BoxFuture<'e, Result<Describe<$db>, sqlx::Error>>
        where
            'c: 'e,
        {
            let why = "statements are not described";
            std::future::ready(Err(sqlx::Error::Protocol(why.into()))).boxed()
        }
    };
}

macro_rules! session_runs_statements {
    ($db:ty, $result:ty, $row:ty, $statement:ty, $info:ty) => {
        impl<'c> Executor<'c> for &'c mut Session<$db> {
            type Database = $db;

            fn fetch_many<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxStream<'e, Result<Either<$result, $row>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + Execute<'q, $db>,
            {
                let may_be_named = !self.is_shared;
                (&mut *self.db).fetch_many(Statement {
                    query,
                    may_be_named,
                })
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxFuture<'e, Result<Option<$row>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + Execute<'q, $db>,
            {
                let may_be_named = !self.is_shared;
                (&mut *self.db).fetch_optional(Statement {
                    query,
                    may_be_named,
                })
            }

            prepared_elsewhere!($db, $statement, $info);
        }
    };
}

session_runs_statements!(Any, AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo);
session_runs_statements!(Postgres, PgQueryResult, PgRow, PgStatement, PgTypeInfo);

impl Reader {
    /// Runs a statement and streams its rows.
    fn stream<'e, 'q: 'e, E>(
        &'e self,
        query: E,
    ) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, sqlx::Error>>
    where
        E: 'q + Execute<'q, Any>,
    {
        if self.sessions == Sessions::Own {
            return (&self.pool).fetch_many(query);
        }
        let read = async {
            let mut session = begin(&self.pool, BEGIN).await?;
            let read: Vec<_> = (&mut session).fetch_many(query).try_collect().await?;
            session.end().await?;
            Ok(stream::iter(read.into_iter().map(Ok)))
        };
        read.try_flatten_stream().boxed()
    }

    /// Runs a statement that returns one row at most.
    fn row<'e, 'q: 'e, E>(&'e self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        E: 'q + Execute<'q, Any>,
    {
        if self.sessions == Sessions::Own {
            return (&self.pool).fetch_optional(query);
        }
        let read = async {
            let mut session = begin(&self.pool, BEGIN).await?;
            let row = (&mut session).fetch_optional(query).await?;
            session.end().await?;
            Ok(row)
        };
        read.boxed()
    }
}

impl<'c> Executor<'c> for &'c Reader {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let rows = rows_unless_silent(self.silence.as_ref(), self.stream(query));
        rows.map_err(|error| self.alarm.heard(error)).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let row = unless_silent(self.silence.as_ref(), self.row(query));
        row.map_err(|error| self.alarm.heard(error)).boxed()
    }

    prepared_elsewhere!(Any, AnyStatement, AnyTypeInfo);
}

impl<'c> Executor<'c> for &'c mut Tx {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let Tx {
            open,
            alarm,
            silence,
        } = self;
        let rows = match open {
            Open::Own(tx) => (&mut **tx).fetch_many(query),
            Open::Shared(session) => session.fetch_many(query),
        };
        let rows = rows_unless_silent(silence.as_ref(), rows);
        rows.map_err(|error| alarm.heard(error)).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let Tx {
            open,
            alarm,
            silence,
        } = self;
        let row = match open {
            Open::Own(tx) => (&mut **tx).fetch_optional(query),
            Open::Shared(session) => session.fetch_optional(query),
        };
        let row = unless_silent(silence.as_ref(), row);
        row.map_err(|error| alarm.heard(error)).boxed()
    }

    prepared_elsewhere!(Any, AnyStatement, AnyTypeInfo);
}
