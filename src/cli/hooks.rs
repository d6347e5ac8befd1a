//! `hooks`: creates, changes, tries and deletes hooks.

pub(super) mod file;
mod plan;
mod secrets;
mod settings;
mod stop;
mod tryout;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;

use super::print::{Columns, Row, Stake};
use super::reach::{Offline, Reach, with_query};
use super::{Exit, Printer, Trouble, flags};
use crate::api::{Changes, Deleted, Hook, HookEdit, HookSpec, List, NewHooks, Rejection};
use crate::domain::name::Name;
use crate::text;

use settings::{Settings, needs_scheme};

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
    /// Names of the hooks
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
