//! `lanes resize`, `drain`, `pause`, `resume`: what they mean first, then how far they have come.

use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use http::Method;

use crate::api::{Lane, LaneState, LanesSpec, List, Resize, ResizeProgress, ResizeSpec, Stopped};
use crate::cli::print::Stake;
use crate::cli::reach::{Reach, with_query};
use crate::cli::{Exit, Printer, Trouble};
use crate::domain::lane::LANES_MAX;
use crate::domain::name::Name;
use crate::domain::time::parse_duration;
use crate::text;

const RESIZE: &str = "/v1/admin/lanes/resize";

/// How often it is looked how far it has come.
const LOOK: Duration = Duration::from_millis(100);

/// After how long without progress it is said why.
const STILL: Duration = Duration::from_secs(2);

/// Change the number of lanes while events keep flowing in order
///
/// Examples:
///   hooklane lanes resize 16
///   hooklane lanes resize 16 --expect 8 --yes
///   hooklane lanes resize 4 --dry-run
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Grow {
    /// New number of lanes
    #[arg(value_name = "COUNT", value_parser = value_parser!(u16).range(1..=i64::from(LANES_MAX)))]
    lanes: u16,
    /// Which namespace
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: Name,
    /// How many lanes there must be now, or nothing is done
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
    /// How long to wait for it, such as 5m [default: for ever]
    #[arg(long = "within", value_name = "DURATION", value_parser = parse_duration)]
    within: Option<Duration>,
    /// Why, for the others
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Grow {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let mut spec = ResizeSpec {
            namespace: self.namespace.clone(),
            lanes: self.lanes,
            expect: self.expect,
            generation: None,
            dry_run: true,
            drain_first: self.drain_first,
            reason: self.reason.clone(),
        };
        let plan: Resize = reach.call(Method::POST, RESIZE, Some(&spec)).await?;
        if plan.from == plan.to {
            out.say(format_args!("already {} lanes", plan.to))?;
            out.object(&plan)?;
            return Ok(Exit::Done);
        }
        out.say(format_args!(
            "lanes of {}: {} -> {} {}",
            plan.namespace,
            plan.from,
            plan.to,
            reach.whereto()
        ))?;
        out.facts(&facts(&plan, self.drain_first))?;
        if self.dry_run {
            out.object(&plan)?;
            return Ok(Exit::Done);
        }
        let question = format!("Resize {} to {} lanes?", plan.namespace, plan.to);
        let what = format!("{} -> {} lanes", plan.from, plan.to);
        if !out.confirm(&question, &what, &Stake::Moderate)? {
            return Ok(Exit::Failed);
        }
        spec.dry_run = false;
        spec.generation = Some(plan.generation);
        let begun: Resize = reach.call(Method::POST, RESIZE, Some(&spec)).await?;
        let ended = match self.no_wait {
            true => Exit::Done,
            false => self.watch(&begun, reach, out).await?,
        };
        out.object(&begun)?;
        Ok(ended)
    }

    async fn watch(
        &self,
        begun: &Resize,
        reach: &Reach,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        let began = Instant::now();
        let path = with_query(RESIZE, &[("namespace", Some(self.namespace.to_string()))]);
        let (mut moved, mut seen, mut told) = (began, (0, None), false);
        loop {
            let now: ResizeProgress = reach.get(&path).await?;
            if !now.under_way {
                let took = text::duration(began.elapsed());
                out.say(format_args!(
                    "resize  done in {took}: {} lanes, generation {}",
                    now.lanes, now.generation
                ))?;
                return Ok(Exit::Done);
            }
            if seen != (now.sealed, now.waits_for.clone()) {
                seen = (now.sealed, now.waits_for.clone());
                (moved, told) = (Instant::now(), false);
            }
            if moved.elapsed() > STILL && !told {
                let why = now.waits_for.clone().unwrap_or_default();
                out.say(format_args!("resize  NOT MOVING: {why}"))?;
                told = true;
            }
            if self.within.is_some_and(|within| began.elapsed() > within) {
                let message = format!("{} of {} lanes are sealed", now.sealed, now.of);
                let trouble = Trouble::new(Exit::Unfinished, "not_done", message)
                    .fact("why", now.waits_for.unwrap_or_default())
                    .fact("next", "the resize goes on")
                    .fact("back", format!("hooklane lanes resize {}", begun.from));
                return Err(trouble.into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn facts(plan: &Resize, drain_first: bool) -> Vec<(&'static str, String)> {
    let (from, next) = (plan.generation, plan.generation + 1);
    let how = match drain_first {
        true => {
            format!("generation {from} finishes what waits now, then generation {next} goes on")
        }
        false => format!(
            "live: each lane of generation {from} finishes its running turn and seals, generation {next} goes on"
        ),
    };
    let split = format!(
        "{} of {} get another lane; all keep their order",
        text::count(plan.moves),
        text::counted(plan.streams, "stream", "streams")
    );
    let helps = format!(
        "of {} the fullest lane has {} now, {} after",
        text::counted(plan.backlog, "waiting event", "waiting events"),
        text::count(plan.fullest_lane),
        text::count(plan.fullest_lane_after)
    );
    let mut facts = vec![("  how", how), ("  split", split), ("  helps", helps)];
    if plan.set_aside > 0 {
        let cursors = text::counted(plan.set_aside, "cursor", "cursors");
        facts.push(("  set aside", format!("{cursors}, moved as they are")));
    }
    if plan.fullest_stream * 2 > plan.backlog {
        let events = text::count(plan.fullest_stream);
        let what = format!("clear one stream of {events} events sooner: it stays in one lane");
        facts.push(("  does not", what));
    }
    if !plan.in_the_way.is_empty() {
        facts.push(("  in the way", plan.in_the_way.join("; ")));
    }
    facts
}

/// Which lanes
#[derive(Args)]
pub struct Which {
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
    /// Which namespace
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: Name,
    /// Why, for the others
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Which {
    async fn call(
        &self,
        verb: &str,
        reach: &Reach,
        out: &mut Printer,
    ) -> anyhow::Result<Option<Stopped>> {
        if self.all && verb != "resume" {
            let question = format!("{verb} every lane of {}?", self.namespace);
            if !out.confirm(&question, &format!("{verb} all lanes"), &Stake::Moderate)? {
                return Ok(None);
            }
        }
        let spec = LanesSpec {
            namespace: self.namespace.clone(),
            lanes: (!self.all).then(|| self.lanes.clone()),
            reason: self.reason.clone(),
        };
        let path = format!("/v1/admin/lanes/{verb}");
        let stopped: Stopped = reach.call(Method::POST, &path, Some(&spec)).await?;
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
            false => self.lanes.join(" "),
        };
        format!(
            "hooklane lanes resume {lanes} --namespace {}",
            self.namespace
        )
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
    which: Which,
}

impl Pause {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let Some(stopped) = self.which.call("pause", reach, out).await? else {
            return Ok(Exit::Failed);
        };
        let is_done = stopped.waits_for.is_empty();
        out.say(format_args!("paused  {}", stopped.lanes.join(" ")))?;
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
    which: Which,
}

impl Resume {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let Some(stopped) = self.which.call("resume", reach, out).await? else {
            return Ok(Exit::Failed);
        };
        out.say(format_args!("resumed  {}", stopped.lanes.join(" ")))?;
        out.object(&stopped)?;
        Ok(Exit::Done)
    }
}

/// Process what waits now, keep what comes later until resume
///
/// Examples:
///   hooklane lanes drain --all --yes --wait --within 5m
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Drain {
    #[command(flatten)]
    which: Which,
    /// Return when it is done
    #[arg(long)]
    wait: bool,
    /// How long to wait for it, such as 5m [default: for ever]
    #[arg(long = "within", value_name = "DURATION", value_parser = parse_duration)]
    within: Option<Duration>,
}

impl Drain {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let Some(stopped) = self.which.call("drain", reach, out).await? else {
            return Ok(Exit::Failed);
        };
        out.say(format_args!("drain  {}", stopped.lanes.join(" ")))?;
        out.facts(&[("back", self.which.back())])?;
        let ended = match self.wait {
            true => self.watch(&stopped, reach, out).await?,
            false => Exit::Done,
        };
        out.object(&stopped)?;
        Ok(ended)
    }

    async fn watch(
        &self,
        stopped: &Stopped,
        reach: &Reach,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        let began = Instant::now();
        let namespace = Some(self.which.namespace.to_string());
        let path = with_query("/v1/admin/lanes", &[("namespace", namespace)]);
        let (mut moved, mut seen, mut told) = (began, u64::MAX, false);
        loop {
            let lanes: List<Lane> = reach.get(&path).await?;
            let lanes = lanes
                .items
                .iter()
                .filter(|lane| stopped.lanes.contains(&lane.lane));
            let still: Vec<_> = lanes
                .filter(|lane| lane.state != LaneState::Drained)
                .collect();
            if still.is_empty() {
                let took = text::duration(began.elapsed());
                out.say(format_args!(
                    "drain  done in {took}. Go on: {}",
                    self.which.back()
                ))?;
                return Ok(Exit::Done);
            }
            let left = still.iter().filter_map(|lane| lane.left).sum();
            if left != seen {
                (moved, seen, told) = (Instant::now(), left, false);
            }
            if moved.elapsed() > STILL && !told {
                out.say(format_args!("drain  NOT MOVING: {}", stands(&still, left)))?;
                told = true;
            }
            if self.within.is_some_and(|within| began.elapsed() > within) {
                let message = format!("{} are not drained: {left} left", still.len());
                let trouble = Trouble::new(Exit::Unfinished, "not_drained", message)
                    .fact("why", stands(&still, left))
                    .fact("undo", self.which.back());
                return Err(trouble.into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Why lanes that drain do not come to their end.
fn stands(lanes: &[&Lane], left: u64) -> String {
    if let Some(lane) = lanes.iter().find(|lane| lane.state == LaneState::NoOwner) {
        return format!("{} has no node", lane.lane);
    }
    match lanes.iter().find_map(|lane| lane.worst.as_ref()) {
        Some(worst) => format!(
            "{left} left; {} -> {} is {} ({})",
            worst.stream, worst.handler, worst.condition, worst.result
        ),
        None => format!("{left} left"),
    }
}
