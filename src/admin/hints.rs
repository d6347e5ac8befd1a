//! Rebuilding the hints on every node.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Admin, Error};
use crate::api;
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::store::{HintAnswer, HintRequest, NodeRow};

/// Time limit for the nodes' answers.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Pause between two looks for answers.
const LOOK: Duration = Duration::from_millis(20);

impl Admin {
    /// Asks every node to wipe the hints of its lanes and make them again from the database, or only to
    /// count them. Nodes that do not answer in time are named; they do their part later.
    ///
    /// # Errors
    /// [`Error::Missing`] namespace; [`Error::Away`] when Redis does not answer;
    /// [`Error::NeedsDaemon`].
    pub async fn rebuild_hints(&self, spec: &api::HintsSpec) -> Result<api::Hints, Error> {
        let engine = self.engine()?;
        let began = Instant::now();
        let sets: Vec<_> = match &spec.namespace {
            Some(name) => vec![self.namespace(name).await?],
            None => self.store.namespaces().await?,
        };
        if !spec.dry_run && engine.relay.is_away() {
            let message = "Redis does not answer: its hints cannot be wiped. Nothing was changed.";
            return Err(Error::Away(message.to_owned()));
        }
        let lanes = sets.iter().map(|set| u64::from(set.lanes.lanes)).sum();
        let mut namespaces: Vec<Name> = sets.into_iter().map(|set| set.lanes.namespace).collect();
        namespaces.sort_unstable();
        let nodes = self.store.nodes().await?;
        let asked =
            self.store
                .ask_for_hints(spec.namespace.as_ref(), spec.dry_run, Timestamp::now());
        let request = asked.await?;
        engine.make_hints_soon();
        let (answers, silent) = self.hint_answers(&request, &nodes).await?;
        // Done last, because every owner sweeps once more when it notices the wipe.
        if !spec.dry_run {
            for namespace in &namespaces {
                engine.relay.wipe(engine, namespace).await?;
            }
        }
        let mut hints = api::Hints {
            namespaces,
            node: self.node.clone(),
            nodes: Vec::new(),
            silent: silent.iter().map(|node| node.name.clone()).collect(),
            lanes_done: 0,
            lanes,
            hinted: 0,
            behind: 0,
            forgotten: 0,
            dry_run: spec.dry_run,
            took_ms: 0,
        };
        for answer in &answers {
            let node = nodes.iter().find(|node| node.id == answer.node);
            let part = part(node.map_or(&self.node, |node| &node.name), answer);
            hints.lanes_done += part.lanes;
            hints.hinted += part.hinted;
            hints.behind += part.behind;
            hints.forgotten += part.forgotten;
            hints.nodes.push(part);
        }
        hints.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !spec.dry_run {
            let details = json!({"hinted": hints.hinted, "behind": hints.behind,
                "forgotten": hints.forgotten, "silent": hints.silent});
            self.store.finish_note(details).await?;
        }
        Ok(hints)
    }

    /// The answers of the nodes, and the live nodes that have not answered in time.
    async fn hint_answers<'n>(
        &self,
        request: &HintRequest,
        nodes: &'n [NodeRow],
    ) -> Result<(Vec<HintAnswer>, Vec<&'n NodeRow>), Error> {
        let began = Instant::now();
        loop {
            let answers = self.store.hint_answers(request.id).await?;
            let there = self.store.nodes().await?;
            let is_silent = |node: &&NodeRow| {
                there.iter().any(|row| row.id == node.id)
                    && !answers.iter().any(|answer| answer.node == node.id)
            };
            let silent: Vec<_> = nodes.iter().filter(is_silent).collect();
            // On SQLite there is one node, which has no row.
            let is_complete = silent.is_empty() && !(nodes.is_empty() && answers.is_empty());
            if is_complete || began.elapsed() > ANSWER_MAX {
                return Ok((answers, silent));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn part(node: &str, answer: &HintAnswer) -> api::NodeHints {
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    api::NodeHints {
        node: node.to_owned(),
        lanes: number(answer.lanes),
        hinted: number(answer.hinted),
        behind: number(answer.behind),
        forgotten: number(answer.forgotten),
    }
}
