//! Requests to wipe hints and make them again, and what each node answers. Rows only.

use std::time::Duration;

use sqlx::FromRow;

use super::{Error, Store};
use crate::domain::name::Name;
use crate::domain::time::{Timestamp, millis};

/// How long a request is kept.
const KEPT: Duration = Duration::from_secs(3600);

/// What is asked of every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HintRequest {
    /// Its number.
    pub id: i64,
    /// Whose hints; none for those of all namespaces.
    pub namespace: Option<Name>,
    /// Whether it is only looked.
    pub dry_run: bool,
}

/// What a node found in the lanes that it runs.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct HintAnswer {
    /// Which node, by its number.
    pub node: String,
    /// Its lanes of the namespaces asked about.
    pub lanes: i64,
    /// Cursors that they knew to have work.
    pub hinted: i64,
    /// Cursors of theirs that are behind.
    pub behind: i64,
    /// Those of them that flow and that nobody had hinted.
    pub forgotten: i64,
}

const ASK: &str = "insert into hint_requests (namespace, dry_run, asked_at) values ($1, $2, $3)
    returning id";

const FORGET: &str = "delete from hint_requests where asked_at < $1";

const FORGET_ANSWERS: &str =
    "delete from hint_answers where request not in (select id from hint_requests)";

const OPEN: &str = "select id, namespace, dry_run from hint_requests r
    where id > $2
      and not exists (select 1 from hint_answers a where a.request = r.id and a.node = $1)
    order by id";

const LAST: &str = "select coalesce(max(id), 0) from hint_requests";

const ANSWER: &str = "insert into hint_answers (request, node, lanes, hinted, behind, forgotten)
    values ($1, $2, $3, $4, $5, $6) on conflict do nothing";

const ANSWERS: &str = "select node, lanes, hinted, behind, forgotten from hint_answers
    where request = $1 order by node";

impl Store {
    /// Asks every node to wipe hints and to make them again.
    ///
    /// # Errors
    /// Those of the database; nothing was asked.
    pub async fn ask_for_hints(
        &self,
        namespace: Option<&Name>,
        dry_run: bool,
        at: Timestamp,
    ) -> Result<HintRequest, Error> {
        let mut writing = self.begin().await?;
        let forget = sqlx::query(FORGET).bind(at.as_millis().saturating_sub(millis(KEPT)));
        forget.execute(&mut writing.tx).await?;
        sqlx::query(FORGET_ANSWERS).execute(&mut writing.tx).await?;
        let id = sqlx::query_scalar(ASK)
            .bind(namespace.map(Name::as_str))
            .bind(i64::from(dry_run))
            .bind(at.as_millis())
            .fetch_one(&mut writing.tx)
            .await?;
        writing.commit().await?;
        Ok(HintRequest {
            id,
            namespace: namespace.cloned(),
            dry_run,
        })
    }

    /// The number of the newest request; 0 when there is none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn last_hint_request(&self) -> Result<i64, Error> {
        Ok(sqlx::query_scalar(LAST).fetch_one(&self.reader).await?)
    }

    /// What a node has not answered yet, of what came after a request, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn open_hint_requests(
        &self,
        node: &str,
        after: i64,
    ) -> Result<Vec<HintRequest>, Error> {
        let open = sqlx::query_as(OPEN).bind(node).bind(after);
        let rows: Vec<(i64, Option<String>, i64)> = open.fetch_all(&self.reader).await?;
        let request = |(id, namespace, dry_run): (i64, Option<String>, i64)| {
            let wrong = |_| Error::Integrity(format!("hint request {id}: malformed namespace"));
            let namespace = namespace.map(|name| name.parse().map_err(wrong));
            Ok(HintRequest {
                id,
                namespace: namespace.transpose()?,
                dry_run: dry_run == 1,
            })
        };
        rows.into_iter().map(request).collect()
    }

    /// Answers a request, once.
    ///
    /// # Errors
    /// Those of the database; nothing was answered.
    pub async fn answer_hints(&self, request: i64, answer: &HintAnswer) -> Result<(), Error> {
        let mut writing = self.begin().await?;
        sqlx::query(ANSWER)
            .bind(request)
            .bind(&answer.node)
            .bind(answer.lanes)
            .bind(answer.hinted)
            .bind(answer.behind)
            .bind(answer.forgotten)
            .execute(&mut writing.tx)
            .await?;
        writing.commit().await
    }

    /// What was answered to a request.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hint_answers(&self, request: i64) -> Result<Vec<HintAnswer>, Error> {
        let answers = sqlx::query_as(ANSWERS).bind(request);
        Ok(answers.fetch_all(&self.reader).await?)
    }
}
