//! `hooks`: creates, changes, tries and deletes hooks.

pub(super) mod file;
mod plan;
mod secrets;
mod stop;
mod tryout;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use ipnet::IpNet;

use super::flags::OrNone;
use super::print::{Columns, Row, Stake};
use super::reach::{Offline, Reach, with_query};
use super::{Exit, Printer, Trouble, flags};
use crate::api::{
    Changes, Deleted, ForwardEdit, Hook, HookEdit, HookSpec, List, NewHooks, PullEdit, Rejection,
    VerifyEdit,
};
use crate::domain::filter::{Filter, Rule};
use crate::domain::forward::{Batch, Begin, Destination};
use crate::domain::handshake::{Handshake, InvalidHandshake};
use crate::domain::hook::{Debounce, DedupeBy, OnError, OrderBy, Reducer, Source, Unordered};
use crate::domain::keep::Keep;
use crate::domain::name::Name;
use crate::domain::network::{self, InvalidRange, Networks};
use crate::domain::place::Place;
use crate::domain::rate::Rate;
use crate::domain::time::{millis, parse_duration};
use crate::domain::verify::{InvalidScheme, Scheme};
use crate::domain::version::Late;
use crate::text;

/// Make, change, try and delete receivers of webhooks
#[derive(Subcommand)]
pub enum Hooks {
    Create(Create),
    Apply(Apply),
    List(All),
    Show(Show),
    Edit(Edit),
    Test(tryout::Try),
    Delete(Delete),
    Pause(stop::Pause),
    Resume(stop::Resume),
    #[command(subcommand)]
    Secrets(secrets::Secrets),
}

impl Hooks {
    /// Access that the verb needs without a daemon: only `create` creates a database.
    pub fn offline(&self) -> Offline {
        match self {
            Self::Create(_) | Self::Apply(Apply { dry_run: false, .. }) => Offline::Make,
            _ => Offline::Open,
        }
    }

    /// Runs the verb.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        match self {
            Self::Create(create) => create.run(reach, out).await,
            Self::Apply(apply) => apply.run(reach, out).await,
            Self::List(list) => list.run(reach, out).await,
            Self::Show(show) => show.run(reach, out).await,
            Self::Edit(edit) => edit.run(reach, out).await,
            Self::Test(test) => test.run(reach, out).await,
            Self::Delete(delete) => delete.run(reach, out).await,
            Self::Pause(pause) => pause.run(reach, out).await,
            Self::Resume(resume) => resume.run(reach, out).await,
            Self::Secrets(secrets) => secrets.run(reach, out).await,
        }
    }
}

const HOOKS: &str = "/v1/admin/hooks";
const BATCH: &str = "/v1/admin/batch/hooks";

fn path(name: &Name) -> String {
    format!("{HOOKS}/{name}")
}

impl Row for Hook {
    const HEADER: &'static [&'static str] = &[
        "NAME",
        "NAMESPACE",
        "CONDITION",
        "ORDER BY",
        "REDUCE",
        "PULL",
        "ON ERROR",
        "KEEP",
        "STREAMS ",
        "EVENTS ",
        "CREATED",
    ];
    const RARE: &'static [&'static str] = &["PULL"];
    const DROPS: &'static [&'static str] = &[
        "CREATED",
        "ON ERROR",
        "KEEP",
        "NAMESPACE",
        "CONDITION",
        "ORDER BY",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.spec.name.to_string(),
            self.spec.namespace.to_string(),
            match self.paused {
                Some(_) => "paused".to_owned(),
                None => "flowing".to_owned(),
            },
            self.spec.order_by.to_string(),
            plan::reduce(self.spec.reduce.as_ref()),
            plan::pulls(&self.spec),
            plan::on_error(self.spec.on_error).to_owned(),
            self.spec.keep.to_string(),
            plan::counted(self.streams),
            plan::counted(self.events),
            plan::day(self.created_at),
        ]
    }

    fn name(&self) -> String {
        self.spec.name.to_string()
    }
}

/// Configuration of a hook; `create` and `edit` take the same flags.
#[derive(Args, Default)]
struct Settings {
    /// The namespace whose lanes its streams use [default: default]
    #[arg(long, value_name = "NAME")]
    namespace: Option<Name>,

    /// The ordering key, which divides its events into streams: body:/JSON/POINTER, header:NAME, form:NAME, or none
    /// for one stream
    #[arg(long, value_name = "RULE")]
    order_by: Option<OrderBy>,

    /// Events without an ordering key: refuse (422), or keep in the hook's own stream
    #[arg(long, value_name = "refuse|keep", value_parser = flags::unordered)]
    unordered: Option<Unordered>,

    /// Value that identifies a repeat: header:NAME, body:/JSON/POINTER, form:NAME, or standard for the delivery id of the provider
    /// that --verify names, then the headers Idempotency-Key and webhook-id, which also count where the place has nothing
    /// [default: standard]
    #[arg(long, value_name = "RULE")]
    dedupe_by: Option<DedupeBy>,

    #[command(flatten)]
    senders: Senders,

    #[command(flatten)]
    order: Order,

    /// Reducer that turns events into a state: latest, merge, patch, append:N, count or a FILE.js
    #[arg(long, value_name = "NAME|FILE.js")]
    reduce: Option<String>,

    /// An event that cannot be folded: hold its stream, or skip it to the dead letters
    #[arg(long, value_name = "hold|skip", value_parser = flags::on_error)]
    on_error: Option<OnError>,

    /// Gather events into one turn: until it is quiet for QUIET, for LONGEST at most [default: 10 times QUIET]
    #[arg(long, value_name = "QUIET[,LONGEST]", value_parser = flags::debounce)]
    debounce: Option<Debounce>,

    /// Only events with this pattern at a place, such as '/type=invoice.*' or header:X-GitHub-Event=push; others are
    /// passed in order. May be given often: one pattern of each place must match
    #[arg(long, value_name = "PLACE=PATTERN")]
    only: Vec<Rule>,

    /// The largest body it accepts, such as 64KiB [default: 1MiB]
    #[arg(long, value_name = "BYTES", value_parser = flags::bytes)]
    body_max: Option<u64>,

    /// Deliver each event to NAME=URL, in order, the next one after a 2xx; may be given often. In `edit`, NAME alone
    /// names a handler to change
    #[arg(long = "forward", value_name = "NAME=URL", value_parser = flags::forward)]
    forwards: Vec<(Name, Option<String>)>,

    #[command(flatten)]
    deliveries: Deliveries,

    /// Keep each event for consumers of this name that ask for it, in order, the next one after it is acknowledged.
    /// May be given often
    #[arg(long = "pull", value_name = "NAME")]
    pulls: Vec<Name>,

    /// Time for which a delivery of --pull stays open unless its consumer says otherwise, 12h at most [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "pulls")]
    lease: Option<Duration>,

    /// Retention of events after every handler has passed them: a time such as 30d, an amount such as 10GB, or
    /// forever [default: forever]
    #[arg(long, value_name = "TIME|AMOUNT|forever")]
    keep: Option<Keep>,
}

/// The provider's order.
#[derive(Args, Default)]
struct Order {
    /// The version that the provider gives its events, a number or an RFC 3339 time: body:/JSON/POINTER, header:NAME,
    /// form:NAME, or none. An event whose version is lower than one before it in its stream is late [default: none]
    #[arg(long, value_name = "RULE", value_parser = flags::version_by)]
    version_by: Option<OrNone<Place>>,

    /// Late events: apply them like others, mark them for reducers and receivers, or skip them [default: mark]
    #[arg(long, value_name = "apply|mark|skip")]
    late: Option<Late>,

    /// Hold each event back this long, so that lower versions can still come before it: such as 5s, 1h at most, or none.
    /// The 202 then has no seq yet [default: none]
    #[arg(long, value_name = "DURATION", value_parser = flags::reorder_window)]
    reorder_window: Option<OrNone<Duration>>,
}

impl Order {
    fn window_ms(&self) -> Option<Option<u64>> {
        let OrNone(window) = self.reorder_window.as_ref()?;
        Some(window.map(|window| millis(window).unsigned_abs()))
    }
}

/// Delivery of the forward handlers that the command names.
#[derive(Args, Default)]
struct Deliveries {
    /// The time for one request of --forward, 10s at most [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "forwards")]
    request_timeout: Option<Duration>,

    /// Tries of one event of --forward or --pull before --on-error decides; 0 tries for ever [default: for ever]
    #[arg(long, value_name = "COUNT")]
    attempts: Option<u32>,

    /// Requests in flight at once from one node [default: 64]
    #[arg(long, value_name = "COUNT", requires = "forwards")]
    max_in_flight: Option<u32>,

    /// Requests from one node, such as 50/s [default: no limit]
    #[arg(long, value_name = "RATE", requires = "forwards")]
    rate: Option<Rate>,

    /// Consecutive events of one stream in one request, such as 100 or 100,256KiB [default: one event]
    #[arg(long, value_name = "EVENTS[,BYTES]", requires = "forwards")]
    batch: Option<Batch>,

    /// Of the events that --debounce gathered, deliver the newest alone
    #[arg(long, requires = "forwards")]
    coalesce: bool,

    /// First event of a new handler of --forward or --pull [default: beginning]
    #[arg(long, value_name = "beginning|now", value_parser = flags::begin)]
    from: Option<Begin>,
}

/// Verification of the sender
#[derive(Args, Default)]
struct Senders {
    /// Verify the signatures of the sender, which then needs no write key: stripe, github, shopify, slack, twilio,
    /// gitlab, standard, paddle, square, hubspot, linear, sendgrid, hmac:PARTS, or none [default: none]
    #[arg(long, value_name = "SCHEME", value_parser = verified)]
    verify: Option<Verified>,

    /// The URL that the sender has, for twilio, square and hubspot, which sign it
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,

    /// Largest difference between the sender's clock and ours [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    tolerance: Option<Duration>,

    /// Answer the test of the URL by the provider: slack (always with --verify slack), meta, graph, zoom, twitch,
    /// x, or probe for a HEAD or GET; or none [default: none]
    #[arg(long, value_name = "NAME", value_parser = asked)]
    handshake: Option<Asked>,

    /// Addresses from which requests are accepted, as a CIDR range such as 192.0.2.0/24; requests from elsewhere are 403.
    /// May be given often; any ends it [default: any]
    #[arg(long, value_name = "CIDR|any", value_parser = allowed)]
    allow_from: Vec<Allowed>,

    /// A file with the secret of the sender; - for stdin. In a command with --forward and without --verify, the secret
    /// that signs its deliveries, whsec_… [default for --forward: one is made and shown once]
    #[arg(long, value_name = "FILE", conflicts_with = "secret_env")]
    secret_file: Option<PathBuf>,

    /// An environment variable with the same
    #[arg(long, value_name = "VARIABLE")]
    secret_env: Option<String>,
}

/// Value of `--verify`: a scheme, or `none`.
#[derive(Clone, Debug)]
struct Verified(Option<Scheme>);

/// Parses `--verify`.
fn verified(text: &str) -> Result<Verified, InvalidScheme> {
    match text {
        "none" => Ok(Verified(None)),
        text => text.parse().map(|scheme| Verified(Some(scheme))),
    }
}

/// Value of `--handshake`: a handshake, or `none`.
#[derive(Clone, Copy, Debug)]
struct Asked(Option<Handshake>);

/// Parses `--handshake`.
fn asked(text: &str) -> Result<Asked, InvalidHandshake> {
    match text {
        "none" => Ok(Asked(None)),
        text => text.parse().map(|handshake| Asked(Some(handshake))),
    }
}

/// Value of `--allow-from`: a range of addresses, or `any`.
#[derive(Clone, Copy, Debug)]
struct Allowed(Option<IpNet>);

/// Parses `--allow-from`.
fn allowed(text: &str) -> Result<Allowed, InvalidRange> {
    match text {
        "any" => Ok(Allowed(None)),
        text => network::range(text).map(|range| Allowed(Some(range))),
    }
}

/// The ranges of all `--allow-from`; `None` without one.
fn allow_from(given: &[Allowed]) -> Result<Option<Networks>, Trouble> {
    let ranges: Vec<_> = given.iter().filter_map(|Allowed(range)| *range).collect();
    match (given.len(), ranges.len()) {
        (0, _) => Ok(None),
        (given, ranges) if ranges > 0 && ranges < given => Err(Trouble::usage(
            "--allow-from any accepts every address: give it alone, or the ranges without it",
        )),
        _ => Ok(Some(ranges.into())),
    }
}

/// Checks that settings of the sender come only with verification.
fn needs_scheme(edit: &HookEdit, verifies: bool) -> Result<(), Trouble> {
    match &edit.verify {
        Some(Some(change)) if change.scheme.is_none() && !verifies => Err(Trouble::usage(
            "a secret, --public-url and --tolerance are for senders that sign: give --verify SCHEME with them",
        )),
        _ => Ok(()),
    }
}

impl Senders {
    /// The edit of the hook's verification; `secret` is the sender's.
    fn edit(self, secret: Option<String>) -> Option<Option<VerifyEdit>> {
        let edit = VerifyEdit {
            scheme: match self.verify {
                Some(Verified(None)) => return Some(None),
                Some(Verified(scheme)) => scheme,
                None => None,
            },
            tolerance_ms: self.tolerance.map(|time| millis(time).unsigned_abs()),
            public_url: self.public_url,
            secret,
        };
        (edit != VerifyEdit::default()).then_some(Some(edit))
    }
}

impl Settings {
    /// The forward handlers on the command line, each with its settings.
    fn forward_edits(
        &self,
        secret: Option<&String>,
        only: Option<&Filter>,
    ) -> Result<Vec<ForwardEdit>, Trouble> {
        let given = &self.deliveries;
        let parsed = |url: &String| url.parse::<Destination>();
        let edit = |name: &Name, url| ForwardEdit {
            name: Some(name.clone()),
            url,
            timeout_ms: given
                .request_timeout
                .map(|time| millis(time).unsigned_abs()),
            attempts: given.attempts,
            on_error: self.on_error,
            max_in_flight: given.max_in_flight,
            rate: given.rate,
            batch: given.batch,
            debounce: self.debounce,
            coalesce: given.coalesce.then_some(true),
            only: only.cloned(),
            from: given.from,
            secret: secret.cloned(),
        };
        let edits = self.forwards.iter().map(|(name, url)| {
            let url = url.as_ref().map(parsed).transpose();
            let url = url.map_err(|error| Trouble::usage(format!("--forward {name}: {error}")))?;
            Ok(edit(name, url))
        });
        edits.collect()
    }

    /// The pull handlers on the command line, each with its settings.
    fn pull_edits(&self, only: Option<&Filter>) -> Vec<PullEdit> {
        let edits = self.pulls.iter().map(|name| PullEdit {
            name: name.clone(),
            attempts: self.deliveries.attempts,
            on_error: self.on_error,
            lease_ms: self.lease.map(|lease| millis(lease).unsigned_abs()),
            only: only.cloned(),
            from: self.deliveries.from,
        });
        edits.collect()
    }

    /// The edit of the flags. `ends_filter` removes the filter of the handlers on the command line.
    fn edit(self, ends_filter: bool) -> Result<HookEdit, Trouble> {
        let senders = &self.senders;
        let secret = file::secret(
            senders.secret_file.as_deref(),
            senders.secret_env.as_deref(),
        )?;
        let signs = !self.forwards.is_empty() && senders.verify.is_none();
        let (signing, verifying) = if signs {
            (secret, None)
        } else {
            (None, secret)
        };
        let only = Filter::new(self.only.clone());
        let only = only.map_err(|error| Trouble::usage(format!("--only: {error}")))?;
        let only = Some(only).filter(|only| ends_filter || !only.takes_all());
        let forward = self.forward_edits(signing.as_ref(), only.as_ref())?;
        let pull = self.pull_edits(only.as_ref());
        let delivers = !forward.is_empty() || !pull.is_empty();
        let given = &self.deliveries;
        if !delivers && (given.attempts.is_some() || given.from.is_some()) {
            return Err(
                Trouble::usage("--attempts and --from are for handlers that deliver")
                    .fact("give", "--forward NAME=URL or --pull NAME with them"),
            );
        }
        // Failure policy, filter and debounce apply to the handlers on the command line, else to the reducer.
        let reduces = self.reduce.is_some() || !delivers;
        let debounces = self.reduce.is_some() || forward.is_empty();
        Ok(HookEdit {
            forward,
            remove_forward: Vec::new(),
            pull,
            remove_pull: Vec::new(),
            namespace: self.namespace,
            order_by: self.order_by,
            unordered: self.unordered,
            dedupe_by: self.dedupe_by,
            handshake: self.senders.handshake.map(|Asked(handshake)| handshake),
            reorder_window_ms: self.order.window_ms(),
            version_by: self.order.version_by.map(|OrNone(place)| place),
            late: self.order.late,
            allow_from: allow_from(&self.senders.allow_from)?,
            verify: self.senders.edit(verifying),
            reduce: self
                .reduce
                .map(|text| reducer(&text, Path::new("")))
                .transpose()?
                .map(Some),
            on_error: self.on_error.filter(|_| reduces),
            debounce: self.debounce.filter(|_| debounces).map(Some),
            only: only.filter(|_| reduces),
            body_max: self.body_max,
            keep: self.keep,
        })
    }
}

/// A built-in reducer, or the script in a file, relative to `base`.
fn reducer(text: &str, base: &Path) -> Result<Reducer, Trouble> {
    if !text.ends_with(".js") && !text.ends_with(".mjs") {
        return Reducer::built_in(text).map_err(|error| Trouble::usage(error.to_string()));
    }
    let path = base.join(text);
    let source = std::fs::read_to_string(&path).map_err(|error| {
        let message = format!("no reducer in {}: {error}", path.display());
        Trouble::new(Exit::Usage, "no_file", message)
    })?;
    let file = path.file_name().unwrap_or(path.as_os_str());
    Ok(Reducer::Script(
        Source {
            file: file.to_string_lossy().into_owned(),
            text: source,
        }
        .into(),
    ))
}

/// Make hooks that take webhooks at once
///
/// Examples:
///   hooklane hooks create hello --reduce latest
///   hooklane hooks create orders --order-by body:/customer/id --reduce orders.js
///   hooklane hooks create github --order-by header:X-GitHub-Hook-ID
///   hooklane hooks create pay --verify stripe --secret-file stripe.secret
///   hooklane hooks create subs --version-by /data/updated --reorder-window 5s
///   hooklane hooks create jobs --order-by body:/account --pull worker --lease 2m
///   hooklane hooks create stripe --reduce latest --only '/type=invoice.*'
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Create {
    /// Their names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<Name>,
    #[command(flatten)]
    settings: Settings,
}

impl Create {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let edit = self.settings.edit(false)?;
        needs_scheme(&edit, false)?;
        let made = make(self.names, &edit, reach).await?;
        let mut facts = Vec::new();
        for hook in &made {
            facts.push(("created", created(hook)));
            if let Some(warning) = plan::warning(&hook.spec.name, hook.spec.keep) {
                out.say(format_args!("{warning}"))?;
            }
        }
        if let [hook, ..] = &made[..] {
            let name = &hook.spec.name;
            facts.push(("next", format!("hooklane send {name}")));
            if let Some(pull) = hook.spec.pull.first() {
                let key = format!(
                    "hooklane keys create --type read --hook {name} --consume {} --name {}",
                    pull.name, pull.name
                );
                facts.push(("key", key));
            }
            facts.push(("undo", format!("hooklane hooks delete {name}")));
        }
        facts.extend(made.iter().flat_map(new_secrets));
        out.facts(&facts)?;
        for hook in &made {
            out.object(hook)?;
        }
        Ok(Exit::Done)
    }
}

/// Secrets generated with a hook, which are shown only once.
fn new_secrets(hook: &Hook) -> Vec<(&'static str, String)> {
    let told = hook.new_secrets.iter().map(|new| {
        let text = format!("{}   {}   shown this once", new.handler, new.secret);
        ("secret", text)
    });
    told.collect()
}

/// Creates hooks, several of them in one transaction.
async fn make(names: Vec<Name>, edit: &HookEdit, reach: &Reach) -> anyhow::Result<Vec<Hook>> {
    let Some(first) = names.first() else {
        return Ok(Vec::new());
    };
    let like = plan::edited(HookSpec::new(first.clone()), edit)?;
    if names.len() == 1 {
        return Ok(vec![reach.call(Method::POST, HOOKS, Some(&like)).await?]);
    }
    let new = NewHooks { names, like };
    let made: List<Hook> = reach.call(Method::POST, BATCH, Some(&new)).await?;
    Ok(made.items)
}

fn created(hook: &Hook) -> String {
    let (name, order_by) = (&hook.spec.name, &hook.spec.order_by);
    let reduce = plan::reduce(hook.spec.reduce.as_ref());
    let forwards = hook.spec.forward.iter();
    let forwards = forwards.map(|forward| format!(", forward {}", forward.name));
    let pulls = hook.spec.pull.iter();
    let pulls = pulls.map(|pull| format!(", pull {}", pull.name));
    let delivers: String = forwards.chain(pulls).collect();
    let verify = hook.spec.verify.as_ref();
    let verify = verify.map_or_else(String::new, |verify| format!(", verify {}", verify.scheme));
    format!("{name}   POST /in/{name}   order by {order_by}, reduce {reduce}{delivers}{verify}")
}

/// Make hooks and namespaces as a TOML file says; the same file twice changes nothing
///
/// Examples:
///   hooklane hooks apply hooks.toml --dry-run
///   hooklane hooks apply hooks.toml --prune
///
/// A file:
///   [[namespaces]]
///   name = "acme"
///   lanes = 4
///
///   [[hooks]]
///   name = "orders"
///   namespace = "acme"
///   order_by = "body:/customer/id"
///   reduce = "orders.js"             # beside the file, or a built-in
///   debounce = "500ms,5s"
///   keep = "30d"                     # or "10GB"; without it, for ever
///   verify = "stripe"                # public_url, tolerance as the flags
///   handshake = "probe"              # the test of the URL that is answered
///   allow_from = ["192.0.2.0/24"]    # where its senders are
///   secret_file = "stripe.secret"    # beside the file
///
///   [[hooks.pull]]
///   name = "worker"
///   lease = "2m"                     # attempts, on_error and from as the flags
///   only = ["/type=invoice.*"]       # of a hook too: the events that it folds
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Apply {
    /// The TOML file, - for stdin
    file: PathBuf,
    /// Show what would change, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Also delete the hooks that are not in the file, with their events and states
    #[arg(long)]
    prune: bool,
}

impl Apply {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let wanted = file::read(&self.file)?;
        let apply = |dry_run: bool| {
            let yes = |is: bool| is.then(|| "true".to_owned());
            let query = [("dry_run", yes(dry_run)), ("prune", yes(self.prune))];
            with_query(&format!("{HOOKS}/apply"), &query)
        };
        let here = reach.here().await?;
        let planned: Changes = reach
            .call(Method::POST, &apply(true), Some(&wanted))
            .await?;
        let question = deletes(&planned).filter(|_| !self.dry_run);
        if let Some((what, stake)) = &question {
            out.is_answered(what, stake)?;
        }
        for line in plan::lines(&planned) {
            out.say(format_args!("{line}"))?;
        }
        for spec in &wanted.hooks {
            if let Some(warning) = plan::warning(&spec.name, spec.keep) {
                out.say(format_args!("{warning}"))?;
            }
        }
        if planned.changes.is_empty() {
            out.say(format_args!("nothing to change"))?;
        }
        let changes = match self.dry_run || planned.changes.is_empty() {
            true => planned,
            false => {
                if let Some((what, stake)) = &question
                    && !out.confirm("Apply?", what, stake)?
                {
                    return Ok(Exit::Failed);
                }
                reach
                    .call_planned(&here, Method::POST, &apply(false), Some(&wanted))
                    .await?
            }
        };
        out.object(&changes)?;
        Ok(Exit::Done)
    }
}

/// The question to ask when the plan deletes hooks.
fn deletes(planned: &Changes) -> Option<(String, Stake)> {
    let deleted = plan::deleted(planned);
    let hooks = text::counted(deleted as u64, "hook", "hooks");
    let what = format!("deletes {hooks}, with events and states");
    (deleted > 0).then(|| (what, Stake::Severe(deleted.to_string())))
}

/// List hooks
///
/// Examples:
///   hooklane hooks list
///   hooklane hooks list --namespace acme -o names
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct All {
    /// Only those of one namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<Name>,
    #[command(flatten)]
    columns: Columns,
}

impl All {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let namespace = self.namespace.map(|name| name.to_string());
        let path = with_query(HOOKS, &[("namespace", namespace)]);
        let hooks: List<Hook> = reach.get(&path).await?;
        out.list(&hooks, self.columns)?;
        if hooks.items.is_empty() {
            out.foot(format_args!(
                "none yet: hooklane hooks create hello --reduce latest"
            ))?;
        }
        Ok(Exit::Done)
    }
}

/// Show how a hook is configured
///
/// Examples:
///   hooklane hooks show orders
///   hooklane hooks show orders -o json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Show {
    /// The hook
    name: Name,
}

impl Show {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let hook: Hook = reach.get(&path(&self.name)).await?;
        let mut facts = plan::facts(&hook);
        if hook.spec.verify.is_some() || !hook.spec.allow_from.is_empty() {
            let path = format!("{}/rejections", path(&self.name));
            let rejections: List<Rejection> = reach.get(&path).await?;
            facts.push(("rejected", plan::rejected(&self.name, &rejections.items)));
        }
        out.item(&hook, self.name.as_str(), &facts)?;
        Ok(Exit::Done)
    }
}

/// Change a hook; settings without a flag stay as they are
///
/// A new reducer applies the events from now on, and the old states stay; `state rebuild` computes them again.
/// With --no-reduce the hook only stores events. A reducer that is added later begins at the first event that is
/// kept.
///
/// An event is removed once it is older than --keep and every handler has passed it. Held and paused streams keep
/// their events. Their state is kept as a checkpoint, where `state rebuild` begins. The dedupe key and the dead
/// letter of an event go with it. The SQLite file does not shrink: free pages are used again.
///
/// Examples:
///   hooklane hooks edit orders --reduce orders.js
///   hooklane hooks edit orders --namespace acme
///   hooklane hooks edit orders --keep 30d
///   hooklane hooks edit orders --no-reduce --no-debounce
///   hooklane hooks edit orders --forward crm --only '/type=invoice.*'
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Edit {
    /// The hook
    name: Name,
    #[command(flatten)]
    settings: Settings,
    /// Remove the reducer and the states; only store events
    #[arg(long, conflicts_with_all = ["reduce", "on_error", "debounce"])]
    no_reduce: bool,
    /// End the debounce
    #[arg(long, conflicts_with = "debounce")]
    no_debounce: bool,
    /// End the filter of the handlers that the command names, or of the reducer
    #[arg(long, conflicts_with = "only")]
    no_only: bool,
    /// Remove a forward handler; its positions are gone. May be given often
    #[arg(long, value_name = "NAME")]
    remove_forward: Vec<Name>,
    /// Remove a pull handler; its positions are gone. May be given often
    #[arg(long, value_name = "NAME")]
    remove_pull: Vec<Name>,
    /// Show what would change, change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Edit {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let mut edit = self.settings.edit(self.no_only)?;
        if self.no_reduce {
            edit.reduce = Some(None);
        }
        if self.no_debounce {
            edit.debounce = Some(None);
        }
        edit.remove_forward = self.remove_forward;
        edit.remove_pull = self.remove_pull;
        if edit == HookEdit::default() {
            let message = "nothing to change: name a setting, such as --reduce latest";
            return Err(Trouble::usage(message).into());
        }
        let here = reach.here().await?;
        let before: Hook = reach.get(&path(&self.name)).await?;
        needs_scheme(&edit, before.spec.verify.is_some())?;
        let after = plan::edited(before.spec.clone(), &edit)?;
        let changes = plan::differences(&before.spec, &after);
        if changes.is_empty() {
            out.say(format_args!("{}: nothing to change", self.name))?;
            out.object(&before)?;
            return Ok(Exit::Done);
        }
        out.say(format_args!(
            "hook {}   {}",
            self.name,
            reach.planned(&here)
        ))?;
        for change in &changes {
            out.say(format_args!("  {change}"))?;
        }
        if after.reduce.is_none() && after.debounce.is_some() {
            let message = "a debounce needs a reducer: end it too, with --no-debounce";
            return Err(Trouble::usage(message).into());
        }
        if before.spec.reduce.is_some() && after.reduce.is_none() {
            let states = text::counted(before.streams.unwrap_or(0), "state goes", "states go");
            out.say(format_args!(
                "  {states}; a reducer that is added later begins at the first event that is kept"
            ))?;
        }
        if let Some(warning) = plan::warning(&self.name, after.keep) {
            out.say(format_args!("{warning}"))?;
        }
        if self.dry_run {
            return Ok(Exit::Done);
        }
        let hook: Hook = reach
            .call(Method::PATCH, &path(&self.name), Some(&edit))
            .await?;
        let mut facts = new_secrets(&hook);
        if let Some(back) = plan::way_back(&before.spec, &after) {
            facts.push(("undo", format!("hooklane hooks edit {} {back}", self.name)));
        }
        out.facts(&facts)?;
        out.object(&hook)?;
        Ok(Exit::Done)
    }
}

/// Delete a hook with its events and states
///
/// Examples:
///   hooklane hooks delete hello
///   hooklane hooks delete hello --yes --confirm hello
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Delete {
    /// The hook
    name: Name,
}

impl Delete {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let here = reach.here().await?;
        let hook: Hook = reach.get(&path(&self.name)).await?;
        let what = match (hook.streams, hook.events) {
            (Some(streams), Some(events)) => size(streams, events),
            _ => "all its events and states".to_owned(),
        };
        let stake = Stake::Severe(self.name.to_string());
        out.is_answered(&what, &stake)?;
        out.say(format_args!(
            "delete hook {}   {}",
            self.name,
            reach.planned(&here)
        ))?;
        out.facts(&[
            ("  goes", what.clone()),
            ("  senders", "are refused from then on".to_owned()),
        ])?;
        if !out.confirm("Delete?", &what, &stake)? {
            return Ok(Exit::Failed);
        }
        let gone: Deleted = reach
            .call_planned(&here, Method::DELETE, &path(&self.name), None::<&()>)
            .await?;
        out.say(format_args!(
            "deleted  {}: {}",
            gone.deleted,
            size(gone.streams, gone.events)
        ))?;
        out.object(&gone)?;
        Ok(Exit::Done)
    }
}

/// Size of a hook in words.
fn size(streams: u64, events: u64) -> String {
    let streams = text::counted(streams, "stream", "streams");
    format!("{streams}, {}", text::counted(events, "event", "events"))
}

/// A debounce as the flag spells it, such as `500ms,5s`.
fn debounce_text(debounce: Debounce) -> String {
    let text = |duration| match millis(duration) {
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    };
    format!("{},{}", text(debounce.quiet), text(debounce.longest))
}
