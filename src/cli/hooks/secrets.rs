//! `hooks secrets`: two at once, so that a secret is rotated without a lost event.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;

use super::{Trouble, file};
use crate::api::{List, SecretRow, SecretSpec};
use crate::cli::print::{Columns, Row};
use crate::cli::reach::Reach;
use crate::cli::{Exit, Printer};
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::text::{duration, printable_line};

/// Rotate the secrets that verify senders or sign deliveries
///
/// Two are in force at once: add the new one, change it at the other side, remove the old one. Secrets are encrypted in
/// the database and never shown again.
#[derive(Subcommand)]
pub enum Secrets {
    Add(Add),
    List(All),
    Remove(Remove),
}

impl Secrets {
    /// Adds, lists or removes secrets of a hook.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        match self {
            Self::Add(add) => add.run(reach, out).await,
            Self::List(list) => list.run(reach, out).await,
            Self::Remove(remove) => remove.run(reach, out).await,
        }
    }
}

fn path(hook: &Name) -> String {
    format!("{}/secrets", super::path(hook))
}

/// Add a secret; the one before stays in force too
///
/// Examples:
///   hooklane hooks secrets add pay --secret-file new.secret
///   hooklane hooks secrets add pay --secret-env STRIPE_SECRET
///   hooklane hooks secrets add orders --handler crm
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Add {
    /// The hook
    hook: Name,
    /// The forward handler that signs with it; without it, the secret verifies senders
    #[arg(long, value_name = "NAME")]
    handler: Option<Name>,
    /// A file with the secret; - for stdin [default with --handler: one is made and shown once]
    #[arg(long, value_name = "FILE", conflicts_with = "secret_env")]
    secret_file: Option<PathBuf>,
    /// An environment variable with the secret
    #[arg(long, value_name = "VARIABLE")]
    secret_env: Option<String>,
}

impl Add {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let secret = file::secret(self.secret_file.as_deref(), self.secret_env.as_deref())?;
        if secret.is_none() && self.handler.is_none() {
            let message =
                "no secret: give --secret-file FILE (- for stdin) or --secret-env VARIABLE";
            return Err(Trouble::usage(message).into());
        }
        let spec = SecretSpec {
            handler: self.handler,
            secret,
        };
        let added: SecretRow = reach
            .call(Method::POST, &path(&self.hook), Some(&spec))
            .await?;
        let mut facts = vec![("added", whose(&self.hook, &added))];
        if let Some(secret) = &added.secret {
            facts.push(("secret", format!("{secret}   shown this once")));
        }
        facts.push(("next", format!("hooklane hooks secrets list {}", self.hook)));
        out.facts(&facts)?;
        out.object(&added)?;
        Ok(Exit::Done)
    }
}

fn whose(hook: &Name, row: &SecretRow) -> String {
    let id = row.id.as_deref().unwrap_or("-");
    match &row.handler {
        Some(handler) => format!("{id}   signs the deliveries of {hook} to {handler}"),
        None => format!("{id}   verifies the senders of {hook}"),
    }
}

/// List the secrets of a hook, the newest first; their texts are not shown
///
/// Examples:
///   hooklane hooks secrets list pay
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct All {
    /// The hook
    hook: Name,
    #[command(flatten)]
    columns: Columns,
}

impl All {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let secrets: List<SecretRow> = reach.get(&path(&self.hook)).await?;
        out.list(&secrets, self.columns)?;
        if secrets.items.iter().any(|row| !row.usable) {
            out.foot(format_args!(
                "the key of this node does not decrypt all of them: hooklane doctor"
            ))?;
        }
        for unused in secrets.items.iter().filter_map(|row| row.unused.as_ref()) {
            let (told, helps) = (printable_line(&unused.told), printable_line(&unused.helps));
            out.foot(format_args!("{told}. Next: {helps}"))?;
        }
        Ok(Exit::Done)
    }
}

impl Row for SecretRow {
    const HEADER: &'static [&'static str] =
        &["SECRET", "USE", "STATE", "LAST USED", "KEY", "ADDED"];
    const DROPS: &'static [&'static str] = &["KEY", "ADDED"];

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            or_dash(self.id.clone()),
            match &self.handler {
                Some(handler) => format!("signs for {handler}"),
                None => "verifies senders".to_owned(),
            },
            match (self.usable, &self.id) {
                (true, Some(_)) if self.unused.is_some() => "unused".to_owned(),
                (true, Some(_)) => "in force".to_owned(),
                (true, None) => "plain text".to_owned(),
                (false, _) => "locked".to_owned(),
            },
            match (self.last_used_at, &self.handler) {
                (Some(at), _) => format!("{} ago", duration(Timestamp::now().since(at))),
                (None, None) => "never".to_owned(),
                (None, Some(_)) => "-".to_owned(),
            },
            or_dash(self.key.clone()),
            or_dash(self.added_at.map(|at| at.to_string())),
        ]
    }

    fn name(&self) -> String {
        self.id.clone().unwrap_or_default()
    }
}

/// Remove a secret: what was signed with it is rejected from then on
///
/// Examples:
///   hooklane hooks secrets remove pay 1f2e3d4c
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Remove {
    /// The hook
    hook: Name,
    /// The secret, as `hooks secrets list` names it
    secret: String,
}

impl Remove {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let id = super::super::reach::encoded(&self.secret);
        let path = format!("{}/{id}", path(&self.hook));
        let removed: SecretRow = reach.call(Method::DELETE, &path, None::<&()>).await?;
        out.say(format_args!("removed  {}", whose(&self.hook, &removed)))?;
        out.object(&removed)?;
        Ok(Exit::Done)
    }
}
