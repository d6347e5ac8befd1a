//! Connects to a Postgres server and checks it: it must answer within seconds, be configured so that a
//! commit is durable, and have our tables. Otherwise it is refused in one line that says what to do.
//!
//! Connections may go through a pooler, including one that shares sessions between transactions, which
//! is detected (see [`Sessions`]). A pooler that shares them between statements is refused.

use std::time::{Duration, Instant};

use sqlx::any::AnyPoolOptions;
use sqlx::migrate::MigrateError;
use sqlx::{AnyPool, Connection as _, PgConnection, Postgres, Row as _, Transaction};

use super::inspect::check_damage;
use super::past::HISTORY;
use super::refusal::{away, refusal, unfit, unreachable};
use crate::domain::time::{Timestamp, millis};
use crate::store::backend::session::Sessions;
use crate::store::backend::silence::Silence;
use crate::store::backend::tables::{mismatch, newest};
use crate::store::database::Server;
use crate::store::vault::{SECRETS, sealed_with};
use crate::store::{Error, Inspection};

/// Time limit for connecting.
const PATIENCE: Duration = Duration::from_secs(5);

/// Number of connections outside the hot path.
const CONNECTIONS_MAX: u32 = 4;

/// The oldest server version that is tested.
const VERSION_MIN: i32 = 140_000;

/// Clocks that differ by more are not synchronized.
const APART_MAX: Duration = Duration::from_secs(5);

/// Number of the advisory lock held while tables are migrated, because nodes may start at the same
/// time. Its bytes spell our name.
const LOCK: i64 = i64::from_be_bytes(*b"hooklane");

/// Run on every connection before it is used. The flag that it reads is 1 on a standby, whose data may
/// be old. The time-out ends transactions that a node forgot, which would block everyone else.
const GREET: &str = "select set_config('idle_in_transaction_session_timeout', '60s', false),
    case when pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' then 1 else 0 end";

const SETTINGS: &str = "select current_setting('server_version_num')::int as version,
    current_setting('server_version') as version_text,
    current_setting('server_encoding') as encoding,
    current_setting('fsync') as fsync,
    current_setting('full_page_writes') as full_page_writes,
    current_setting('synchronous_commit') as synchronous_commit,
    pg_is_in_recovery() as follows,
    current_setting('transaction_read_only') as read_only,
    cast(extract(epoch from clock_timestamp()) * 1000 as bigint) as clock";

/// Checks the server and migrates the tables; returns how it hands out sessions.
pub async fn prepare(server: &Server) -> Result<Sessions, Error> {
    let mut db = enter(server).await?;
    let sessions = sessions(server).await?;
    let mut tx = begin(server, &mut db).await?;
    check(server, &mut tx).await?;
    migrate(server, &mut tx).await?;
    end(server, tx).await?;
    let _ = db.close().await;
    Ok(sessions)
}

async fn sessions(server: &Server) -> Result<Sessions, Error> {
    match tokio::time::timeout(PATIENCE, Sessions::find(&server.native)).await {
        Ok(found) => found.map_err(|error| refusal(server, &error)),
        Err(_) => {
            let remedy =
                "a node holds 20: raise max_connections, or default_pool_size of its pooler";
            Err(away(
                server,
                "has one connection for us, and no other within 5 s",
                remedy,
            ))
        }
    }
}

/// Waits for an answer no longer than [`PATIENCE`].
async fn in_time<T>(
    server: &Server,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| refusal(server, &error)),
        Err(_) => Err(unreachable(server, "no answer")),
    }
}

/// sqlx and the migrator prepare named statements here, but a shared session must have none, before or
/// after us. Notices about existing tables are suppressed.
const FORGET: &str = "deallocate all; set local client_min_messages = warning";

/// Begins the one transaction in which a server is checked.
async fn begin<'a>(
    server: &Server,
    db: &'a mut PgConnection,
) -> Result<Transaction<'a, Postgres>, Error> {
    let began = async {
        let mut tx = db.begin().await?;
        sqlx::raw_sql(FORGET).execute(&mut *tx).await?;
        Ok(tx)
    };
    in_time(server, began).await
}

async fn end(server: &Server, mut tx: Transaction<'_, Postgres>) -> Result<(), Error> {
    let ended = async {
        sqlx::raw_sql(FORGET).execute(&mut *tx).await?;
        tx.commit().await
    };
    in_time(server, ended).await
}

async fn enter(server: &Server) -> Result<PgConnection, Error> {
    in_time(server, PgConnection::connect_with(&server.native)).await
}

/// Examines the server without changing it.
///
/// # Errors
/// [`Error::Refused`] when no node can run on it.
pub async fn examine(server: &Server) -> Result<Inspection, Error> {
    let mut db = enter(server).await?;
    let sessions = sessions(server).await?;
    let mut tx = begin(server, &mut db).await?;
    check(server, &mut tx).await?;
    let looked = in_time(server, facts(&mut tx)).await?;
    end(server, tx).await?;
    let _ = db.close().await;
    Ok(Inspection {
        shares_sessions: sessions == Sessions::Shared,
        ..looked
    })
}

/// Number of round trips measured; the quickest one counts.
const ASKED: usize = 5;

async fn facts(db: &mut PgConnection) -> Result<Inspection, sqlx::Error> {
    const FACTS: &str = "select 'Postgres ' || current_setting('server_version'),
        pg_database_size(current_database()),
        (select count(*) from pg_stat_activity where backend_type = 'client backend'),
        current_setting('max_connections')::bigint,
        to_regclass('_sqlx_migrations') is not null and to_regclass('counters') is not null";
    const TABLES: &str = "select (select max(version) from _sqlx_migrations),
        (select value from counters where name = 'cluster')";
    const CLOCK: &str = "select (extract(epoch from clock_timestamp()) * 1000)::bigint";
    let (version, bytes, used, most, has_tables): (String, i64, i64, i64, bool) =
        sqlx::query_as(FACTS).fetch_one(&mut *db).await?;
    let (tables, cluster): (Option<i64>, Option<i64>) = match has_tables {
        true => sqlx::query_as(TABLES).fetch_one(&mut *db).await?,
        false => (None, None),
    };
    let tables_known = newest(&sqlx::migrate!("migrations/postgres"));
    let damage = match tables == Some(tables_known) {
        true => Some(check_damage(db).await?),
        false => None,
    };
    let sealed = match tables == Some(tables_known) {
        true => sqlx::query_as(SECRETS).fetch_all(&mut *db).await?,
        false => Vec::new(),
    };
    let mut best = None;
    for _ in 0..ASKED {
        let (before, began) = (Timestamp::now(), Instant::now());
        let at: i64 = sqlx::query_scalar(CLOCK).fetch_one(&mut *db).await?;
        let took = began.elapsed();
        let ahead = at - before.as_millis() - millis(took) / 2;
        if best.is_none_or(|(quickest, _)| took < quickest) {
            best = Some((took, ahead));
        }
    }
    Ok(Inspection {
        version,
        tables,
        tables_known,
        bytes: u64::try_from(bytes).unwrap_or(0),
        cluster,
        clock: best.map(|(_, ahead)| ahead),
        answers_in: best.map(|(took, _)| took),
        connections: Some((used, most)),
        shares_sessions: false,
        damage,
        sealed: sealed_with(sealed),
        restored: None,
    })
}

/// Pool of connections outside the hot path, to a server that was prepared.
pub async fn pool(
    server: &Server,
    sessions: Sessions,
    silence: &Silence,
) -> Result<AnyPool, Error> {
    let (taken, given_back) = (silence.clone(), silence.clone());
    let pool = AnyPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(PATIENCE)
        // Tested by `before_acquire` below, which has a time limit.
        .test_before_acquire(false)
        .before_acquire(move |db, of| {
            let silence = taken.clone();
            Box::pin(async move { Ok(silence.may_use(db, of, Duration::ZERO).await) })
        })
        .after_release(move |db, _| {
            let silence = given_back.clone();
            Box::pin(async move { Ok(silence.may_keep(db).await) })
        });
    let greet = |pool: AnyPoolOptions| {
        pool.after_connect(|db, _| {
            Box::pin(async move {
                let greeted = sqlx::query(GREET).fetch_one(db).await?;
                match greeted.try_get::<i64, _>(1)? {
                    0 => Ok(()),
                    _ => Err(sqlx::Error::Protocol("the server only follows".into())),
                }
            })
        })
    };
    let pool = match sessions {
        Sessions::Own => greet(pool),
        Sessions::Shared => pool,
    };
    Ok(pool.connect_with(server.any.clone()).await?)
}

async fn check(server: &Server, db: &mut PgConnection) -> Result<(), Error> {
    let row = in_time(server, sqlx::query(SETTINGS).fetch_one(&mut *db)).await?;
    let text = |name: &str| row.try_get::<String, _>(name);
    let version: i32 = row.try_get("version")?;
    if is_too_old(version) {
        let is = format!("is version {}", text("version_text")?);
        return Err(unfit(server, &is, "14 or later is needed"));
    }
    let ours = crate::domain::time::Timestamp::now().as_millis();
    if let Some(apart) = clocks_apart(ours, row.try_get("clock")?) {
        tracing::warn!(server = %server.place(), "the clock of this node is {apart} that of Postgres, and \
            events are stamped by this node: timedatectl set-ntp true on both machines");
    }
    if row.try_get("follows")? {
        let what = "follows another server (it is in recovery)";
        return Err(unfit(server, what, "give the address of the primary"));
    }
    // The query needs a permission, and it runs on every new connection.
    in_time(server, sqlx::query(HISTORY).fetch_one(&mut *db)).await?;
    if text("read_only")? != "off" {
        let remedy = "turn default_transaction_read_only off for this user, or give the primary";
        return Err(unfit(server, "is read-only", remedy));
    }
    if text("encoding")? != "UTF8" {
        let what = format!("keeps {} in {}", server.name(), text("encoding")?);
        let remedy = "make a database with: createdb --encoding=UTF8 --template=template0";
        return Err(unfit(server, &what, remedy));
    }
    for name in ["fsync", "full_page_writes"] {
        if text(name)? != "on" {
            let what = format!("runs with {name}=off: a power cut can lose acknowledged events");
            return Err(unfit(server, &what, &format!("set {name} = on")));
        }
    }
    let commit = text("synchronous_commit")?;
    if !["on", "remote_apply"].contains(&commit.as_str()) {
        let what = format!("commits with synchronous_commit={commit}, before rows are durable");
        let user = server.native.get_username();
        let remedy = format!("alter role \"{user}\" set synchronous_commit = on");
        return Err(unfit(server, &what, &remedy));
    }
    Ok(())
}

fn is_too_old(version: i32) -> bool {
    version < VERSION_MIN
}

/// Describes the difference between two clocks (milliseconds since 1970) if it is too large.
fn clocks_apart(ours: i64, theirs: i64) -> Option<String> {
    let apart = Duration::from_millis(ours.abs_diff(theirs));
    let side = if ours < theirs { "behind" } else { "ahead of" };
    (apart > APART_MAX).then(|| format!("{} {side}", crate::text::duration(apart)))
}

/// Migrates the tables inside the transaction: a second node waits for the lock and finds nothing to
/// do.
async fn migrate(server: &Server, db: &mut PgConnection) -> Result<(), Error> {
    let mut migrator = sqlx::migrate!("migrations/postgres");
    migrator.set_locking(false);
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *db)
        .await
        .map_err(|error| refusal(server, &error))?;
    let migrated = migrator.run_direct(None, db, false).await;
    migrated.map_err(|error| not_migrated(server, error))
}

fn not_migrated(server: &Server, error: MigrateError) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            refusal(server, &error)
        }
        other => Error::Refused(format!("{server}: {}", mismatch(&other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_14_is_the_oldest() {
        for (version, old) in [
            (90_624, true),
            (130_018, true),
            (140_000, false),
            (180_001, false),
        ] {
            assert_eq!(is_too_old(version), old, "{version}");
        }
    }

    #[test]
    fn clocks_are_apart_whichever_is_ahead() {
        assert_eq!(clocks_apart(100_000, 104_000), None);
        let apart = |ours, theirs| clocks_apart(ours, theirs).unwrap();
        assert_eq!(apart(100_000, 106_000), "6.0s behind");
        assert_eq!(apart(106_000, 100_000), "6.0s ahead of");
        assert!(clocks_apart(i64::MAX, i64::MIN).is_some());
    }
}
