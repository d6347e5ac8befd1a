//! `lanes resize`, `drain`, `pause` and `resume`: show the plan first, then the progress.

use std::time::{Duration, Instant};

use clap::Args;
use http::Method;

use crate::api::{
    Hints, HintsSpec, Lane, LaneState, LanesSpec, LanesStopped, List, Resize, ResizeProgress,
    ResizeSpec, WorstCursor, command,
};
use crate::cli::print::{Progress, Stake};
use crate::cli::reach::{Reach, with_query};
use crate::cli::{Exit, Printer, Trouble};
use crate::domain::lane::LANES_MAX;
use crate::domain::lane::LaneId;
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::text::{self, quoted};

const RESIZE: &str = "/v1/admin/lanes/resize";

/// Interval between looks at the progress.
const LOOK: Duration = Duration::from_millis(100);

/// Change the number of lanes while events keep flowing in order
///
/// Examples:
///   hooklane lanes resize 16
///   hooklane lanes resize 16 --expect 8 --yes
///   hooklane lanes resize 4 --dry-run
///   hooklane lanes resize 4 --drain-first --timeout 5m
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct ResizeLanes {
    /// New number of lanes
    #[arg(value_name = "COUNT", allow_hyphen_values = true)]
    lanes: String,
    /// Namespace of the lanes
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: Name,
    /// Present number of lanes; with another number nothing is done
    #[arg(long, value_name = "COUNT")]
    expect: Option<u16>,
    /// Show what it would mean and stop
    #[arg(long)]
    dry_run: bool,
    /// Let the old lanes finish what waits now before the new ones begin
    #[arg(long)]
    drain_first: bool,
    /// Return when it is done [default]
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Return when it has begun
    #[arg(long)]
    no_wait: bool,
    /// Reason, for the other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl ResizeLanes {
    pub(super) async fn run(
        self,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        let mut spec = ResizeSpec {
            namespace: self.namespace.clone(),
            lanes: self.count()?,
            expect: self.expect,
            generation: None,
            dry_run: true,
            drain_first: self.drain_first,
            reason: self.reason.clone(),
        };
        let running = self.running(spec.lanes, reach).await;
        if let Some(running) = running.filter(|_| !self.dry_run) {
            let (namespace, from, to) = (&self.namespace, running.of, spec.lanes);
            out.say(format_args!(
                "already under way: {namespace} {from} -> {to} lanes"
            ))?;
            let ended = match self.no_wait {
                true => Exit::Done,
                false => self.watch(from, reach, limit, out).await?,
            };
            out.object(&running)?;
            return Ok(ended);
        }
        let plan: Resize = reach.call(Method::POST, RESIZE, Some(&spec)).await?;
        if plan.from == plan.to {
            out.say(format_args!("already {} lanes", plan.to))?;
            out.object(&plan)?;
            return Ok(Exit::Done);
        }
        let here = reach.here().await?;
        let what = format!("{} -> {} lanes", plan.from, plan.to);
        if !self.dry_run {
            out.is_answered(&what, &stake(&plan))?;
        }
        out.say(format_args!(
            "lanes of {}: {} -> {}   {}",
            plan.namespace,
            plan.from,
            plan.to,
            reach.planned(&here)
        ))?;
        let told = plan.told(self.drain_first, Timestamp::now()).into_iter();
        let told: Vec<_> = told
            .map(|(label, text)| (format!("  {label}"), text))
            .collect();
        let told: Vec<_> = told
            .iter()
            .map(|(label, text)| (label.as_str(), text.clone()))
            .collect();
        out.facts(&told)?;
        if self.dry_run {
            out.object(&plan)?;
            return Ok(Exit::Done);
        }
        let question = format!("Resize {} to {} lanes?", plan.namespace, plan.to);
        if !out.confirm(&question, &what, &stake(&plan))? {
            return Ok(Exit::Failed);
        }
        spec.dry_run = false;
        spec.generation = Some(plan.generation);
        let begun: Resize = reach.call(Method::POST, RESIZE, Some(&spec)).await?;
        let ended = match self.no_wait {
            true => Exit::Done,
            false => self.watch(begun.from, reach, limit, out).await?,
        };
        out.object(&begun)?;
        Ok(ended)
    }

    /// The resize to this number of lanes, if it is already under way.
    async fn running(&self, lanes: u16, reach: &Reach) -> Option<ResizeProgress> {
        let path = with_query(RESIZE, &[("namespace", Some(self.namespace.to_string()))]);
        // Errors are reported by the plan, which is requested next.
        let progress: ResizeProgress = reach.get(&path).await.ok()?;
        Some(progress).filter(|now| now.under_way && now.to == Some(lanes))
    }

    /// The requested number of lanes.
    pub(super) fn count(&self) -> Result<u16, Trouble> {
        let count: Option<u16> = self.lanes.parse().ok();
        count
            .filter(|count| (1..=LANES_MAX).contains(count))
            .ok_or_else(|| {
                let message = format!(
                    "lane count is 1 to {LANES_MAX}, got {}",
                    quoted(&self.lanes)
                );
                Trouble::new(Exit::Usage, "lane_count", message)
                    .fact("to stop and keep everything", "hooklane lanes pause --all")
            })
    }

    async fn watch(
        &self,
        from: u16,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        let began = Instant::now();
        let path = with_query(RESIZE, &[("namespace", Some(self.namespace.to_string()))]);
        let back = command::resize(from, &self.namespace);
        let ctrl_c = format!("Ctrl-C stops watching, the resize goes on. Back: {back}");
        let mut bar = Progress::new("resize", ctrl_c).of_things("lanes sealed");
        loop {
            let now: ResizeProgress = reach.get(&path).await?;
            if !now.under_way {
                out.progress_ends(&bar)?;
                let took = text::duration(began.elapsed());
                let found = match self.is_whole(reach).await {
                    true => "every cursor with work is in its new lane (checked)",
                    false => {
                        "not all cursors are found in their lanes yet: hooklane lanes rebuild --dry-run"
                    }
                };
                out.say(format_args!(
                    "resize  done in {took}: {}, generation {}; {found}",
                    text::counted(u64::from(now.lanes), "lane", "lanes"),
                    now.generation
                ))?;
                return Ok(Exit::Done);
            }
            let (sealed, of) = (u64::from(now.sealed), u64::from(now.of));
            out.progress(&mut bar, sealed, of, now.waits_for.as_deref())?;
            if let Some(limit) = limit.filter(|limit| began.elapsed() > *limit) {
                out.progress_ends(&bar)?;
                let limit = text::duration(limit);
                let message = format!(
                    "{} is not resized after {limit}: {sealed} of {of} lanes sealed; it goes on",
                    self.namespace
                );
                let trouble = Trouble::new(Exit::Unfinished, "not_done", message)
                    .fact("why", now.waits_for.unwrap_or_default())
                    .fact("back", back);
                return Err(trouble.into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl ResizeLanes {
    /// True if the nodes, which compare their lanes with the database, run every lane and have hints
    /// for every cursor with work. Events accepted a moment ago may still be on their way.
    async fn is_whole(&self, reach: &Reach) -> bool {
        let spec = HintsSpec {
            namespace: Some(self.namespace.clone()),
            dry_run: true,
            reason: None,
        };
        let began = Instant::now();
        loop {
            let path = "/v1/admin/lanes/rebuild";
            let found: Result<Hints, _> = reach.call(Method::POST, path, Some(&spec)).await;
            match found {
                Ok(found) if !found.silent.is_empty() => return false,
                Ok(found) if found.lanes_done >= found.lanes && found.forgotten == 0 => {
                    return true;
                }
                Ok(_) if began.elapsed() < CHECK_MAX => tokio::time::sleep(LOOK).await,
                Ok(_) | Err(_) => return false,
            }
        }
    }
}

/// Time limit of this check after a resize.
const CHECK_MAX: Duration = Duration::from_secs(3);

/// Share of busy time above which a lane cannot handle a spike.
const TOO_BUSY: f64 = 0.9;

/// Reducing to fewer lanes than the present load needs requires more than a yes.
fn stake(plan: &Resize) -> Stake {
    let is_too_busy = plan.busiest_after.is_some_and(|busy| busy > TOO_BUSY);
    match is_too_busy && plan.to < plan.from {
        true => Stake::Severe(plan.to.to_string()),
        false => Stake::Moderate,
    }
}

/// Selection of lanes
#[derive(Args)]
pub struct LaneSelection {
    /// Lanes, by name or place
    #[arg(
        value_name = "LANE",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    lanes: Vec<String>,
    /// Every lane of the namespace
    #[arg(long)]
    all: bool,
    /// Namespace of the lanes
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: Name,
    /// Reason, for the other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Description of an operation on every lane.
fn of_all(verb: &str) -> String {
    format!("{verb} all lanes")
}

impl LaneSelection {
    async fn call(
        &self,
        verb: &str,
        reach: &Reach,
        out: &mut Printer,
    ) -> anyhow::Result<Option<LanesStopped>> {
        let spec = LanesSpec {
            namespace: self.namespace.clone(),
            lanes: (!self.all).then(|| self.lanes.clone()),
            reason: self.reason.clone(),
        };
        let path = format!("/v1/admin/lanes/{verb}");
        let stopped: LanesStopped = match self.all && verb != "resume" {
            // Without a question there is no time in which the configuration could change.
            false => reach.call(Method::POST, &path, Some(&spec)).await?,
            true => {
                let here = reach.here().await?;
                let (namespace, place) = (&self.namespace, reach.planned(&here));
                let what = of_all(verb);
                out.is_answered(&what, &Stake::Moderate)?;
                out.say(format_args!("{verb} every lane of {namespace}   {place}"))?;
                let question = format!("{verb} every lane of {namespace}?");
                if !out.confirm(&question, &what, &Stake::Moderate)? {
                    return Ok(None);
                }
                let post = Method::POST;
                reach.call_planned(&here, post, &path, Some(&spec)).await?
            }
        };
        if !stopped.waits_for.is_empty() {
            let nodes = stopped.waits_for.join(", ");
            out.say(format_args!(
                "{verb}  NOT MOVING: no answer yet from {nodes}; its lease ends in 15s"
            ))?;
        }
        Ok(Some(stopped))
    }

    fn back(&self) -> String {
        let lanes = match self.all {
            true => "--all".to_owned(),
            false => {
                let lanes = self.lanes.iter().map(quoted);
                lanes.collect::<Vec<_>>().join(" ")
            }
        };
        match self.namespace == Name::default_namespace() {
            true => format!("hooklane lanes resume {lanes}"),
            false => format!(
                "hooklane lanes resume {lanes} --namespace {}",
                self.namespace
            ),
        }
    }

    /// The selected lanes, as they are now.
    async fn look(&self, reach: &Reach) -> anyhow::Result<Vec<Lane>> {
        let namespace = Some(self.namespace.to_string());
        let path = with_query("/v1/admin/lanes", &[("namespace", namespace)]);
        let mut lanes: List<Lane> = reach.get(&path).await?;
        let is_meant = |lane: &Lane| {
            let mut named = self.lanes.iter();
            self.all
                || named
                    .any(|name| *name == lane.id.to_string() || *name == lane.id.index.to_string())
        };
        lanes.items.retain(is_meant);
        Ok(lanes.items)
    }
}

/// Stop the turns of lanes; events are still accepted
///
/// Examples:
///   hooklane lanes pause 3 --reason 'a look at the database'
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Pause {
    #[command(flatten)]
    which: LaneSelection,
}

impl Pause {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let Some(stopped) = self.which.call("pause", reach, out).await? else {
            return Ok(Exit::Failed);
        };
        let is_done = stopped.waits_for.is_empty();
        out.say(format_args!("paused  {}", named(&stopped)))?;
        out.facts(&[("back", self.which.back())])?;
        out.object(&stopped)?;
        Ok(if is_done {
            Exit::Done
        } else {
            Exit::Unfinished
        })
    }
}

/// Let lanes go on, after a pause or a drain
///
/// Examples:
///   hooklane lanes resume --all
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Resume {
    #[command(flatten)]
    which: LaneSelection,
}

impl Resume {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let Some(stopped) = self.which.call("resume", reach, out).await? else {
            return Ok(Exit::Failed);
        };
        out.say(format_args!("resumed  {}", named(&stopped)))?;
        out.object(&stopped)?;
        Ok(Exit::Done)
    }
}

/// Process what waits now, keep what comes later until resume
///
/// Examples:
///   hooklane lanes drain 2 --wait --timeout 5m
///   hooklane lanes drain --all --yes --wait
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Drain {
    #[command(flatten)]
    which: LaneSelection,
    /// Return when it is done
    #[arg(long)]
    wait: bool,
    /// Say how much waits and stop
    #[arg(long)]
    dry_run: bool,
}

impl Drain {
    pub(super) async fn run(
        self,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        let lanes = self.which.look(reach).await?;
        let which = match &lanes[..] {
            [lane] => lane.id.to_string(),
            lanes => text::counted(lanes.len() as u64, "lane", "lanes"),
        };
        if !self.dry_run && self.which.all {
            out.is_answered(&of_all("drain"), &Stake::Moderate)?;
        }
        let sum = |of: fn(&Lane) -> u64| lanes.iter().map(of).sum();
        out.say(format_args!(
            "drain {which}: {} waiting now, of {}; later ones are kept until resume",
            text::count(sum(|lane| lane.backlog)),
            text::counted(sum(|lane| lane.cursors), "cursor", "cursors")
        ))?;
        // Unknown lane names are refused by the daemon.
        if self.dry_run && (self.which.all || lanes.len() == self.which.lanes.len()) {
            out.object(&lanes)?;
            return Ok(Exit::Done);
        }
        let Some(stopped) = self.which.call("drain", reach, out).await? else {
            return Ok(Exit::Failed);
        };
        let ended = match self.wait {
            true => self.watch(&which, &stopped, reach, limit, out).await?,
            false => {
                out.facts(&[("back", self.which.back())])?;
                Exit::Done
            }
        };
        out.object(&stopped)?;
        Ok(ended)
    }

    async fn watch(
        &self,
        which: &str,
        stopped: &LanesStopped,
        reach: &Reach,
        limit: Option<Duration>,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        let began = Instant::now();
        let back = self.which.back();
        let ctrl_c = format!("Ctrl-C stops watching, the drain goes on. Back: {back}");
        let mut bar = Progress::new("drain", ctrl_c).in_lines(format!("drain {which}:"));
        let mut most = 0;
        loop {
            let mut lanes = self.which.look(reach).await?;
            lanes.retain(|lane| stopped.lanes.contains(&lane.id));
            let drained = |lane: &&Lane| lane.state == LaneState::Drained;
            let still: Vec<_> = lanes.iter().filter(|lane| !drained(lane)).collect();
            if still.is_empty() {
                out.progress_ends(&bar)?;
                let took = text::duration(began.elapsed());
                let kept = text::count(lanes.iter().map(|lane| lane.backlog).sum());
                out.say(format_args!(
                    "drain {which}: drained in {took}, 0 left, {kept} kept. Go on: {back}"
                ))?;
                return Ok(Exit::Done);
            }
            let left: u64 = still.iter().filter_map(|lane| lane.left).sum();
            most = most.max(left);
            let why = stands(&still, left, Timestamp::now());
            let backlog: u64 = lanes.iter().map(|lane| lane.backlog).sum();
            // Held events are not drained either, and they are not new.
            let is_later = lanes.iter().all(|lane| lane.held == 0);
            bar.later = is_later.then(|| backlog.saturating_sub(left));
            out.progress(&mut bar, most - left, most, Some(&why))?;
            if let Some(limit) = limit.filter(|limit| began.elapsed() > *limit) {
                out.progress_ends(&bar)?;
                return Err(self.not_drained(&still, left, most - left, limit).into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn not_drained(&self, still: &[&Lane], left: u64, done: u64, limit: Duration) -> Trouble {
        let lanes = match still {
            [lane] => format!("{} is", lane.id),
            lanes => format!("{} lanes are", lanes.len()),
        };
        let worst = waiting(still).map(|(worst, _)| worst);
        let of_one = match worst.is_some() && has_one_waiting(still) {
            true => ", all of one cursor that is set aside",
            false => "",
        };
        let message = format!(
            "{lanes} not drained after {}: {} done, {} left{of_one}",
            text::duration(limit),
            text::count(done),
            text::count(left)
        );
        let mut trouble = Trouble::new(Exit::Unfinished, "not_drained", message)
            .fact("why", stands(still, left, Timestamp::now()));
        let gathers = still.iter().find_map(|lane| lane.gathers.as_ref());
        let stream = worst.map(|worst| &worst.stream);
        if let Some(stream) = stream.or(gathers.map(|gathers| &gathers.stream)) {
            trouble = trouble.fact("look", format!("hooklane why {}", quoted(stream)));
        }
        if let Some(WorstCursor {
            stream, handler, ..
        }) = worst
        {
            let hold = format!(
                "hooklane streams hold {} --handler {handler}   # a drain does not wait for held cursors",
                quoted(stream)
            );
            trouble = trouble.fact("or", hold);
        }
        trouble.fact("undo", self.which.back())
    }
}

/// The lanes that an operation was about.
fn named(stopped: &LanesStopped) -> String {
    let names: Vec<_> = stopped.lanes.iter().map(LaneId::to_string).collect();
    names.join(" ")
}

/// The first known obstacle to the end of a drain.
fn stands(lanes: &[&Lane], left: u64, now: Timestamp) -> String {
    if let Some(lane) = lanes.iter().find(|lane| lane.state == LaneState::NoOwner) {
        return format!("{} has no node", lane.id);
    }
    if let Some((worst, retry_at)) = waiting(lanes) {
        let tries = match worst.tries {
            0 | 1 => String::new(),
            tries => format!(" x{tries}"),
        };
        return format!(
            "{} {} -> {}, {}{tries}, next try in {}",
            whose(left, has_one_waiting(lanes)),
            worst.stream,
            worst.handler,
            worst.result,
            text::duration(retry_at.since(now))
        );
    }
    let gathers = lanes.iter().filter_map(|lane| lane.gathers.as_ref());
    let cursors: u64 = gathers.clone().map(|gathers| gathers.cursors).sum();
    if let Some(last) = gathers.max_by_key(|gathers| gathers.until) {
        let flowing: u64 = lanes.iter().map(|lane| lane.cursors).sum();
        return format!(
            "{} {} -> {}, which gathers events (debounce) and goes on in {}",
            whose(left, cursors == 1 && flowing == 1),
            last.stream,
            last.handler,
            text::duration(last.until.since(now))
        );
    }
    format!("{} left", text::count(left))
}

/// Beginning of a sentence: `all 3 left are of`, or `9 left, some are of`.
fn whose(left: u64, is_alone: bool) -> String {
    match is_alone {
        true if left == 1 => "the 1 left is of".to_owned(),
        true => format!("all {} left are of", text::count(left)),
        false => format!("{} left, some of", text::count(left)),
    }
}

/// The worst cursor of the lanes, if it waits for a retry. A drain does not wait for held cursors.
fn waiting<'l>(lanes: &[&'l Lane]) -> Option<(&'l WorstCursor, Timestamp)> {
    let mut worst = lanes.iter().filter_map(|lane| lane.worst.as_ref());
    worst.find_map(|worst| Some((worst, worst.retry_at?)))
}

/// True if all remaining events belong to one waiting cursor.
fn has_one_waiting(lanes: &[&Lane]) -> bool {
    matches!(lanes, [lane] if lane.set_aside == 1 && lane.backlog_flowing == 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_of_a_drain_is_named_with_when_it_goes_on() {
        let now = Timestamp::from_millis(1_000_000);
        let at = |seconds| now.after(Duration::from_secs(seconds));
        let lane = |worst: serde_json::Value, gathers: serde_json::Value, aside: u64| -> Lane {
            let lane = serde_json::json!({
                "lane": "default-1-0", "index": 0, "state": "draining", "set_aside": aside,
                "waiting": aside, "held": 0, "oldest_ms": 1, "flow_ms": 1, "backlog": 3,
                "backlog_flowing": 3 * (1 - aside), "in_per_s": 0.0, "out_per_s": 0.0, "eta": null,
                "eta_ms": null, "wait_ms": null, "work_ms": null, "node": "a", "cursors": 1,
                "worst": worst, "gathers": gathers});
            serde_json::from_value(lane).unwrap()
        };
        let none = || serde_json::Value::Null;
        let retry = serde_json::json!({
            "stream": "billing/acme", "handler": "crm", "condition": "waiting", "result": "503",
            "tries": 14, "events": 3, "since": null, "retry_at": at(31), "next": null});
        let gathers = serde_json::json!({
            "cursors": 1, "stream": "orders/a", "handler": "reduce", "until": at(1740)});
        let said = |lanes: &[&Lane]| stands(lanes, 3, now);
        let waits = lane(retry, none(), 1);
        assert_eq!(
            said(&[&waits]),
            "all 3 left are of billing/acme -> crm, 503 x14, next try in 31s"
        );
        let gathering = lane(none(), gathers, 0);
        assert_eq!(
            said(&[&gathering]),
            "all 3 left are of orders/a -> reduce, which gathers events (debounce) and goes on in 29m00"
        );
        let moving = lane(none(), none(), 0);
        assert!(said(&[&gathering, &moving]).starts_with("3 left, some of orders/a"));
        assert_eq!(said(&[&moving]), "3 left");
    }

    #[test]
    fn lanes_too_few_for_what_comes_are_typed_out() {
        let stake = |from: u16, to: u16, busiest_after: f64| {
            let plan = serde_json::json!({
                "namespace": "default", "from": from, "to": to, "generation": 1,
                "next_generation": null, "streams": 9, "moves": 9, "set_aside": 0,
                "busiest": 0.5, "busiest_after": busiest_after, "backlog": 0,
                "fullest_lane": 0, "fullest_lane_after": 0, "fullest_stream": 0,
                "in_the_way": []});
            super::stake(&serde_json::from_value(plan).unwrap())
        };
        assert_eq!(stake(8, 4, 0.95), Stake::Severe("4".to_owned()));
        assert_eq!(stake(8, 4, 0.8), Stake::Moderate);
        assert_eq!(
            stake(4, 8, 0.95),
            Stake::Moderate,
            "more of them make it better"
        );
    }
}
