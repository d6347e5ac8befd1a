//! Erasing streams, for people who ask for their data to be deleted.

use std::time::{Duration, Instant};

use wildmatch::WildMatch;

use super::{Admin, Error};
use crate::api;
use crate::domain::event::StreamId;
use crate::domain::hook::Hook;
use crate::domain::name::{Name, OrderingKey, StreamName};
use crate::domain::time::Timestamp;
use crate::store::{BegunErasure, ErasureCounts, ErasureTarget};

/// Number of streams deleted by one transaction.
const STREAMS_MAX: usize = 100;

/// Number of names in a receipt.
const NAMES_MAX: usize = 100;

/// Time for which a request waits until the bytes are overwritten, and the interval of its looks.
const WAIT_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Longest pattern of ordering keys, in bytes.
const PATTERN_MAX: usize = 500;

/// Statement that overwrites the bytes of removed rows on Postgres.
const REWRITE: &str = "vacuum (full) events, waiting, cursors, checkpoints, shadows, dead_letters";

impl Admin {
    /// Erases streams, or counts what that would remove. On return their rows cannot be found any more; the answer says
    /// whether their bytes are overwritten too.
    ///
    /// # Errors
    /// [`Error::Missing`] hook or stream; [`Error::Conflict`] while a rebuild of the hook runs, or when other streams
    /// match than the operator has seen. Streams of earlier transactions are erased then.
    pub async fn erase(&self, spec: &api::EraseSpec, by: &str) -> Result<api::Erased, Error> {
        let engine = self.engine()?;
        let (hook, targets) = self.erasure_targets(spec).await?;
        let at = Timestamp::now();
        let overwrites = self.store.overwrites().await?;
        let receipt = |counts| api::Erased {
            by: by.to_owned(),
            reason: spec.reason.clone(),
            names: aliases(&targets),
            to_run: match overwrites {
                true => Vec::new(),
                false => vec![REWRITE.to_owned()],
            },
            ..counted(&hook.name, counts, at)
        };
        if spec.dry_run {
            return Ok(receipt(self.store.erasure_counts(&targets).await?));
        }
        as_planned(spec, targets.len())?;
        let mut receipt = receipt(self.delete_streams(&hook, &targets, at).await?);
        self.acted_by_all(self.store.config_version().await?)
            .await?;
        engine.finish_erasures_soon();
        receipt.bytes = match (self.are_finished(at).await?, overwrites) {
            (false, _) => "pending",
            (true, true) => "overwritten",
            (true, false) => "removed",
        }
        .to_owned();
        Ok(receipt)
    }

    /// Number of erased streams whose data is still being removed.
    pub async fn open_erasures(&self) -> Result<api::OpenErasures, Error> {
        let open = self.store.erasures().await?.len() as u64;
        Ok(api::OpenErasures { open })
    }

    /// The streams that are meant, by ordering key.
    async fn erasure_targets(
        &self,
        spec: &api::EraseSpec,
    ) -> Result<(Hook, Vec<ErasureTarget>), Error> {
        match (&spec.stream, &spec.hook, &spec.matching) {
            (Some(name), None, None) => self.one_stream(name).await,
            (None, Some(hook), Some(pattern)) => self.matching_streams(hook, pattern).await,
            _ => Err(Error::Invalid(
                "name one stream, or a hook and a pattern of its ordering keys".to_owned(),
            )),
        }
    }

    async fn one_stream(&self, name: &StreamName) -> Result<(Hook, Vec<ErasureTarget>), Error> {
        let hook = self.hook(&name.hook).await?;
        let stream = self.store.stream(hook.id, &name.key).await?;
        let held_back = self.store.held_back_count(hook.id, Some(&name.key)).await?;
        if stream.is_none() && held_back.events == 0 {
            return Err(self.no_stream(&hook, name).await?);
        }
        let target = target(&hook, name.key.clone(), stream.map(|stream| stream.id));
        Ok((hook, vec![target]))
    }

    async fn matching_streams(
        &self,
        hook: &Name,
        pattern: &str,
    ) -> Result<(Hook, Vec<ErasureTarget>), Error> {
        if pattern.is_empty() || pattern.len() > PATTERN_MAX {
            return Err(Error::Invalid(format!(
                "a pattern of ordering keys has 1 to {PATTERN_MAX} bytes, such as 'customer-7*'"
            )));
        }
        let hook = self.hook(hook).await?;
        let glob = WildMatch::new(pattern);
        let keys = self.store.erasable(hook.id).await?;
        let targets: Vec<_> = keys
            .into_iter()
            .filter(|(key, _)| glob.matches(key.as_str()))
            .map(|(key, stream)| target(&hook, key, stream))
            .collect();
        match targets.is_empty() {
            true => Err(Error::missing("stream", format!("{}/{pattern}", hook.name))),
            false => Ok((hook, targets)),
        }
    }

    /// Deletes the streams, and makes the lanes drop their set-aside cursors. Returns the sizes.
    async fn delete_streams(
        &self,
        hook: &Hook,
        targets: &[ErasureTarget],
        at: Timestamp,
    ) -> Result<ErasureCounts, Error> {
        let engine = self.engine()?;
        let me = engine.member.as_ref().map(|member| member.id());
        let me = me.unwrap_or_default();
        let is_meant = |stream: StreamId| targets.iter().any(|of| of.stream == Some(stream));
        let mut aside = self.set_aside(hook.id).await?;
        aside.retain(|row| is_meant(row.id.stream));
        let mut counts = ErasureCounts::default();
        for some in targets.chunks(STREAMS_MAX) {
            let begun = self.store.begin_erasure(some, &me, at, &mut counts).await?;
            if matches!(begun, BegunErasure::Rebuilding) {
                return Err(Error::Conflict(format!(
                    "a rebuild of hook {} is running, which may hold a copy of the state: erase after it has ended",
                    hook.name
                )));
            }
        }
        self.changed().await?;
        self.forget(hook, &aside);
        Ok(counts)
    }

    /// Waits until the data of streams that were erased at `at` is gone; `false` if that takes long.
    async fn are_finished(&self, at: Timestamp) -> Result<bool, Error> {
        let began = Instant::now();
        loop {
            let open = self.store.erasures().await?;
            if !open.iter().any(|erasure| erasure.asked_at == at) {
                return Ok(true);
            }
            if began.elapsed() > WAIT_MAX {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Refuses an erasure of other streams than those that the operator has seen in the plan.
fn as_planned(spec: &api::EraseSpec, found: usize) -> Result<(), Error> {
    match spec.expect {
        Some(expected) if expected != found as u64 => Err(Error::Conflict(format!(
            "{found} streams match now, the plan had {expected}: look at the plan again"
        ))),
        _ => Ok(()),
    }
}

fn target(hook: &Hook, key: OrderingKey, stream: Option<StreamId>) -> ErasureTarget {
    let name = StreamName {
        hook: hook.name.clone(),
        key,
    };
    ErasureTarget {
        hook: hook.id,
        stream,
        name: name.to_string(),
        alias: name.alias(),
        key: name.key,
    }
}

fn aliases(targets: &[ErasureTarget]) -> Vec<String> {
    let first = targets.iter().take(NAMES_MAX);
    first.map(|target| target.alias.clone()).collect()
}

/// A plan with these sizes.
fn counted(hook: &Name, counts: ErasureCounts, at: Timestamp) -> api::Erased {
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    api::Erased {
        hook: hook.clone(),
        names: Vec::new(),
        streams: number(counts.streams),
        events: number(counts.events),
        held_back: number(counts.held_back),
        dedupe_keys: number(counts.dedupe_keys),
        cursors: number(counts.cursors),
        states: number(counts.states),
        checkpoints: number(counts.checkpoints),
        dead_letters: number(counts.dead_letters),
        replays: number(counts.replays),
        at,
        by: String::new(),
        reason: None,
        bytes: "planned".to_owned(),
        to_run: Vec::new(),
    }
}
