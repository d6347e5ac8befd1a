//! Check of the hooks' secrets: they are encrypted, and this node's key decrypts them.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::admin::{Admin, Error};
use crate::api::Check;
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
        Ok(checks)
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
