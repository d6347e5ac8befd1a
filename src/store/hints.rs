//! Requests to rebuild hints, and the answers of the nodes. Reads and writes rows only;
//! `admin/hints.rs` asks, `engine/wipe.rs` answers.

use std::time::Duration;

use sqlx::FromRow;

use super::{Error, Store};
use crate::domain::name::Name;
use crate::domain::time::{Timestamp, millis};

/// Age after which a request and its answers are removed.
const KEPT: Duration = Duration::from_secs(3600);

/// A request to every node to wipe its hints and make them again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HintRequest {
    /// Number of the request.
    pub id: i64,
    /// Only hints of this namespace; of all namespaces when `None`.
    pub namespace: Option<Name>,
    /// True if nodes only count and change nothing.
    pub dry_run: bool,
}

/// The answer of one node, about the lanes that it runs.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct HintAnswer {
    /// Id of the node.
    pub node: String,
    /// Number of its lanes in the namespaces asked about.
    pub lanes: i64,
    /// Number of cursors that had a hint.
    pub hinted: i64,
    /// Number of cursors that are behind.
    pub behind: i64,
    /// Number of flowing cursors that are behind and had no hint.
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
    /// Asks every node to wipe its hints and make them again.
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

    /// Number of the newest request; 0 when there is none.
    pub async fn last_hint_request(&self) -> Result<i64, Error> {
        Ok(sqlx::query_scalar(LAST).fetch_one(&self.reader).await?)
    }

    /// Requests after `after` that the node has not answered yet, oldest first.
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

    /// Stores the answer of a node. A second answer of the same node changes nothing.
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

    /// The answers to a request, by node.
    pub async fn hint_answers(&self, request: i64) -> Result<Vec<HintAnswer>, Error> {
        let answers = sqlx::query_as(ANSWERS).bind(request);
        Ok(answers.fetch_all(&self.reader).await?)
    }
}
