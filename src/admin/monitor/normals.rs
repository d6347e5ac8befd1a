//! Baselines outlive the process: they are stored once a minute and read at the start.

use super::seen::{MonitorState, StoredBaselines};
use crate::admin::{Admin, Error};
use crate::domain::hook::{HandlerId, HookId};
use crate::domain::time::Timestamp;
use crate::metrics::Baseline;
use crate::store::BaselineRow;

impl Admin {
    /// Reads once the baselines stored under this node name. Until that has succeeded, nothing is
    /// learned.
    pub(super) async fn recall(&self) -> Result<(), Error> {
        if self.monitor.seen.lock().kept.is_some() {
            return Ok(());
        }
        let rows = self.store.normals(&self.node).await?;
        let kept: StoredBaselines = rows.into_iter().map(normal).collect();
        let mut seen = self.monitor.seen.lock();
        for ((kind, subject), normal) in &kept {
            match kind.as_str() {
                "hook" => seen.hooks.entry(HookId(*subject)).or_default().normal = *normal,
                "handler" => seen.handlers.entry(HandlerId(*subject)).or_default().normal = *normal,
                _ => seen.commit = *normal,
            }
        }
        seen.kept = Some(kept);
        Ok(())
    }

    /// Stores the baselines that have changed since the last call. An idle node writes nothing.
    ///
    /// # Errors
    /// The baselines are stored by the next call.
    pub async fn keep_normals(&self) -> Result<(), Error> {
        let learned = {
            let seen = self.monitor.seen.lock();
            let Some(kept) = &seen.kept else {
                return Ok(());
            };
            let mut learned = learned(&seen);
            learned.retain(|figure, normal| kept.get(figure) != Some(normal));
            learned
        };
        if learned.is_empty() {
            return Ok(());
        }
        let (rows, now) = (
            learned.iter().map(row).collect::<Vec<_>>(),
            Timestamp::now(),
        );
        self.store.keep_normals(&self.node, &rows, now).await?;
        if let Some(kept) = &mut self.monitor.seen.lock().kept {
            kept.extend(learned);
        }
        Ok(())
    }
}

/// All baselines learned so far.
fn learned(seen: &MonitorState) -> StoredBaselines {
    let hooks = seen.hooks.iter();
    let hooks = hooks.map(|(hook, pace)| (("hook".to_owned(), hook.0), pace.normal));
    let handlers = seen.handlers.iter();
    let handlers = handlers.map(|(of, pace)| (("handler".to_owned(), of.0), pace.normal));
    let commit = std::iter::once((("commit".to_owned(), 0), seen.commit));
    let all = hooks.chain(handlers).chain(commit);
    all.filter(|(_, normal)| *normal != Baseline::default())
        .collect()
}

fn normal(row: BaselineRow) -> ((String, i64), Baseline) {
    let normal = Baseline::from_parts(row.mean, row.samples);
    ((row.kind, row.subject), normal)
}

fn row(((kind, subject), normal): (&(String, i64), &Baseline)) -> BaselineRow {
    let (mean, samples) = normal.parts();
    BaselineRow {
        kind: kind.clone(),
        subject: *subject,
        mean,
        samples,
    }
}
