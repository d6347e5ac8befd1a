//! Hints wiped and made again on every node.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Admin, Error};
use crate::api;
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::store::{HintAnswer, HintRequest, NodeRow};

/// How long the nodes are waited for.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How often it is looked what they said.
const LOOK: Duration = Duration::from_millis(20);

impl Admin {
    /// Wipes the hints and makes them again from the database, or only looks what there would be to find: on
    /// every node, each in its own lanes. A node that does not answer in time is named; it does its part
    /// when it goes on.
    ///
    /// # Errors
    /// [`Error::Missing`] namespace; [`Error::Away`] when the hints cannot be reached;
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
        // At last, as every owner sweeps once more when he hears of it.
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

    /// What the nodes said, and those that have said nothing in time and are still there.
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
            // Of a file there is one node, which has no row.
            let is_complete = silent.is_empty() && !(nodes.is_empty() && answers.is_empty());
            if is_complete || began.elapsed() > ANSWER_MAX {
                return Ok((answers, silent));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn part(node: &str, answer: &HintAnswer) -> api::HintsOf {
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    api::HintsOf {
        node: node.to_owned(),
        lanes: number(answer.lanes),
        hinted: number(answer.hinted),
        behind: number(answer.behind),
        forgotten: number(answer.forgotten),
    }
}
