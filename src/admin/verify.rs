//! Verification of senders: checks and plans of settings, secrets, and reasons of rejections.

use std::time::Duration;

use super::{Admin, Error, unused};
use crate::api::{self, SecretRow, SecretSpec, VerifySpec};
use crate::domain::hook::{Hook, Work};
use crate::domain::name::Name;
use crate::domain::seal::Sealed;
use crate::domain::secret::{SECRETS_MAX, Secret, Secrets};
use crate::domain::time::{Timestamp, millis};
use crate::domain::verify::diagnosis::{Diagnosis, Reason};
use crate::domain::verify::{TOLERANCE_MAX, Verify};
use crate::store::{HookPlan, Rejection, Store};
use crate::text::duration;

/// Checks that the settings fit together.
///
/// # Errors
/// [`Error::Invalid`] says what to give instead.
pub fn check(spec: Option<&VerifySpec>) -> Result<(), Error> {
    let Some(spec) = spec else {
        return Ok(());
    };
    let scheme = &spec.scheme;
    let tolerance = Duration::from_millis(spec.tolerance_ms);
    if tolerance.is_zero() || tolerance > TOLERANCE_MAX {
        return Err(Error::Invalid("a tolerance is 1ms to 24h".into()));
    }
    match &spec.public_url {
        None if scheme.signs_url() => Err(Error::Invalid(format!(
            "{scheme} signs the URL: give --public-url with the one that it has, such as https://example.com/in/pay"
        ))),
        Some(url) if !is_url(url) => Err(Error::Invalid(format!(
            "{url:?} is not a URL such as https://example.com/in/pay"
        ))),
        _ => secret(spec).map(drop),
    }
}

/// Checks that a hook can answer its handshake safely.
///
/// # Errors
/// [`Error::Invalid`] says what to give instead.
pub fn check_handshake(spec: &api::HookSpec) -> Result<(), Error> {
    let scheme = spec.verify.as_ref().map(|verify| &verify.scheme);
    let fits = spec.handshake.map(|handshake| handshake.fits(scheme));
    fits.unwrap_or(Ok(()))
        .map_err(|what| Error::Invalid(what.into()))
}

fn is_url(text: &str) -> bool {
    let has_scheme = text.starts_with("https://") || text.starts_with("http://");
    let is_plain = text.len() <= 1_000 && text.bytes().all(|byte| byte.is_ascii_graphic());
    has_scheme && is_plain
}

fn secret(spec: &VerifySpec) -> Result<Option<Secret>, Error> {
    let Some(text) = &spec.secret else {
        return Ok(None);
    };
    let secret = Secret::of_sender(text).map_err(|error| Error::Invalid(error.to_string()))?;
    let fits = spec.scheme.fits(&secret);
    fits.map_err(|what| Error::Invalid(what.into()))?;
    Ok(Some(secret))
}

/// Plans the verification of a hook; `there` is the existing hook, if any.
///
/// # Errors
/// [`Error::Invalid`] if the hook would have no secret.
pub fn plan(spec: Option<&VerifySpec>, there: Option<&Hook>) -> Result<Option<Verify>, Error> {
    let Some(spec) = spec else {
        return Ok(None);
    };
    let before = there.and_then(|hook| hook.verify.as_ref());
    // Secrets of another scheme are dropped.
    let before = before.filter(|before| before.scheme == spec.scheme);
    let kept = before.map(|before| before.secrets.clone());
    let secrets = match (kept, secret(spec)?) {
        (Some(kept), Some(new)) => kept.with(new),
        (Some(kept), None) => kept,
        (None, Some(new)) => Secrets::one(new),
        (None, None) => {
            return Err(Error::Invalid(format!(
                "{} needs the secret that the sender signs with: --secret-file FILE or --secret-env NAME",
                spec.scheme
            )));
        }
    };
    Ok(Some(Verify {
        scheme: spec.scheme.clone(),
        tolerance: Duration::from_millis(spec.tolerance_ms),
        public_url: spec.public_url.clone(),
        secrets,
    }))
}

/// The verification settings of a hook, without secrets.
pub fn spec_of(hook: &Hook) -> Option<VerifySpec> {
    let verify = hook.verify.as_ref()?;
    Some(VerifySpec {
        tolerance_ms: millis(verify.tolerance).unsigned_abs(),
        public_url: verify.public_url.clone(),
        ..VerifySpec::new(verify.scheme.clone())
    })
}

/// Descriptions of the settings that differ.
pub fn differences(from: Option<&VerifySpec>, to: Option<&VerifySpec>) -> Vec<String> {
    let settings = |spec: Option<&VerifySpec>| {
        let of = |text: fn(&VerifySpec) -> String| spec.map_or_else(|| "none".into(), text);
        let tolerance = |ms: u64| duration(Duration::from_millis(ms));
        [
            (
                "verify",
                spec.map_or_else(|| "write key".into(), |spec| spec.scheme.to_string()),
            ),
            (
                "public_url",
                of(|spec| spec.public_url.clone().unwrap_or_else(|| "none".into())),
            ),
            (
                "tolerance",
                spec.map_or_else(|| "none".into(), |spec| tolerance(spec.tolerance_ms)),
            ),
        ]
    };
    let changed = settings(from).into_iter().zip(settings(to));
    let changed = changed.filter(|(old, new)| old != new);
    changed
        .map(|((field, old), (_, new))| format!("{field}: {old} -> {new}"))
        .collect()
}

/// True if a declaration contains a secret that the hook does not have.
pub fn brings_secret(spec: &api::HookSpec, there: &Hook) -> bool {
    let given = spec
        .verify
        .as_ref()
        .and_then(|verify| secret(verify).ok().flatten());
    let before = there.verify.as_ref().map(|verify| &verify.secrets.open);
    given.is_some_and(|given| before.is_some_and(|before| !before.contains(&given)))
}

/// Checks that the new secrets of a plan can be encrypted.
///
/// # Errors
/// [`Error::Invalid`] says what to do.
pub fn can_keep(store: &Store, plan: &HookPlan) -> Result<(), Error> {
    let of_forwards = plan.forwards.iter().map(|forward| &forward.secrets);
    let mut all = of_forwards.chain(plan.verify.as_ref().map(|verify| &verify.secrets));
    let is_new = |secrets: &Secrets| secrets.open.iter().any(|secret| secret.sealed().is_none());
    match all.any(is_new) {
        true => store
            .vault()
            .prepare()
            .map_err(|error| Error::Invalid(error.to_string())),
        false => Ok(()),
    }
}

impl Admin {
    /// The secrets of a hook and its forward handlers, without their texts.
    ///
    /// # Errors
    /// [`Error::Missing`] hook.
    pub async fn secrets(&self, name: &Name) -> Result<Vec<SecretRow>, Error> {
        let hook = self.hook(name).await?;
        let mut rows = rows(&hook);
        let uses = self.secret_uses(Some(&hook)).await?;
        let mut unused = unused::unused(&hook, &uses, Timestamp::now());
        for row in rows.iter_mut().filter(|row| row.handler.is_none()) {
            let id = row.id.as_deref().unwrap_or_default();
            let used = uses.iter().find(|one| one.secret == id);
            row.last_used_at = used.map(|one| one.last_at);
            let at = unused.iter().position(|one| one.secret == id);
            row.unused = at.map(|at| unused.swap_remove(at));
        }
        Ok(rows)
    }

    /// Adds a secret. Both it and the existing one are in force until one is removed.
    ///
    /// # Errors
    /// [`Error::Missing`] hook or handler; [`Error::Invalid`] secret; [`Error::Conflict`] if there are
    /// already two.
    pub async fn add_secret(&self, name: &Name, spec: &SecretSpec) -> Result<SecretRow, Error> {
        let hook = self.hook(name).await?;
        let mut plan = HookPlan::from(&hook);
        let (secrets, new) = match &spec.handler {
            Some(handler) => {
                let secrets = signing(&mut plan, handler)?;
                let given = spec.secret.as_deref().map(str::parse).transpose();
                let given = given.map_err(|error: crate::domain::secret::InvalidSecret| {
                    Error::Invalid(error.to_string())
                })?;
                (secrets, given.unwrap_or_else(Secret::generate))
            }
            None => {
                let verify = plan.verify.as_mut().ok_or_else(|| not_verifying(name))?;
                let text = spec.secret.as_deref().unwrap_or_default();
                let new = Secret::of_sender(text);
                let new = new.map_err(|error| Error::Invalid(error.to_string()))?;
                let fits = verify.scheme.fits(&new);
                fits.map_err(|what| Error::Invalid(what.into()))?;
                (&mut verify.secrets, new)
            }
        };
        if secrets.open.contains(&new) {
            return Err(Error::Conflict("this secret is there already".into()));
        }
        if secrets.open.len() >= SECRETS_MAX {
            return Err(Error::Conflict(format!(
                "two secrets are in force; remove one first: hooklane hooks secrets list {name}"
            )));
        }
        *secrets = secrets.with(new.clone());
        can_keep(&self.store, &plan)?;
        self.set_secrets(&hook, &plan).await?;
        let after = rows(&self.hook(name).await?);
        let mut added = after.into_iter().filter(|row| row.handler == spec.handler);
        let added = added.next().ok_or_else(|| Error::missing("hook", name))?;
        Ok(SecretRow {
            secret: spec.secret.is_none().then(|| new.expose().to_owned()),
            ..added
        })
    }

    /// Removes a secret by its id.
    ///
    /// # Errors
    /// [`Error::Missing`] hook or secret; [`Error::Conflict`] for the last secret in force.
    pub async fn remove_secret(&self, name: &Name, id: &str) -> Result<SecretRow, Error> {
        let hook = self.hook(name).await?;
        let mut rows = rows(&hook);
        let at = rows.iter().position(|row| row.id.as_deref() == Some(id));
        let Some(at) = at else {
            let there = rows.iter().filter_map(|row| row.id.as_deref());
            return Err(Error::missing_like("secret", id, there));
        };
        let row = rows.swap_remove(at);
        let mut plan = HookPlan::from(&hook);
        let secrets = match &row.handler {
            Some(handler) => signing(&mut plan, handler)?,
            None => {
                &mut plan
                    .verify
                    .as_mut()
                    .ok_or_else(|| not_verifying(name))?
                    .secrets
            }
        };
        let rest = secrets.without(id).unwrap_or_default();
        if row.usable && rest.open.is_empty() {
            let handler = row
                .handler
                .iter()
                .map(|handler| format!(" --handler {handler}"));
            let handler: String = handler.collect();
            return Err(Error::Conflict(format!(
                "it is the only secret in force; add the next one first: hooklane hooks secrets add {name}{handler}"
            )));
        }
        *secrets = rest;
        self.set_secrets(&hook, &plan).await?;
        Ok(row)
    }

    async fn set_secrets(&self, hook: &Hook, plan: &HookPlan) -> Result<(), Error> {
        if !self.store.edit_hook(hook, plan, Timestamp::now()).await? {
            return Err(Error::missing("hook", &hook.name));
        }
        self.changed().await
    }

    /// Rejections of a hook by reason, latest first.
    ///
    /// # Errors
    /// [`Error::Missing`] hook.
    pub async fn rejections(&self, name: &Name) -> Result<Vec<api::Rejection>, Error> {
        let hook = self.hook(name).await?;
        if let Some(engine) = &self.engine {
            engine.senders.rejections.store(&engine.store).await?;
        }
        let rejections = self.store.rejections(hook.id).await?;
        Ok(rejections.iter().map(|one| told(&hook, one)).collect())
    }

    /// Names of the hooks with secrets that cannot be decrypted, and of those with secrets in plain
    /// text.
    pub async fn unfit_secrets(&self) -> Result<(Vec<String>, Vec<String>), Error> {
        let hooks = self.store.hooks().await?;
        let all = hooks.iter().flat_map(|hook| {
            rows(hook).into_iter().map(|row| {
                let of = match &row.handler {
                    Some(handler) => format!("{} -> {handler}", hook.name),
                    None => hook.name.to_string(),
                };
                (of, row)
            })
        });
        let (mut locked, mut plain) = (Vec::new(), Vec::new());
        for (of, row) in all {
            if !row.usable {
                locked.push(of);
            } else if row.id.is_none() {
                plain.push(of);
            }
        }
        locked.dedup();
        plain.dedup();
        Ok((locked, plain))
    }
}

fn not_verifying(name: &Name) -> Error {
    Error::Invalid(format!(
        "hook {name} verifies no signatures: hooklane hooks edit {name} --verify SCHEME --secret-file FILE, or name a \
         forward handler with --handler"
    ))
}

fn signing<'p>(plan: &'p mut HookPlan, handler: &Name) -> Result<&'p mut Secrets, Error> {
    let mut forwards = plan.forwards.iter_mut();
    let found = forwards.find(|forward| forward.name == *handler);
    found
        .map(|forward| &mut forward.secrets)
        .ok_or_else(|| Error::missing("forward handler", handler))
}

/// Rows for the verifying secrets, then for those of each handler, newest first.
fn rows(hook: &Hook) -> Vec<SecretRow> {
    let of_sender = hook.verify.iter().map(|verify| (None, &verify.secrets));
    let of_handlers = hook
        .handlers
        .iter()
        .filter_map(|handler| match &handler.work {
            Work::Forward { secrets, .. } => Some((Some(handler.name.clone()), secrets)),
            Work::Reduce(_) | Work::Pull(_) => None,
        });
    let row = |handler: &Option<Name>, sealed: Option<&Sealed>, usable| SecretRow {
        id: sealed.map(|sealed| sealed.id().to_owned()),
        handler: handler.clone(),
        added_at: sealed.map(Sealed::at),
        usable,
        last_used_at: None,
        unused: None,
        key: sealed.map(|sealed| sealed.key_id().to_owned()),
        secret: None,
    };
    let mut rows = Vec::new();
    for (handler, secrets) in of_sender.chain(of_handlers) {
        rows.extend(
            secrets
                .open
                .iter()
                .map(|secret| row(&handler, secret.sealed(), true)),
        );
        rows.extend(
            secrets
                .locked
                .iter()
                .map(|sealed| row(&handler, Some(sealed), false)),
        );
    }
    rows
}

fn told(hook: &Hook, one: &Rejection) -> api::Rejection {
    let (told, helps) = sentence(hook, &one.diagnosis);
    api::Rejection {
        reason: one.diagnosis.reason.word().to_owned(),
        count: one.count.unsigned_abs(),
        first_at: one.first_at,
        last_at: one.last_at,
        told,
        helps,
        clock_ms: one.diagnosis.clock_ms,
        sample: serde_json::from_str(&one.sample).unwrap_or_default(),
    }
}

/// Sentences for the cause of the latest rejection and for the next step.
fn sentence(hook: &Hook, diagnosis: &Diagnosis) -> (String, String) {
    let name = &hook.name;
    let scheme = hook.verify.as_ref().map(|verify| verify.scheme.to_string());
    let scheme = scheme.unwrap_or_else(|| "its scheme".to_owned());
    let found = &diagnosis.found;
    match diagnosis.reason {
        Reason::Address => (
            format!("another address: {found} is not one from which this hook accepts requests"),
            format!("hooklane hooks edit {name} --allow-from CIDR, with all ranges of its senders; behind a proxy, hooklane serve --trust-proxy CIDR"),
        ),
        Reason::NoSignature => (
            format!("no signature: {found}"),
            format!("let {scheme} sign, or a proxy on the way pass its headers on; others may send too"),
        ),
        Reason::Malformed => (
            format!("a signature that cannot be read: {found}"),
            format!("see that the sender signs as {scheme} does: hooklane hooks show {name}"),
        ),
        Reason::WrongSecret => (
            "wrong secret, or the body was changed on the way: no secret of this hook makes the signature".to_owned(),
            format!("give the secret that the sender has: hooklane hooks secrets add {name} --secret-file FILE"),
        ),
        Reason::BodyChanged => (
            format!("the body was changed on the way: {found}"),
            "let the proxy in front pass bodies on byte for byte".to_owned(),
        ),
        Reason::OtherUrl => (
            format!("another URL: {found}"),
            format!("hooklane hooks edit {name} --public-url URL, with the URL that the sender has"),
        ),
        Reason::OtherHook => (
            format!("the key of another hook: {found}"),
            format!("let the sender post to that hook, or add its secret: hooklane hooks secrets add {name}"),
        ),
        Reason::Clock => {
            let ms = diagnosis.clock_ms.unwrap_or_default();
            let side = if ms < 0 { "behind" } else { "ahead of" };
            let off = duration(Duration::from_millis(ms.unsigned_abs()));
            (
                format!("clock off by {off}: the time in the signature is {side} ours, or an old request was sent again"),
                format!("compare clocks: hooklane doctor; or allow more: hooklane hooks edit {name} --tolerance 10m"),
            )
        }
        Reason::Locked => (
            "the secrets of this hook cannot be decrypted: the sender was asked to try again later".to_owned(),
            format!("restore the secret key, or add the secret again: hooklane hooks secrets add {name}"),
        ),
    }
}
