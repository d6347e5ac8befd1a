//! `namespaces`: creates, lists and deletes groups of hooks with their own lanes.

use std::time::Duration;

use clap::{Args, Subcommand, value_parser};
use http::Method;

use super::print::{Columns, Row, Stake};
use super::reach::{Offline, Reach};
use super::{Exit, Printer, Trouble};
use crate::api::{List, Namespace, NamespaceSpec};
use crate::domain::lane::LANES_MAX;
use crate::domain::name::Name;
use crate::domain::time::{millis, parse_duration};
use crate::text;

/// Make, list and delete groups of hooks with lanes of their own
#[derive(Subcommand)]
pub enum Namespaces {
    Create(Create),
    List(All),
    Delete(Delete),
}

impl Namespaces {
    /// Access that the verb needs without a daemon: only `create` creates a database.
    pub fn offline(&self) -> Offline {
        match self {
            Self::Create(_) => Offline::Make,
            _ => Offline::Open,
        }
    }

    /// Runs the verb.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        match self {
            Self::Create(create) => create.run(reach, out).await,
            Self::List(list) => list.run(reach, out).await,
            Self::Delete(delete) => delete.run(reach, out).await,
        }
    }
}

const NAMESPACES: &str = "/v1/admin/namespaces";

impl Row for Namespace {
    const HEADER: &'static [&'static str] =
        &["NAME", "LANES ", "GENERATION ", "HOOKS ", "WARN ", "CRIT "];
    const DROPS: &'static [&'static str] = &["GENERATION", "CRIT", "WARN"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.to_string(),
            self.lanes.to_string(),
            self.generation.to_string(),
            self.hooks.to_string(),
            text::duration(Duration::from_millis(self.warn_ms)),
            text::duration(Duration::from_millis(self.crit_ms)),
        ]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}

/// Make a namespace, so that its hooks never wait for those of others
///
/// Examples:
///   hooklane namespaces create acme --lanes 4
///   hooklane namespaces create batch --warn 5m --crit 1h
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Create {
    /// Its name
    name: Name,
    /// Number of its lanes
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    #[arg(value_parser = value_parser!(u16).range(1..=i64::from(LANES_MAX)))]
    lanes: u16,
    /// Age of the oldest flowing event (FLOW) from which the namespace is late [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    warn: Option<Duration>,
    /// Age of that event from which an operator must look [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    crit: Option<Duration>,
}

impl Create {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let spec = NamespaceSpec {
            name: self.name,
            lanes: self.lanes,
            warn_ms: self.warn.map(whole),
            crit_ms: self.crit.map(whole),
        };
        let made: Namespace = reach.call(Method::POST, NAMESPACES, Some(&spec)).await?;
        out.say(format_args!("created  {}, {}", made.name, lanes(&made)))?;
        out.facts(&[
            (
                "next",
                format!("hooklane hooks create NAME --namespace {}", made.name),
            ),
            ("undo", format!("hooklane namespaces delete {}", made.name)),
        ])?;
        out.object(&made)?;
        Ok(Exit::Done)
    }
}

fn whole(age: Duration) -> u64 {
    millis(age).unsigned_abs()
}

fn lanes(namespace: &Namespace) -> String {
    text::counted(u64::from(namespace.lanes), "lane", "lanes")
}

/// List namespaces
///
/// Examples:
///   hooklane namespaces list
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct All {
    #[command(flatten)]
    columns: Columns,
}

impl All {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let namespaces: List<Namespace> = reach.get(NAMESPACES).await?;
        out.list(&namespaces, self.columns)?;
        Ok(Exit::Done)
    }
}

/// Delete a namespace that has no hooks
///
/// Examples:
///   hooklane namespaces delete acme
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Delete {
    /// Its name
    name: Name,
}

impl Delete {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        if self.name == Name::default_namespace() {
            let message = "namespace default always exists: hooks without a namespace belong to it";
            return Err(Trouble::new(Exit::Conflict, "conflict", message)
                .fact("fewer lanes", "hooklane lanes resize 1")
                .fact("others", "hooklane namespaces list")
                .into());
        }
        let here = reach.here().await?;
        let namespaces: List<Namespace> = reach.get(NAMESPACES).await?;
        let found = namespaces.items.iter().find(|n| n.name == self.name);
        let Some(namespace) = found else {
            let names = namespaces.items.iter().map(|n| n.name.as_str());
            return Err(Trouble::missing("namespace", self.name.as_str(), names).into());
        };
        // A deletion that would be refused is not planned.
        if namespace.hooks > 0 {
            let (name, hooks) = (&self.name, namespace.hooks);
            let message = format!("namespace {name} is not empty, hooks: {hooks}");
            let trouble = Trouble::new(Exit::Conflict, "conflict", message)
                .fact("which", format!("hooklane hooks list --namespace {name}"))
                .fact("move", "hooklane hooks edit NAME --namespace default");
            return Err(trouble.into());
        }
        let hooks = text::counted(namespace.hooks, "hook", "hooks");
        let what = format!("{}, {hooks}", lanes(namespace));
        let stake = Stake::Severe(self.name.to_string());
        out.is_answered(&what, &stake)?;
        out.say(format_args!(
            "delete namespace {}   {}",
            self.name,
            reach.planned(&here)
        ))?;
        out.facts(&[("  goes", what.clone())])?;
        if !out.confirm("Delete?", &what, &stake)? {
            return Ok(Exit::Failed);
        }
        let path = format!("{NAMESPACES}/{}", self.name);
        let gone: Namespace = reach
            .call_planned(&here, Method::DELETE, &path, None::<&()>)
            .await?;
        out.say(format_args!("deleted  {}", gone.name))?;
        out.object(&gone)?;
        Ok(Exit::Done)
    }
}
