//! Which session of a server a statement runs in: that of its connection, or, behind a pooler that gives
//! sessions to whoever has a transaction, some session for as long as that lasts.
//!
//! There nothing may outlive a transaction, neither a setting nor a prepared statement: somebody else has
//! the session next. Even a statement without a name goes out in two steps, between which the session may
//! become another one. So every statement is in a transaction, has no name, and finds its settings made.

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

/// How long the beginning of a transaction may take: a pooler has callers wait while the server is away.
const BEGIN_MAX: Duration = Duration::from_secs(5);

/// How long its end may take.
const END_MAX: Duration = Duration::from_secs(10);

/// How often two connections are compared. Once is enough for a pooler that nobody else uses.
const LOOKS: usize = 8;

/// Begins a transaction in a shared session. A server that only follows another one would show what was,
/// and a transaction that its node forgot would hold up everybody else's.
const BEGIN: &str = "begin; set local idle_in_transaction_session_timeout = '60s';
    select case when pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' then 1 else 0 end";

/// The same for a transaction of which every statement sees the database as the first one did.
const BEGIN_SNAPSHOT: &str = "begin isolation level repeatable read;
    set local idle_in_transaction_session_timeout = '60s';
    select case when pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' then 1 else 0 end";

/// How the sessions of a server are given to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// Each connection has one as long as it lasts.
    Own,
    /// A connection has some session for one transaction, by a pooler.
    Shared,
}

impl Sessions {
    /// Looks for two connections in one session, and for one in two.
    ///
    /// # Errors
    /// Those of the connection; of a pooler that has no transactions, what it says about them.
    pub async fn find(options: &PgConnectOptions) -> Result<Self, sqlx::Error> {
        const ASK: &str = "select pg_backend_pid()";
        const HOLD: &str = "begin; select pg_backend_pid()";
        let mut db = PgConnection::connect_with(options).await?;
        let mut other = PgConnection::connect_with(options).await?;
        let own = session(&mut db, ASK).await?;
        let mut found = Self::Own;
        for _ in 0..LOOKS {
            // While the other one has a transaction, nobody else has its session.
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

/// The number of the session that a connection has now.
async fn session(db: &mut PgConnection, ask: &'static str) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql(ask).fetch_one(db).await?.try_get(0)
}

/// A connection in use: in its own session, or in a transaction of a shared one. Dropped before such a
/// transaction has ended, it is closed, and the pooler undoes what was begun.
#[derive(Debug)]
pub struct Session<DB: Database> {
    db: PoolConnection<DB>,
    is_shared: bool,
    /// Whether somebody else may have the connection next.
    is_clean: bool,
}

impl<DB: Database> Session<DB> {
    /// In the connection's own session.
    pub fn own(db: PoolConnection<DB>) -> Self {
        Self {
            db,
            is_shared: false,
            is_clean: true,
        }
    }

    /// The connection itself.
    pub fn connection(&mut self) -> &mut DB::Connection {
        &mut self.db
    }

    /// Has the connection closed.
    pub fn spoil(&mut self) {
        self.is_clean = false;
    }
}

impl<DB: Database> Session<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    /// In a shared session, by a text that begins a transaction and asks for one row.
    pub async fn begin(
        pool: &Pool<DB>,
        text: impl SqlSafeStr,
    ) -> Result<(Self, DB::Row), sqlx::Error> {
        let mut session = Self {
            db: pool.acquire().await?,
            is_shared: true,
            is_clean: false,
        };
        let begin = sqlx::raw_sql(text).fetch_all(&mut *session.db);
        let row = in_time(BEGIN_MAX, begin).await?.pop();
        Ok((session, row.ok_or(sqlx::Error::RowNotFound)?))
    }

    /// Commits what is in a shared session; in the connection's own one everything has committed.
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

/// Begins a transaction of what is not hot.
async fn begin(pool: &AnyPool, text: &'static str) -> Result<Session<Any>, sqlx::Error> {
    let (session, row) = Session::begin(pool, text).await?;
    match row.try_get::<i64, _>(0)? {
        0 => Ok(session),
        _ => Err(sqlx::Error::Protocol("the server only follows".into())),
    }
}

/// Runs single statements that only read, and are not hot.
#[derive(Clone, Debug)]
pub struct Reader {
    pub pool: AnyPool,
    pub sessions: Sessions,
}

/// A transaction that is not hot.
#[derive(Debug)]
pub enum Tx {
    Own(Transaction<'static, Any>),
    Shared(Session<Any>),
}

impl Tx {
    /// Begins one, by `text` where the session is the connection's own.
    pub async fn begin(
        pool: &AnyPool,
        sessions: Sessions,
        text: &'static str,
    ) -> Result<Self, sqlx::Error> {
        Ok(match sessions {
            Sessions::Own => Self::Own(pool.begin_with(text).await?),
            Sessions::Shared => Self::Shared(begin(pool, BEGIN).await?),
        })
    }

    /// Begins one in a shared session that reads one snapshot.
    pub async fn snapshot(pool: &AnyPool) -> Result<Self, sqlx::Error> {
        Ok(Self::Shared(begin(pool, BEGIN_SNAPSHOT).await?))
    }

    pub async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Own(tx) => tx.commit().await,
            Self::Shared(session) => session.end().await,
        }
    }
}

/// A statement, with a name where one may be kept.
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

/// What statements of ours need of an [`Executor`] beside rows: nothing that is called.
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

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        'c: 'e,
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
        match self {
            Tx::Own(tx) => (&mut **tx).fetch_many(query),
            Tx::Shared(session) => session.fetch_many(query),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match self {
            Tx::Own(tx) => (&mut **tx).fetch_optional(query),
            Tx::Shared(session) => session.fetch_optional(query),
        }
    }

    prepared_elsewhere!(Any, AnyStatement, AnyTypeInfo);
}
