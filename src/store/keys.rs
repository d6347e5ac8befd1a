//! Access keys. Only their hashes are stored, never the keys themselves.

use sqlx::{Any, Executor, FromRow};

use super::{Error, Store};
use crate::domain::hook::HookId;
use crate::domain::key::{Key, KeyId, Kind, Scope};
use crate::domain::name::Name;
use crate::domain::rate::Limit;
use crate::domain::time::Timestamp;

/// Last use of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastUse {
    /// Time of the request.
    pub at: Timestamp,
    /// Address that it came from.
    pub from: String,
}

#[derive(FromRow)]
struct Row {
    id: i64,
    key_id: String,
    name: String,
    kind: String,
    hook: Option<i64>,
    hash: Vec<u8>,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    last_used_at: Option<i64>,
    last_used_from: Option<String>,
    rate: Option<String>,
    burst: Option<i64>,
    created_by: Option<String>,
    consume: Option<String>,
}

const LIST: &str = "select id, key_id, name, kind, hook, hash, created_at, expires_at, revoked_at,
    last_used_at, last_used_from, rate, burst, created_by, consume from keys order by id";

const CREATE: &str = "insert into keys
    (key_id, name, kind, hook, hash, created_at, expires_at, rate, burst, created_by, consume)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

const REVOKE: &str = "update keys set revoked_at = coalesce(revoked_at, $2) where key_id = $1";

const USED: &str = "update keys set last_used_at = $2, last_used_from = $3 where id = $1";

pub(super) async fn list<'c>(
    db: impl Executor<'c, Database = Any>,
) -> Result<Vec<(Key, Option<LastUse>)>, Error> {
    let rows: Vec<Row> = sqlx::query_as(LIST).fetch_all(db).await?;
    rows.into_iter().map(Row::key).collect()
}

impl Store {
    /// Every key with its last use, oldest key first.
    pub async fn keys(&self) -> Result<Vec<(Key, Option<LastUse>)>, Error> {
        list(&self.reader).await
    }

    /// Stores a key. The database assigns its number; `key.number` is ignored.
    pub async fn create_key(&self, key: &Key) -> Result<(), Error> {
        let hook = match key.scope {
            Scope::All => None,
            Scope::Hook(hook) => Some(hook.0),
        };
        let mut writing = self.begin().await?;
        sqlx::query(CREATE)
            .bind(key.id.as_str())
            .bind(key.name.as_str())
            .bind(key.kind.word())
            .bind(hook)
            .bind(&key.hash[..])
            .bind(key.created_at.as_millis())
            .bind(key.expires_at.map(Timestamp::as_millis))
            .bind(key.limit.map(|limit| limit.rate.to_string()))
            .bind(key.limit.map(|limit| i64::from(limit.burst)))
            .bind(&key.created_by)
            .bind(key.consume.as_ref().map(Name::as_str))
            .execute(&mut writing.tx)
            .await?;
        writing.config_changed().await?;
        writing.commit().await
    }

    /// Revokes a key for good; `false` when it does not exist. Revoking twice keeps the first time.
    pub async fn revoke_key(&self, id: KeyId, at: Timestamp) -> Result<bool, Error> {
        let mut writing = self.begin().await?;
        let revoked = sqlx::query(REVOKE)
            .bind(id.as_str())
            .bind(at.as_millis())
            .execute(&mut writing.tx)
            .await?;
        if revoked.rows_affected() == 0 {
            return Ok(false);
        }
        writing.config_changed().await?;
        writing.commit().await?;
        Ok(true)
    }

    /// Records the last use of keys, given by number.
    pub async fn keys_used(&self, uses: &[(i64, LastUse)]) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        for (number, last) in uses {
            sqlx::query(USED)
                .bind(number)
                .bind(last.at.as_millis())
                .bind(&last.from)
                .execute(&mut writing.tx)
                .await?;
        }
        writing.commit().await
    }
}

impl Row {
    fn key(self) -> Result<(Key, Option<LastUse>), Error> {
        let wrong = |what: &str| Error::Integrity(format!("key {}: malformed {what}", self.key_id));
        let key = Key {
            number: self.id,
            id: KeyId::parse(&self.key_id).ok_or_else(|| wrong("id"))?,
            name: self.name.parse().map_err(|_| wrong("name"))?,
            kind: match self.kind.as_str() {
                "write" => Kind::Write,
                "read" => Kind::Read,
                "admin" => Kind::Admin,
                _ => return Err(wrong("kind")),
            },
            scope: self
                .hook
                .map_or(Scope::All, |hook| Scope::Hook(HookId(hook))),
            consume: match &self.consume {
                Some(name) => Some(name.parse().map_err(|_| wrong("handler"))?),
                None => None,
            },
            limit: self.limit().ok_or_else(|| wrong("rate"))?,
            hash: self.hash.as_slice().try_into().map_err(|_| wrong("hash"))?,
            created_at: Timestamp::from_millis(self.created_at),
            created_by: self.created_by,
            expires_at: self.expires_at.map(Timestamp::from_millis),
            revoked_at: self.revoked_at.map(Timestamp::from_millis),
        };
        let last = self.last_used_at.map(|at| LastUse {
            at: Timestamp::from_millis(at),
            from: self.last_used_from.unwrap_or_default(),
        });
        Ok((key, last))
    }

    /// The rate limit of the key; the outer `None` means a malformed row.
    fn limit(&self) -> Option<Option<Limit>> {
        let Some(rate) = &self.rate else {
            return Some(None);
        };
        let rate = rate.parse().ok()?;
        let burst = u32::try_from(self.burst?).ok()?;
        Some(Some(Limit { rate, burst }))
    }
}
