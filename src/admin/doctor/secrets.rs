//! Check of the hooks' secrets: they are encrypted, this node's key decrypts them, and senders use them.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Surroundings;
use crate::admin::{Admin, Error};
use crate::api::{Check, UnusedSecret};
use crate::store::{Database, Vault};
use crate::text::counted;

/// Number of hooks named in a line at most.
const NAMED_MAX: usize = 3;

impl Admin {
    /// Checks the secrets of hooks and handlers, and the key that encrypts them. There is no result if
    /// there are no secrets.
    pub(super) async fn secrets_check(&self) -> Result<Vec<Check>, Error> {
        let (locked, plain) = self.unfit_secrets().await?;
        let vault = self.store.vault();
        let key = vault.key_id();
        let mut checks = Vec::new();
        if !locked.is_empty() {
            let what = match &key {
                Some(key) => format!("the key {key} of this node does not decrypt the secrets of"),
                None => "this node has no key to decrypt the secrets of".to_owned(),
            };
            let first = &locked[0];
            let hook = first.split(' ').next().unwrap_or(first);
            checks.push(Check::fail(
                "secrets",
                format!("{what} {}", named(&locked)),
                format!(
                    "restore the key, in {}, and start again; or give each secret again: hooklane hooks secrets add {hook}",
                    file(vault.file())
                ),
            ));
        }
        if !plain.is_empty() {
            checks.push(Check::warn(
                "secrets",
                format!("in plain text in the database: those of {}", named(&plain)),
                "start each node with --secret-key-file FILE: they are encrypted then",
            ));
        }
        let is_open =
            |file: &Path| std::fs::metadata(file).is_ok_and(|meta| meta.mode() & 0o077 != 0);
        if let Some(file) = vault.file().filter(|file| is_open(file)) {
            let shown = file.display();
            checks.push(Check::warn(
                "secrets",
                format!("others on this machine can read the key in {shown}"),
                format!("chmod 600 {shown}"),
            ));
        }
        if let (Some(key), true) = (key, checks.is_empty()) {
            let text = format!(
                "encrypted with the key {key} in {}; keep a copy of it",
                file(vault.file())
            );
            checks.push(Check::ok("secrets", text));
        }
        checks.extend(unused(self.all_unused_secrets().await?));
        Ok(checks)
    }
}

/// Names the secrets that verify nothing, each in a line of its own up to [`NAMED_MAX`].
fn unused(found: Vec<UnusedSecret>) -> Vec<Check> {
    let more = found.len().saturating_sub(NAMED_MAX);
    let named = found.into_iter().take(NAMED_MAX);
    let mut checks: Vec<_> = named
        .map(|one| Check::warn("secrets", one.told, one.helps))
        .collect();
    if more > 0 {
        let others = counted(more as u64, "other secret verifies", "other secrets verify");
        let text = format!("{others} nothing");
        checks.push(Check::warn(
            "secrets",
            text,
            "hooklane hooks secrets list HOOK",
        ));
    }
    checks
}

/// Checks the key file against the encrypted secrets of a database, before a node starts: `sealed` are the
/// hooks, each with the id of a key. There is no result where there is neither a key nor a secret.
pub(super) fn key_check(
    around: &Surroundings,
    sealed: &BTreeSet<(String, String)>,
) -> Option<Check> {
    let vault = match (&around.secret_key, &around.database) {
        (Some(file), _) => Vault::with_file(file),
        (None, Database::Sqlite(path)) => Vault::beside(path),
        (None, Database::Postgres(_)) => Ok(Vault::default()),
    };
    let vault = match vault {
        Ok(vault) => vault,
        Err(error) => return Some(unfit_key(&error.to_string())),
    };
    let key = vault.key_id();
    let shown = file(vault.file());
    let lost = |(_, sealer): &&(String, String)| key.as_ref() != Some(sealer);
    let mut hooks: Vec<_> = sealed
        .iter()
        .filter(lost)
        .map(|(hook, _)| hook.clone())
        .collect();
    hooks.dedup();
    let Some(first) = hooks.first() else {
        let text = |key| format!("encrypted with the key {key} in {shown}; keep a copy of it");
        return key.map(|key| Check::ok("secrets", text(key)));
    };
    let sealers: BTreeSet<_> = sealed
        .iter()
        .filter(lost)
        .map(|(_, sealer)| &**sealer)
        .collect();
    let sealers = sealers.into_iter().collect::<Vec<_>>().join(", ");
    let hooks_named = named(&hooks);
    let text = match key {
        Some(key) => {
            format!("the key {key} in {shown} does not decrypt the secrets of {hooks_named}")
        }
        None => format!("no key to decrypt the secrets of {hooks_named} with: {shown}"),
    };
    let remedy = format!(
        "restore the key {sealers} there before the start; or start, and give each secret again: hooklane hooks secrets add {first}"
    );
    Some(Check::fail("secrets", text, remedy))
}

/// A key file that keeps a node from starting.
fn unfit_key(error: &str) -> Check {
    match error.split_once(". ") {
        Some((text, remedy)) => Check::fail("secrets", text, remedy),
        None => Check::fail(
            "secrets",
            error,
            "restore it from a backup, or name another: --secret-key-file FILE",
        ),
    }
}

fn file(file: Option<&Path>) -> String {
    file.map_or_else(
        || "--secret-key-file FILE".to_owned(),
        |file| file.display().to_string(),
    )
}

fn named(hooks: &[String]) -> String {
    let names = hooks
        .iter()
        .take(NAMED_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match hooks.len().saturating_sub(NAMED_MAX) {
        0 => names,
        more => format!("{names} and {}", counted(more as u64, "other", "others")),
    }
}
