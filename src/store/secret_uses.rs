//! Uses of the secrets that verify senders: one row for each secret that has verified a request.

use sqlx::FromRow;

use super::backend::session::Tx;
use super::{Error, Store};
use crate::domain::hook::HookId;
use crate::domain::time::Timestamp;

/// Requests that a secret has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse {
    /// The hook.
    pub hook: HookId,
    /// Id of the secret.
    pub secret: String,
    /// Time of the first request.
    pub first_at: Timestamp,
    /// Time of the latest request.
    pub last_at: Timestamp,
}

#[derive(FromRow)]
struct Row {
    hook: i64,
    secret: String,
    first_at: i64,
    last_at: i64,
}

const ADD: &str = "insert into secret_uses (hook, secret, first_at, last_at)
    values ($1, $2, $3, $4)
    on conflict (hook, secret) do update set last_at =
      case when excluded.last_at > secret_uses.last_at then excluded.last_at else secret_uses.last_at end";

const LIST: &str = "select hook, secret, first_at, last_at from secret_uses
    where $1 is null or hook = $1 order by hook, secret";

const FORGET: &str = "delete from secret_uses where hook = $1 and ($2 is null or secret = $2)";

impl Store {
    /// Adds uses to the stored ones. `uses` are sorted by hook and secret, so that nodes lock rows in
    /// the same order.
    pub async fn add_secret_uses(&self, uses: &[SecretUse]) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        for one in uses {
            sqlx::query(ADD)
                .bind(one.hook.0)
                .bind(one.secret.as_str())
                .bind(one.first_at.as_millis())
                .bind(one.last_at.as_millis())
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await
    }

    /// Uses of the secrets of one hook or of all, by hook.
    pub async fn secret_uses(&self, hook: Option<HookId>) -> Result<Vec<SecretUse>, Error> {
        let rows: Vec<Row> = sqlx::query_as(LIST)
            .bind(hook.map(|hook| hook.0))
            .fetch_all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(SecretUse::from).collect())
    }
}

/// Deletes the uses of one secret of a hook, or of all of them.
pub(super) async fn forget(tx: &mut Tx, hook: HookId, secret: Option<&str>) -> Result<(), Error> {
    sqlx::query(FORGET)
        .bind(hook.0)
        .bind(secret)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

impl From<Row> for SecretUse {
    fn from(row: Row) -> Self {
        Self {
            hook: HookId(row.hook),
            secret: row.secret,
            first_at: Timestamp::from_millis(row.first_at),
            last_at: Timestamp::from_millis(row.last_at),
        }
    }
}
