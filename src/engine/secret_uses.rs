//! Uses of verifying secrets on this node since they were last stored: the first and the latest request
//! of each secret. A node that is killed forgets the last minute, which is short against the day after
//! which an unused secret is named.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::domain::hook::HookId;
use crate::domain::time::Timestamp;
use crate::store::{Error, SecretUse, Store};

/// Uses not yet stored; a hook has as many entries as secrets.
#[derive(Debug, Default)]
pub struct SecretUses {
    uses: Mutex<BTreeMap<HookId, Vec<SecretUse>>>,
}

impl SecretUses {
    /// Records that a secret has verified a request.
    pub fn note(&self, hook: HookId, secret: &str, at: Timestamp) {
        let mut uses = self.uses.lock();
        let of_hook = uses.entry(hook).or_default();
        match of_hook.iter_mut().find(|there| there.secret == secret) {
            Some(there) => there.last_at = there.last_at.max(at),
            None => of_hook.push(SecretUse {
                hook,
                secret: secret.to_owned(),
                first_at: at,
                last_at: at,
            }),
        }
    }

    /// Stores the recorded uses. After an error they stay recorded for the next call.
    pub async fn store(&self, store: &Store) -> Result<(), Error> {
        let taken = std::mem::take(&mut *self.uses.lock());
        let mut taken: Vec<_> = taken.into_values().flatten().collect();
        if taken.is_empty() {
            return Ok(());
        }
        taken.sort_by(|a, b| (a.hook, &a.secret).cmp(&(b.hook, &b.secret)));
        let stored = store.add_secret_uses(&taken).await;
        if stored.is_err() {
            for one in taken {
                self.note(one.hook, &one.secret, one.first_at);
                self.note(one.hook, &one.secret, one.last_at);
            }
        }
        stored
    }
}
