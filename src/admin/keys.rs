//! Access keys. A key's text is returned only when it is created.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;

use super::{Admin, Error};
use crate::api;
use crate::domain::hook::HookId;
use crate::domain::key::{self, Key, KeyId, Kind, Scope};
use crate::domain::name::Name;
use crate::domain::rate::{Limit, RATE_MAX};
use crate::domain::time::Timestamp;
use crate::store::LastUse;

impl Admin {
    /// Every key, oldest first.
    pub async fn keys(&self) -> Result<Vec<api::Key>, Error> {
        let hooks = self.store.hooks().await?;
        let names: HashMap<HookId, Name> = hooks.into_iter().map(|h| (h.id, h.name)).collect();
        let keys = self.store.keys().await?.into_iter();
        let last_use = |key: &Key, stored: Option<LastUse>| {
            let engine = self.engine.as_ref();
            let here = engine.and_then(|engine| engine.catalog.last_use(key.number));
            stored.into_iter().chain(here).max_by_key(|last| last.at)
        };
        let keys = keys.map(|(key, stored)| {
            let used = last_use(&key, stored);
            shown(&key, used, &names)
        });
        Ok(keys.collect())
    }

    /// Creates a key for the operator `by`. Only this answer contains its text.
    ///
    /// # Errors
    /// [`Error::Missing`] hook; [`Error::Invalid`] for an admin key of one hook, and for a rate of a
    /// key that cannot write.
    pub async fn create_key(&self, spec: &api::KeySpec, by: &str) -> Result<api::NewKey, Error> {
        let scope = match (&spec.hook, spec.kind) {
            (None, _) => Scope::All,
            (Some(_), Kind::Admin) => {
                return Err(Error::Invalid("an admin key takes no hook".into()));
            }
            (Some(hook), _) => Scope::Hook(self.hook(hook).await?.id),
        };
        let limit = limit(spec)?;
        let now = Timestamp::now();
        let minted = key::mint(spec.kind);
        let expires_in = spec.expires_in_ms.map(Duration::from_millis);
        let key = Key {
            number: 0,
            id: minted.id,
            name: spec.name.clone(),
            kind: spec.kind,
            scope,
            consume: self.consumed(spec).await?,
            limit,
            hash: minted.hash,
            created_at: now,
            created_by: Some(by.to_owned()),
            expires_at: expires_in.map(|duration| now.after(duration)),
            revoked_at: None,
        };
        self.store
            .amend_note(|note| note.subject = key.id.to_string());
        self.store.tell_note(
            json!({"name": key.name, "kind": key.kind, "hook": spec.hook,
            "expires_at": key.expires_at}),
        );
        self.store.create_key(&key).await?;
        self.changed().await?;
        Ok(api::NewKey {
            text: minted.text,
            facts: self.key(key.id).await?,
        })
    }

    /// Revokes a key for good.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub async fn revoke_key(&self, id: KeyId) -> Result<api::Key, Error> {
        let key = self.key(id).await?;
        self.store.tell_note(json!({"name": key.name}));
        if !self.store.revoke_key(id, Timestamp::now()).await? {
            return Err(Error::missing("key", id));
        }
        self.changed().await?;
        self.key(id).await
    }

    /// The pull handler that a key may consume, which must exist.
    async fn consumed(&self, spec: &api::KeySpec) -> Result<Option<Name>, Error> {
        let Some(handler) = &spec.consume else {
            return Ok(None);
        };
        let (Kind::Read, Some(hook)) = (spec.kind, &spec.hook) else {
            return Err(Error::Invalid(
                "only a read key of one hook may consume: --type read --hook NAME".into(),
            ));
        };
        let hook = self.hook(hook).await?;
        let pulls = hook.handlers.iter().filter(|of| of.pull().is_some());
        let mut names = pulls.map(|of| of.name.as_str());
        match names.clone().any(|name| name == handler.as_str()) {
            true => Ok(Some(handler.clone())),
            false => Err(Error::missing_like(
                "pull handler",
                handler.as_str(),
                names.by_ref(),
            )),
        }
    }

    async fn key(&self, id: KeyId) -> Result<api::Key, Error> {
        let keys = self.keys().await?;
        keys.into_iter()
            .find(|key| key.id == id)
            .ok_or_else(|| Error::missing("key", id))
    }
}

/// The request limit of a new key.
fn limit(spec: &api::KeySpec) -> Result<Option<Limit>, Error> {
    let wrong = |message: &str| Err(Error::Invalid(message.to_owned()));
    match (spec.rate, spec.burst) {
        (None, None) => Ok(None),
        (None, Some(_)) => wrong("a burst needs a rate"),
        (Some(_), _) if spec.kind != Kind::Write => wrong("only a write key takes a rate"),
        (Some(rate), burst) => match burst.unwrap_or(rate.requests()) {
            burst @ 1..=RATE_MAX => Ok(Some(Limit { rate, burst })),
            burst => wrong(&format!("a burst is 1 to {RATE_MAX}, got {burst}")),
        },
    }
}

fn shown(key: &Key, used: Option<LastUse>, hooks: &HashMap<HookId, Name>) -> api::Key {
    let now = Timestamp::now();
    let hook = match key.scope {
        Scope::Hook(hook) => Some(hooks.get(&hook)),
        Scope::All => None,
    };
    // The key of a deleted hook is useless, because the hook's number is never reused.
    let is_orphan = hook == Some(None);
    let (last_used_at, last_used_from) = used.map(|last| (last.at, last.from)).unzip();
    api::Key {
        id: key.id,
        name: key.name.clone(),
        kind: key.kind,
        hook: hook.flatten().cloned(),
        consume: key.consume.clone(),
        created_at: key.created_at,
        created_by: key.created_by.clone(),
        last_used_at,
        last_used_from,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
        rate: key.limit.map(|limit| limit.rate),
        burst: key.limit.map(|limit| limit.burst),
        state: match key.is_live(now) {
            _ if is_orphan || key.revoked_at.is_some() => api::KeyState::Revoked,
            true => api::KeyState::Ok,
            false => api::KeyState::Expired,
        },
    }
}
