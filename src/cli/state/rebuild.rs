//! `state rebuild`: rebuilds states, and shows progress and differences.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use clap::Args;
use http::Method;

use super::super::print::{Progress, Stake};
use super::super::reach::{Reach, with_query};
use super::super::{Exit, Printer, Trouble, flags};
use crate::api::{FoldedState, Hook, List, PlanContext, Rebuild, RebuildSpec};
use crate::client;
use crate::domain::hook::OrderBy;
use crate::domain::name::StreamName;
use crate::text::{count, counted, duration, printable_line};

const REBUILDS: &str = "/v1/admin/rebuilds";

const ALL: &str = "/v1/admin/rebuilds/all";

/// Number of rebuilds read before and after one to find those requested together.
const TOGETHER_MAX: i64 = 10_000;

/// Interval between looks at the progress, at first and at most.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK: Duration = Duration::from_millis(100);

/// Compute states again from the first event, with today's reducer
///
/// The live states stay readable and go on meanwhile. A stream switches to its new state when that has caught up.
/// If retention (hooks edit --keep) has removed events, the rebuild begins at a checkpoint. If an older reducer
/// made that checkpoint, the rebuild is refused unless --from-checkpoints is given.
///
/// Examples:
///   hooklane state rebuild orders
///   hooklane state rebuild orders/c07
///   hooklane state rebuild orders --check --timeout 5m
///   hooklane state rebuild orders/c07 --to-seq 912
///   hooklane state rebuild orders --from-checkpoints
///   hooklane state rebuild --all --yes --confirm all
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct RebuildStates {
    /// The hook, or a stream of one that has an ordering key: HOOK or HOOK/KEY
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    #[arg(value_parser = flags::stream)]
    stream: Option<StreamName>,
    /// Every hook, side by side
    #[arg(long)]
    all: bool,
    /// Only compare, and say which streams would get another state
    #[arg(long)]
    check: bool,
    /// Say how much it is and stop
    #[arg(long)]
    dry_run: bool,
    /// Print the state as it was at this event, by today's reducer; changes nothing
    #[arg(long, value_name = "SEQ", conflicts_with_all = ["all", "check", "dry_run"])]
    to_seq: Option<i64>,
    /// Begin at checkpoints that an older reducer made, too
    #[arg(long)]
    from_checkpoints: bool,
    /// Return when it has begun
    #[arg(long)]
    no_wait: bool,
}

impl RebuildStates {
    pub(super) async fn run(
        mut self,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        if let Some(stream) = self.stream.take() {
            self.stream = Some(reach.meant(stream).await?);
        }
        if let (Some(stream), Some(to)) = (&self.stream, self.to_seq) {
            if stream.key.as_str().is_empty() {
                is_one_stream(stream, reach).await?;
            }
            return show(stream, to, self.from_checkpoints, reach, out).await;
        }
        let here = reach.here().await?;
        let mut spec = self.spec();
        if !self.dry_run {
            let running = running(&spec, reach).await?;
            if !running.is_empty() {
                out.say(format_args!("already under way: {}", self.whose()))?;
                return self.finish(running, reach, limit, out).await;
            }
        }
        spec.dry_run = true;
        let plans = self.call(&spec, None, reach).await?;
        let asks = !self.dry_run && !self.check;
        let (what, stake) = self.stake(&plans);
        if asks {
            out.is_answered(&what, &stake)?;
        }
        self.explain(&plans, &reach.planned(&here), out)?;
        if self.dry_run {
            out.object(&plans)?;
            return Ok(Exit::Done);
        }
        let question = format!("Rebuild the state of {}?", self.whose());
        if asks && !out.confirm(&question, &what, &stake)? {
            return Ok(Exit::Failed);
        }
        spec.dry_run = false;
        let begun = self.call(&spec, Some(&here), reach).await?;
        self.finish(begun, reach, limit, out).await
    }

    /// Follows rebuilds to their end, unless --no-wait is given, and prints their results.
    async fn finish(
        &self,
        begun: Vec<Rebuild>,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        let ended = match self.no_wait {
            true => begun,
            false => watch(begun, &self.of(), reach, limit, out).await?,
        };
        out.object(&ended)?;
        let running: Vec<_> = ended.iter().filter(|now| now.state == "running").collect();
        if let (Some(first), Some(limit), false) = (running.first(), limit, self.no_wait) {
            return Err(not_done(first, running.len() - 1, limit).into());
        }
        match ended.iter().find_map(failure) {
            Some(failure) => Err(Trouble::new(Exit::Failed, "not_rebuilt", failure).into()),
            None if ended.iter().any(|rebuild| rebuild.failed > 0) => Ok(Exit::Unfinished),
            None => Ok(Exit::Done),
        }
    }

    fn spec(&self) -> RebuildSpec {
        let is_whole = |stream: &&StreamName| stream.key.as_str().is_empty();
        let hook = self.stream.as_ref().filter(is_whole);
        RebuildSpec {
            hook: hook.map(|stream| stream.hook.clone()),
            stream: self.stream.clone().filter(|stream| !is_whole(&stream)),
            check: self.check,
            dry_run: false,
            from_checkpoints: self.from_checkpoints,
        }
    }

    /// Requests one rebuild, or those of all hooks at once. With `here`, it is refused if the
    /// configuration has changed since the plan.
    async fn call(
        &self,
        spec: &RebuildSpec,
        here: Option<&PlanContext>,
        reach: &Reach,
    ) -> Result<Vec<Rebuild>, client::Error> {
        let post = Method::POST;
        if self.stream.is_none() {
            let all: List<Rebuild> = match here {
                Some(here) => reach.call_planned(here, post, ALL, Some(spec)).await?,
                None => reach.call(post, ALL, Some(spec)).await?,
            };
            return Ok(all.items);
        }
        let one: Rebuild = match here {
            Some(here) => reach.call_planned(here, post, REBUILDS, Some(spec)).await?,
            None => reach.call(post, REBUILDS, Some(spec)).await?,
        };
        Ok(vec![one])
    }

    /// The object of the rebuild in a few words.
    fn of(&self) -> String {
        match &self.stream {
            Some(stream) => stream.hook.to_string(),
            None => "every hook".to_owned(),
        }
    }

    fn explain(&self, plans: &[Rebuild], place: &str, out: &mut Printer) -> anyhow::Result<()> {
        let streams: u64 = plans.iter().map(|plan| plan.streams).sum();
        let events: u64 = plans.iter().map(|plan| plan.events).sum();
        let verb = if self.check { "check" } else { "rebuild" };
        out.say(format_args!(
            "{verb} the state of {}: fold its events again from seq 1   {place}",
            self.whose()
        ))?;
        let amount = format!(
            "{}, {}{}",
            counted(streams, "stream", "streams"),
            counted(events, "event", "events"),
            about(plans, events).unwrap_or_default()
        );
        let meanwhile = "events are accepted, the live state stays readable and goes on folding";
        let how = match self.check {
            true => "computes beside the live state and compares; nothing is changed",
            false => {
                "computes beside the live state; a stream switches when its new state has caught up"
            }
        };
        let mut facts = vec![("  amount", amount)];
        facts.extend(begins(plans).map(|begins| ("  begins", begins)));
        facts.push(("  meanwhile", meanwhile.to_owned()));
        facts.push(("  how", how.to_owned()));
        out.facts(&facts)?;
        Ok(())
    }

    fn whose(&self) -> String {
        match &self.stream {
            None => "every hook".to_owned(),
            Some(stream) if stream.key.as_str().is_empty() => format!("hook {}", stream.hook),
            Some(stream) => format!("stream {stream}"),
        }
    }

    /// Description of the consequences, and the severity of the question.
    fn stake(&self, plans: &[Rebuild]) -> (String, Stake) {
        let events: u64 = plans.iter().map(|plan| plan.events).sum();
        let streams: u64 = plans.iter().map(|plan| plan.streams).sum();
        let what = format!(
            "{}, {}",
            counted(streams, "stream", "streams"),
            counted(events, "event", "events")
        );
        let stake = match &self.stream {
            None => Stake::Severe("all".to_owned()),
            Some(stream) if stream.key.as_str().is_empty() => {
                Stake::Severe(stream.hook.to_string())
            }
            Some(_) => Stake::Moderate,
        };
        (what, stake)
    }
}

/// The same rebuild, if it is already under way. For all hooks: the rebuilds requested together, including
/// finished ones.
async fn running(spec: &RebuildSpec, reach: &Reach) -> anyhow::Result<Vec<Rebuild>> {
    let all: List<Rebuild> = reach.get(REBUILDS).await?;
    let hook = spec.stream.as_ref().map(|stream| &stream.hook);
    let hook = hook.or(spec.hook.as_ref());
    let is_same = |rebuild: &Rebuild| {
        let is_meant = hook.is_none_or(|hook| rebuild.hook == *hook);
        is_meant && rebuild.stream == spec.stream && rebuild.check == spec.check
    };
    let Some(found) = all.items.into_iter().rfind(is_same) else {
        return Ok(Vec::new());
    };
    let Some(id) = found.id.filter(|_| hook.is_none()) else {
        return Ok(vec![found]);
    };
    let near = [
        ("first", Some((id - TOGETHER_MAX).to_string())),
        ("last", Some((id + TOGETHER_MAX).to_string())),
    ];
    let near: List<Rebuild> = reach.get(&with_query(REBUILDS, &near)).await?;
    let mut together = near.items;
    together.retain(|near| is_same(near) && near.asked_at == found.asked_at);
    // A single rebuild is not the requested set; the daemon reports the conflict.
    match together.len() {
        0 | 1 => Ok(Vec::new()),
        _ => Ok(together),
    }
}

/// Estimated duration from the previous rebuilds; `None` if one of the hooks has had none.
fn about(plans: &[Rebuild], events: u64) -> Option<String> {
    let seconds = |plan: &Rebuild| Some(plan.events as f64 / plan.per_s_before? as f64);
    let seconds: f64 = plans.iter().map(seconds).sum::<Option<f64>>()?;
    let takes = Duration::try_from_secs_f64(seconds).ok()?;
    let per_s = (events as f64 / seconds.max(f64::EPSILON)).round() as u64;
    (events > 0).then(|| format!(", about {} at {}/s", duration(takes), count(per_s)))
}

/// Describes folds that do not begin at the first event.
fn begins(plans: &[Rebuild]) -> Option<String> {
    let checkpoints: u64 = plans.iter().map(|plan| plan.checkpoints).sum();
    let older: u64 = plans.iter().map(|plan| plan.older).sum();
    let what = counted(checkpoints, "stream", "streams");
    let what = format!("{what} at a checkpoint: retention has removed what was before it");
    match (checkpoints, older) {
        (0, _) => None,
        (_, 0) => Some(what),
        (_, older) => Some(format!("{what}; older code had a part in {}", count(older))),
    }
}

/// The state after an event, folded by the present reducer.
pub(super) async fn fold(
    stream: &StreamName,
    to: i64,
    from_checkpoints: bool,
    reach: &Reach,
) -> Result<FoldedState, client::Error> {
    let query = [
        ("stream", Some(stream.to_string())),
        ("to_seq", Some(to.to_string())),
        (
            "from_checkpoints",
            from_checkpoints.then(|| "true".to_owned()),
        ),
    ];
    reach
        .get(&with_query("/v1/admin/rebuilds/fold", &query))
        .await
}

/// Refuses a hook with several streams, because a seq belongs to one of them.
async fn is_one_stream(hook: &StreamName, reach: &Reach) -> anyhow::Result<()> {
    let path = format!("/v1/admin/hooks/{}", hook.hook);
    let found: Hook = reach.get(&path).await?;
    if found.spec.order_by == OrderBy::Nothing {
        return Ok(());
    }
    let message = format!(
        "--to-seq needs one stream: hook {hook} orders by {}",
        found.spec.order_by
    );
    Err(Trouble::usage(message)
        .fact("give", format!("{hook}/KEY"))
        .fact("all", format!("hooklane streams list --hook {hook}"))
        .into())
}

async fn show(
    stream: &StreamName,
    to: i64,
    from_checkpoints: bool,
    reach: &Reach,
    out: &mut Printer,
) -> anyhow::Result<Exit> {
    let folded = fold(stream, to, from_checkpoints, reach).await?;
    if !out.object(&folded)? {
        let state = folded.state.as_deref();
        out.line(state.map_or("null", |state| state.get()))?;
    }
    out.flush()?;
    out.say(format_args!(
        "at seq {}, folded by today's reducer; nothing was changed",
        folded.position
    ))?;
    Ok(Exit::Done)
}

/// Waits until all rebuilds have ended, for at most `limit`. Unfinished ones go on in the daemon.
async fn watch(
    begun: Vec<Rebuild>,
    of: &str,
    reach: &Reach,
    limit: Option<Duration>,
    out: &mut Printer,
) -> anyhow::Result<Vec<Rebuild>> {
    let ids: HashSet<i64> = begun.iter().filter_map(|rebuild| rebuild.id).collect();
    let (Some(first), Some(last)) = (ids.iter().min(), ids.iter().max()) else {
        return Ok(begun);
    };
    let events: u64 = begun.iter().map(|rebuild| rebuild.events).sum();
    let began = Instant::now();
    let goes_on = "Ctrl-C stops watching, the rebuild goes on; hooklane top shows the load";
    let mut bar = Progress::new("fold", goes_on);
    let mut look = LOOK_FIRST;
    let is_late = loop {
        let running: List<Rebuild> = reach.get(REBUILDS).await?;
        let ours = running
            .items
            .iter()
            .filter(|now| now.id.is_some_and(|id| ids.contains(&id)));
        let left = |now: &Rebuild| now.events.saturating_sub(now.events_done);
        let left: Vec<u64> = ours.map(left).collect();
        if left.is_empty() {
            break false;
        }
        let done = events.saturating_sub(left.iter().sum());
        out.progress(&mut bar, done, events, None)?;
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            break true;
        }
        tokio::time::sleep(look).await;
        look = (look * 2).min(LOOK);
    };
    out.progress_ends(&bar)?;
    let between = [
        ("first", Some(first.to_string())),
        ("last", Some(last.to_string())),
    ];
    let now: List<Rebuild> = reach.get(&with_query(REBUILDS, &between)).await?;
    let mut now = now.items;
    now.retain(|now| now.id.is_some_and(|id| ids.contains(&id)));
    if let (false, Some(sum)) = (is_late, sum(&now)) {
        tell(&sum, of, began.elapsed(), out)?;
    }
    Ok(now)
}

/// The sum of several rebuilds.
fn sum(rebuilds: &[Rebuild]) -> Option<Rebuild> {
    let (first, rest) = rebuilds.split_first()?;
    let mut sum = first.clone();
    for rebuild in rest {
        sum.streams += rebuild.streams;
        sum.streams_done += rebuild.streams_done;
        sum.events += rebuild.events;
        sum.events_done += rebuild.events_done;
        sum.differ += rebuild.differ;
        sum.failed += rebuild.failed;
        sum.samples.extend(rebuild.samples.iter().cloned());
        sum.error = sum.error.or_else(|| rebuild.error.clone());
    }
    Some(sum)
}

/// Reason why a rebuild failed as a whole.
fn failure(rebuild: &Rebuild) -> Option<String> {
    let error = rebuild.error.as_ref()?;
    Some(format!("hook {}: {error}", rebuild.hook))
}

/// The error when the time limit has passed; `others` is the number of other unfinished rebuilds.
fn not_done(now: &Rebuild, others: usize, limit: Duration) -> Trouble {
    let what = match &now.stream {
        Some(stream) => stream.to_string(),
        None => now.hook.to_string(),
    };
    let verb = if now.check { "checked" } else { "rebuilt" };
    let message = format!(
        "{what} is not {verb} after {}: {} of {} folded",
        duration(limit),
        count(now.events_done),
        counted(now.events, "event", "events")
    );
    let goes_on = format!("by itself; until it has ended {} takes no other", now.hook);
    let trouble = Trouble::new(Exit::Unfinished, "not_done", message).fact("goes on", goes_on);
    match others {
        0 => trouble,
        others => trouble.fact("too", counted(others as u64, "other hook", "other hooks")),
    }
}

fn tell(rebuild: &Rebuild, of: &str, took: Duration, out: &mut Printer) -> std::io::Result<()> {
    let rate = rebuild.events_done as f64 / took.as_secs_f64().max(0.001);
    out.say(format_args!(
        "fold    {} of {} in {}, {}/s",
        counted(rebuild.events_done, "event", "events"),
        of,
        duration(took),
        count(rate as u64)
    ))?;
    let done = rebuild.streams_done;
    let same = done.saturating_sub(rebuild.differ + rebuild.failed);
    let failed = match rebuild.failed {
        0 => String::new(),
        failed => format!(", {} failed", count(failed)),
    };
    let first = rebuild.samples.first();
    let first = first.map(|first| format!(": {}", printable_line(first)));
    let more = match (rebuild.differ + rebuild.failed).saturating_sub(1) {
        0 => String::new(),
        more => format!(" ({} more: --output json)", count(more)),
    };
    out.say(format_args!(
        "compare {}: {} same, {} differ{failed}{}{more}",
        counted(done, "stream", "streams"),
        count(same),
        count(rebuild.differ),
        first.unwrap_or_default()
    ))?;
    match (rebuild.check, rebuild.error.is_none()) {
        (true, true) => out.say(format_args!("nothing was changed")),
        (false, true) => out.say(format_args!(
            "switch  {} of {}, done in {}",
            count(done),
            count(rebuild.streams),
            duration(took)
        )),
        (_, false) => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn how_long_it_takes_is_told_by_the_last_ones_of_all_hooks_or_not_at_all() {
        let plan = |events: u64, per_s_before: Option<u64>| -> Rebuild {
            let plan = serde_json::json!({
                "id": null, "hook": "orders", "stream": null, "check": false, "state": "planned",
                "streams": 802, "streams_done": 0, "events": events, "events_done": 0,
                "per_s_before": per_s_before, "differ": 0, "failed": 0, "samples": [],
                "error": null});
            serde_json::from_value(plan).unwrap()
        };
        let orders = plan(4_199_711, Some(24_500));
        let about = |plans: &[Rebuild]| about(plans, plans.iter().map(|plan| plan.events).sum());
        let told = about(std::slice::from_ref(&orders));
        assert_eq!(told.as_deref(), Some(", about 2m51 at 24,500/s"));
        let slow = plan(1_000, Some(10));
        let both = about(&[orders.clone(), slow]);
        assert_eq!(both.as_deref(), Some(", about 4m31 at 15,477/s"));
        assert_eq!(about(&[orders, plan(1, None)]), None);
    }
}
