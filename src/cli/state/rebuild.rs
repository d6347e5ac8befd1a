//! `state rebuild`: folds events again, and shows how far it has come and what it changed.

use std::time::{Duration, Instant};

use clap::Args;
use http::Method;

use super::super::print::{Progress, Stake};
use super::super::reach::{Reach, with_query};
use super::super::{Exit, Printer, Trouble};
use crate::api::{FoldedTo, Hook, List, Rebuild, RebuildSpec};
use crate::client;
use crate::domain::name::StreamName;
use crate::text::{count, counted, duration, printable_line};

const REBUILDS: &str = "/v1/admin/rebuilds";

/// How often it is looked how far it has come.
const LOOK: Duration = Duration::from_millis(100);

/// Fold the events of a hook or a stream again, from the first, with today's reducer
///
/// Folds beside the live states, which stay readable and go on; a stream switches in the commit in which
/// the new fold has reached it. Nothing is sent, no event is written. Where retention (hooks edit --keep) has
/// removed events, the fold begins at the checkpoint that stands in their place; if older code had a part in
/// it, that must be asked for by name.
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
pub struct Again {
    /// The hook, or a stream of one that has an ordering key: HOOK or HOOK/KEY
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    stream: Option<StreamName>,
    /// Every hook, one after the other
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
    /// Begin at checkpoints even where older code had a part in them: what it made of the events that are
    /// gone stays
    #[arg(long)]
    from_checkpoints: bool,
    /// Return when it has begun
    #[arg(long)]
    no_wait: bool,
}

impl Again {
    pub(super) async fn run(
        self,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        if let (Some(stream), Some(to)) = (&self.stream, self.to_seq) {
            return show(stream, to, self.from_checkpoints, reach, out).await;
        }
        let here = reach.here().await?;
        let specs = self.specs(reach).await?;
        if let (false, [spec]) = (self.dry_run, &specs[..])
            && let Some(running) = running(spec, reach).await?
        {
            return self.attach(running, reach, limit, out).await;
        }
        let mut plans = Vec::new();
        for spec in &specs {
            let spec = RebuildSpec {
                dry_run: true,
                ..spec.clone()
            };
            let plan: Rebuild = reach.call(Method::POST, REBUILDS, Some(&spec)).await?;
            plans.push(plan);
        }
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
        let began = Instant::now();
        let mut ended = Vec::new();
        for (place, spec) in specs.iter().enumerate() {
            let begun: Rebuild = reach
                .call_planned(&here, Method::POST, REBUILDS, Some(spec))
                .await?;
            if self.no_wait {
                ended.push(begun);
                continue;
            }
            let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
            let now = watch(begun, reach, left, out).await?;
            let is_running = now.state == "running";
            ended.push(now);
            if let (true, Some(limit)) = (is_running, limit) {
                out.object(&ended)?;
                return Err(not_done(&ended[place], limit, &specs[place + 1..]).into());
            }
        }
        out.object(&ended)?;
        match ended.iter().find_map(|rebuild| rebuild.error.as_ref()) {
            Some(error) => Err(Trouble::new(Exit::Failed, "not_rebuilt", error.clone()).into()),
            None if ended.iter().any(|rebuild| rebuild.failed > 0) => Ok(Exit::Unfinished),
            None => Ok(Exit::Done),
        }
    }

    /// Shows how far a rebuild has come that somebody has begun before.
    async fn attach(
        &self,
        running: Rebuild,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        out.say(format_args!("already under way: {}", self.whose()))?;
        let mut now = running;
        if !self.no_wait {
            now = watch(now, reach, limit, out).await?;
        }
        out.object(&[&now])?;
        match (&now.error, now.state == "running", limit) {
            (Some(error), ..) => {
                Err(Trouble::new(Exit::Failed, "not_rebuilt", error.clone()).into())
            }
            (None, true, Some(limit)) if !self.no_wait => Err(not_done(&now, limit, &[]).into()),
            _ if now.failed > 0 => Ok(Exit::Unfinished),
            _ => Ok(Exit::Done),
        }
    }

    /// A request for each hook.
    async fn specs(&self, reach: &Reach) -> anyhow::Result<Vec<RebuildSpec>> {
        let spec = |hook, stream| RebuildSpec {
            hook,
            stream,
            check: self.check,
            dry_run: false,
            from_checkpoints: self.from_checkpoints,
        };
        Ok(match &self.stream {
            Some(stream) if stream.key.as_str().is_empty() => {
                vec![spec(Some(stream.hook.clone()), None)]
            }
            Some(stream) => vec![spec(None, Some(stream.clone()))],
            None => {
                let hooks: List<Hook> = reach.get("/v1/admin/hooks").await?;
                let hooks = hooks.items.into_iter();
                hooks.map(|hook| spec(Some(hook.spec.name), None)).collect()
            }
        })
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
            true => "folds beside the live state and compares; nothing is changed",
            false => {
                "folds beside the live state; a stream switches in the commit in which the new fold reaches it"
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

    /// What is at stake, in words, and how much it takes to agree.
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

/// The same rebuild as is asked for, if it is under way already.
async fn running(spec: &RebuildSpec, reach: &Reach) -> anyhow::Result<Option<Rebuild>> {
    let all: List<Rebuild> = reach.get(REBUILDS).await?;
    let hook = spec.stream.as_ref().map(|stream| &stream.hook);
    let hook = hook.or(spec.hook.as_ref());
    let is_same = |rebuild: &Rebuild| {
        let subject = (Some(&rebuild.hook), &rebuild.stream);
        subject == (hook, &spec.stream) && rebuild.check == spec.check
    };
    Ok(all.items.into_iter().find(is_same))
}

/// How long it will take, by what the last ones took; none where one of the hooks has had none.
fn about(plans: &[Rebuild], events: u64) -> Option<String> {
    let seconds = |plan: &Rebuild| Some(plan.events as f64 / plan.per_s_before? as f64);
    let seconds: f64 = plans.iter().map(seconds).sum::<Option<f64>>()?;
    let takes = Duration::try_from_secs_f64(seconds).ok()?;
    let per_s = (events as f64 / seconds.max(f64::EPSILON)).round() as u64;
    (events > 0).then(|| format!(", about {} at {}/s", duration(takes), count(per_s)))
}

/// Where folds do not begin at the first event.
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

/// A state as today's reducer folds it, up to and with an event.
pub(super) async fn fold(
    stream: &StreamName,
    to: i64,
    from_checkpoints: bool,
    reach: &Reach,
) -> Result<FoldedTo, client::Error> {
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

/// Looks until it has ended, for `limit` at most: what is still running then goes on without us.
async fn watch(
    begun: Rebuild,
    reach: &Reach,
    limit: Option<Duration>,
    out: &mut Printer,
) -> anyhow::Result<Rebuild> {
    let Some(id) = begun.id else {
        return Ok(begun);
    };
    let path = format!("{REBUILDS}/{id}");
    let began = Instant::now();
    let mut bar = Progress::new("fold", "Ctrl-C stops watching, the rebuild goes on");
    let mut now = begun;
    while now.state == "running" {
        out.progress(&mut bar, now.events_done, now.events, None)?;
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            out.progress_ends(&bar)?;
            return Ok(now);
        }
        tokio::time::sleep(LOOK).await;
        now = reach.get(&path).await?;
    }
    out.progress_ends(&bar)?;
    tell(&now, began.elapsed(), out)?;
    Ok(now)
}

/// That the time was over before it was done; `unbegun` are those whose turn had not come.
fn not_done(now: &Rebuild, limit: Duration, unbegun: &[RebuildSpec]) -> Trouble {
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
    let unbegun: Vec<_> = (unbegun.iter())
        .filter_map(|spec| spec.hook.as_ref().map(ToString::to_string))
        .collect();
    match unbegun.is_empty() {
        true => trouble,
        false => trouble.fact("not begun", unbegun.join(", ")),
    }
}

fn tell(rebuild: &Rebuild, took: Duration, out: &mut Printer) -> std::io::Result<()> {
    let rate = rebuild.events_done as f64 / took.as_secs_f64().max(0.001);
    out.say(format_args!(
        "fold    {} of {} in {}, {}/s",
        counted(rebuild.events_done, "event", "events"),
        rebuild.hook,
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
