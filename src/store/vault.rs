//! The key that encrypts secrets. It is in a file beside the SQLite database, created for the first
//! secret, or in a file given to each node. It is never in the database, so a copy of the database
//! reveals no secret.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::Error;
use crate::domain::seal::{SealKey, Sealed};
use crate::domain::secret::{InvalidSecret, Secret, Secrets};
use crate::domain::time::Timestamp;

/// Name of the key file beside the database.
pub const KEY_FILE: &str = "hooklane.key";

/// Encrypts and decrypts secrets, if it has a key.
#[derive(Debug, Default)]
pub struct Vault {
    file: Option<PathBuf>,
    may_make: bool,
    key: OnceLock<SealKey>,
}

impl Vault {
    /// A vault with the key file beside `database`, which is created when it is first needed.
    ///
    /// # Errors
    /// [`Error::Refused`] if the file exists but has no valid key.
    pub fn beside(database: &Path) -> Result<Self, Error> {
        let vault = Self {
            file: Some(database.with_file_name(KEY_FILE)),
            may_make: true,
            key: OnceLock::new(),
        };
        match vault.load() {
            Err(Trouble::Absent) => Ok(vault),
            loaded => loaded.map(|()| vault).map_err(Error::from),
        }
    }

    /// A vault with a key file that must exist.
    ///
    /// # Errors
    /// [`Error::Refused`] if the file is missing or has no valid key.
    pub fn with_file(file: &Path) -> Result<Self, Error> {
        let vault = Self {
            file: Some(file.to_owned()),
            may_make: false,
            key: OnceLock::new(),
        };
        vault.load()?;
        Ok(vault)
    }

    /// Path of the key file, which may not exist yet.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Id of the key; `None` before there is one.
    pub fn key_id(&self) -> Option<String> {
        self.key.get().map(SealKey::id)
    }

    /// True if secrets can be encrypted: a key exists or can be created.
    pub fn can_seal(&self) -> bool {
        self.may_make || self.key.get().is_some()
    }

    /// Ensures that there is a key.
    ///
    /// # Errors
    /// [`Error::Refused`] with the next step for an operator.
    pub fn prepare(&self) -> Result<(), Error> {
        self.key().map(drop)
    }

    /// Encodes secrets for the database. Secrets that cannot be decrypted here keep their encrypted
    /// form.
    ///
    /// # Errors
    /// [`Error::Refused`] if a new secret cannot be encrypted.
    pub fn write(&self, secrets: &Secrets, at: Timestamp) -> Result<String, Error> {
        let mut texts = Vec::new();
        for secret in &secrets.open {
            texts.push(match secret.sealed() {
                Some(sealed) => sealed.clone(),
                None => self.key()?.seal(secret.expose(), at),
            });
        }
        texts.extend(secrets.locked.iter().cloned());
        let texts: Vec<_> = texts.iter().map(Sealed::as_str).collect();
        Ok(serde_json::to_string(&texts).unwrap_or_default())
    }

    /// Decodes secrets that [`Self::write`] or, in plain text, an earlier hooklane has stored; `None`
    /// for any other text.
    pub fn read(
        &self,
        text: &str,
        parse: impl Fn(&str) -> Result<Secret, InvalidSecret>,
    ) -> Option<Secrets> {
        let mut secrets = Secrets::default();
        let texts: Vec<String> = serde_json::from_str(text).ok()?;
        for text in texts {
            let Ok(sealed) = text.parse::<Sealed>() else {
                secrets.open.push(parse(&text).ok()?);
                continue;
            };
            let opened = self.key.get().and_then(|key| key.open(&sealed));
            match opened.and_then(|text| parse(&text).ok()) {
                Some(secret) => secrets.open.push(secret.with_sealed(sealed)),
                None => secrets.locked.push(sealed),
            }
        }
        Some(secrets)
    }

    fn key(&self) -> Result<&SealKey, Error> {
        if let Some(key) = self.key.get() {
            return Ok(key);
        }
        let Some(file) = self.file.as_deref().filter(|_| self.may_make) else {
            return Err(Error::Refused(
                "there is no key to encrypt secrets with. Make one, head -c 32 /dev/urandom | base64 > FILE, and start \
                 each node with --secret-key-file FILE or HOOKLANE_SECRET_KEY_FILE"
                    .to_owned(),
            ));
        };
        match make(file, &SealKey::generate()) {
            Ok(()) => {}
            // Another process created the file first; its key is loaded below.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                let file = file.display();
                return Err(Error::Refused(format!(
                    "the secret key {file} cannot be made: {error}"
                )));
            }
        }
        self.load()?;
        self.key.get().ok_or(Error::Closed)
    }

    fn load(&self) -> Result<(), Trouble> {
        let file = self.file.as_deref().ok_or(Trouble::Absent)?;
        let shown = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| match error.kind() {
            ErrorKind::NotFound if self.may_make => Trouble::Absent,
            _ => Trouble::Unfit(format!("the secret key {shown} cannot be read: {error}")),
        })?;
        let key = text.parse().map_err(|error| {
            Trouble::Unfit(format!(
                "the secret key {shown} is damaged: {error}. Restore it from a backup; or move it away, start, and give \
                 the secrets again with hooklane hooks secrets add"
            ))
        })?;
        let _ = self.key.set(key);
        Ok(())
    }
}

/// The hooks with secrets, of their senders or their handlers.
pub(super) const SECRETS: &str = "select name, secrets from hooks
    where deleted_at is null and secrets is not null
    union all select h.name, c.secrets from handlers c join hooks h on h.id = c.hook
    where h.deleted_at is null and c.deleted_at is null and c.secrets is not null";

/// The hooks in rows of [`SECRETS`], each with the ids of the keys that encrypted its secrets.
pub(super) fn sealed_with(rows: Vec<(String, String)>) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (hook, secrets) in rows {
        let texts: Vec<String> = serde_json::from_str(&secrets).unwrap_or_default();
        for sealed in texts.iter().filter_map(|text| text.parse::<Sealed>().ok()) {
            found.insert((hook.clone(), sealed.key_id().to_owned()));
        }
    }
    found
}

/// Cause for which no key was loaded.
enum Trouble {
    Absent,
    Unfit(String),
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        Self::Refused(match trouble {
            Trouble::Absent => "the secret key is not there".to_owned(),
            Trouble::Unfit(why) => why,
        })
    }
}

/// Writes a key into a new file with mode 0600, atomically and durably.
fn make(file: &Path, key: &SealKey) -> std::io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    writeln!(new, "{}", key.expose())?;
    new.as_file().sync_all()?;
    new.persist_noclobber(file)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn read(vault: &Vault, text: &str) -> Secrets {
        vault.read(text, Secret::of_sender).unwrap()
    }

    #[test]
    fn the_key_is_made_when_it_is_needed_and_a_lost_one_locks_the_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("hooklane.db");
        let file = dir.path().join(KEY_FILE);
        let vault = Vault::beside(&database).unwrap();
        assert!(!file.exists());
        let at = Timestamp::from_millis(1);
        let secrets = Secrets::one(Secret::of_sender("hunter2").unwrap());
        let text = vault.write(&secrets, at).unwrap();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!text.contains("hunter2"));

        let again = Vault::beside(&database).unwrap();
        assert_eq!(read(&again, &text), secrets);
        assert_eq!(
            again.write(&read(&again, &text), at).unwrap(),
            text,
            "sealed once"
        );

        std::fs::remove_file(&file).unwrap();
        let lost = Vault::beside(&database).unwrap();
        let locked = read(&lost, &text);
        assert!(locked.is_locked());
        let more = locked.with(Secret::of_sender("new").unwrap());
        let text = lost.write(&more, at).unwrap();
        assert_eq!(read(&lost, &text).open[0].expose(), "new");
        assert_eq!(
            read(&lost, &text).locked,
            locked.locked,
            "kept for the day when the key is found"
        );
    }

    #[test]
    fn plain_text_of_an_earlier_hooklane_is_read_and_written_encrypted() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::beside(&dir.path().join("hooklane.db")).unwrap();
        let secret = Secret::generate();
        let plain = format!("[\"{}\"]", secret.expose());
        let secrets = vault.read(&plain, str::parse).unwrap();
        assert_eq!(secrets.open, std::slice::from_ref(&secret));
        let text = vault.write(&secrets, Timestamp::default()).unwrap();
        assert!(!text.contains(secret.expose()));
        assert_eq!(vault.read(&text, str::parse).unwrap(), secrets);
        for wrong in ["{}", "[\"x\"]"] {
            assert_eq!(vault.read(wrong, str::parse), None);
        }
    }

    #[test]
    fn a_damaged_key_and_one_that_is_not_there_are_refused_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(KEY_FILE);
        let told = Vault::with_file(&file).unwrap_err().to_string();
        assert!(told.contains("cannot be read"), "{told}");
        std::fs::write(&file, "not a key").unwrap();
        let told = Vault::beside(&dir.path().join("x.db"))
            .unwrap_err()
            .to_string();
        assert!(told.contains("Restore it from a backup"), "{told}");
        let told = Vault::default().prepare().unwrap_err().to_string();
        assert!(told.contains("HOOKLANE_SECRET_KEY_FILE"), "{told}");
    }
}
