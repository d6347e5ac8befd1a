//! Secrets that verify nothing: one left behind by a rotation, or one that the sender does not have yet.

use std::time::Duration;

use super::{Admin, Error};
use crate::api::UnusedSecret;
use crate::domain::hook::Hook;
use crate::domain::name::Name;
use crate::domain::time::Timestamp;
use crate::store::SecretUse;
use crate::text::duration;

/// Time without a use after which a secret is named. Its hook must have accepted a request at the end of
/// this time, so a hook whose sender is silent has no unused secret.
const UNUSED_AFTER: Duration = Duration::from_secs(24 * 3_600);

impl Admin {
    /// Uses of the verifying secrets of one hook or of all. Those of other nodes may be a minute old.
    pub(super) async fn secret_uses(&self, hook: Option<&Hook>) -> Result<Vec<SecretUse>, Error> {
        if let Some(engine) = &self.engine {
            engine.senders.secret_uses.store(&engine.store).await?;
        }
        Ok(self.store.secret_uses(hook.map(|hook| hook.id)).await?)
    }

    /// Secrets of a hook that verify nothing.
    pub(super) async fn unused_secrets(&self, hook: &Hook) -> Result<Vec<UnusedSecret>, Error> {
        match may_have_unused(hook) {
            true => Ok(unused(
                hook,
                &self.secret_uses(Some(hook)).await?,
                Timestamp::now(),
            )),
            false => Ok(Vec::new()),
        }
    }

    /// Secrets of all hooks that verify nothing.
    pub(super) async fn all_unused_secrets(&self) -> Result<Vec<UnusedSecret>, Error> {
        let mut hooks = self.store.hooks().await?;
        hooks.retain(may_have_unused);
        if hooks.is_empty() {
            return Ok(Vec::new());
        }
        let (uses, now) = (self.secret_uses(None).await?, Timestamp::now());
        let found = hooks.iter().flat_map(|hook| unused(hook, &uses, now));
        Ok(found.collect())
    }
}

/// True if a hook has two secrets. The only one is not named, because without it the hook would accept
/// nothing.
fn may_have_unused(hook: &Hook) -> bool {
    let secrets = hook.verify.as_ref().map(|verify| verify.secrets.ids());
    secrets.is_some_and(|secrets| secrets.count() > 1)
}

/// The secrets of a hook that verify nothing; `uses` may contain those of other hooks.
pub(super) fn unused(hook: &Hook, uses: &[SecretUse], now: Timestamp) -> Vec<UnusedSecret> {
    let given = hook.verify.iter().flat_map(|verify| verify.secrets.ids());
    let given: Vec<_> = given.collect();
    let uses: Vec<_> = uses.iter().filter(|one| one.hook == hook.id).collect();
    judge(&hook.name, &given, &uses, now)
}

/// The secrets that verify nothing among those given, each with its time.
fn judge(
    hook: &Name,
    given: &[(&str, Timestamp)],
    uses: &[&SecretUse],
    now: Timestamp,
) -> Vec<UnusedSecret> {
    let used = |id: &str| uses.iter().find(|one| one.secret == id);
    let verdict = |&(id, given_at): &(&str, Timestamp)| {
        let others = given.iter().filter(|(other, _)| *other != id);
        let others = others.filter_map(|(other, at)| Some((used(other)?, *at)));
        let (other, other_given_at) = others.max_by_key(|(other, _)| other.last_at)?;
        let last = used(id).map(|own| own.last_at);
        // Uses before an upgrade were not recorded, so a secret without one is judged from the first use
        // of the other.
        let since = last.unwrap_or(given_at.max(other.first_at));
        let is_unused = other.last_at.since(since) >= UNUSED_AFTER;
        let is_old = given_at <= other_given_at;
        is_unused.then(|| told(hook, (id, last), (&other.secret, is_old), now))
    };
    given.iter().filter_map(verdict).collect()
}

/// Sentences for a secret without use. `is_old`: it was given before the one that is used.
fn told(
    hook: &Name,
    (id, last): (&str, Option<Timestamp>),
    (used, is_old): (&str, bool),
    now: Timestamp,
) -> UnusedSecret {
    let told = match last {
        Some(last) => {
            let ago = duration(now.since(last));
            format!(
                "secret {id} of hook {hook} verified its last request {ago} ago; the sender signs with {used}"
            )
        }
        None => format!(
            "secret {id} of hook {hook} has verified no request; the sender signs with {used}"
        ),
    };
    let remove = format!("hooklane hooks secrets remove {hook} {id}");
    UnusedSecret {
        secret: id.to_owned(),
        told,
        helps: match is_old {
            true => remove,
            false => format!("give it to the sender; or: {remove}"),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::hook::HookId;

    const HOUR: i64 = 3_600_000;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_millis(hour * HOUR)
    }

    fn used(id: &str, first: i64, last: i64) -> SecretUse {
        SecretUse {
            hook: HookId(7),
            secret: id.to_owned(),
            first_at: at(first),
            last_at: at(last),
        }
    }

    /// The finding and the next step for each unused secret at hour 1000. `new` was given at hour 100,
    /// `old` at hour 10.
    fn found(uses: &[SecretUse]) -> Vec<(String, String)> {
        let given = [("new", at(100)), ("old", at(10))];
        let uses: Vec<_> = uses.iter().collect();
        let found = judge(&"pay".parse().unwrap(), &given, &uses, at(1_000));
        found.into_iter().map(|one| (one.told, one.helps)).collect()
    }

    #[test]
    fn a_secret_is_unused_after_a_day_of_requests_with_the_other_one() {
        let left = [used("new", 101, 200), used("old", 11, 176)];
        let told =
            "secret old of hook pay verified its last request 34d08 ago; the sender signs with new";
        let helps = "hooklane hooks secrets remove pay old";
        assert_eq!(found(&left), [(told.to_owned(), helps.to_owned())]);
        assert_eq!(found(&[used("new", 101, 200), used("old", 11, 177)]), []);

        let told = "secret new of hook pay has verified no request; the sender signs with old";
        let helps = "give it to the sender; or: hooklane hooks secrets remove pay new";
        let early = found(&[used("old", 11, 124)]);
        assert_eq!(early, [(told.to_owned(), helps.to_owned())]);
        assert_eq!(found(&[used("old", 11, 123)]), []);
    }

    #[test]
    fn a_silent_sender_and_uses_that_were_not_recorded_name_nothing() {
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[used("new", 101, 102), used("old", 11, 90)]), []);
        assert_eq!(
            found(&[used("new", 500, 510)]),
            [],
            "recorded since hour 500"
        );
    }
}
