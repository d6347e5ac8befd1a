//! The dedupe key of a request, which identifies repeats of an event.

use std::borrow::Cow;

use http::HeaderMap;

use crate::domain::hook::{DedupeBy, Hook};
use crate::domain::name::kept;
use crate::domain::place::{self, Absent};

/// The dedupe key of a delivery, in its stored form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DedupeKey {
    /// Text of the key.
    pub text: String,
    /// True for `Idempotency-Key`, whose sender promises the same body under the same key. Providers
    /// make no such promise: they may sign or date a body anew on a redelivery.
    pub names_one_body: bool,
}

/// The dedupe key of a request; `None` if it has none. Precedence: the hook's own rule or else the
/// delivery id of the provider that it verifies, then `Idempotency-Key`, then `webhook-id`.
///
/// # Errors
/// A description of two different values for one key.
pub(super) fn dedupe_key(
    hook: &Hook,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<DedupeKey>, String> {
    let place = match &hook.dedupe_by {
        DedupeBy::Place(place) => Some(place.clone()),
        DedupeBy::Standard => hook
            .verify
            .as_ref()
            .and_then(|verify| verify.scheme.delivery_id()),
    };
    if let Some(place) = place
        && let Some(value) = one(place.find(headers, body))?
    {
        return Ok(Some(key(&value, false)));
    }
    for (name, names_one_body) in [("idempotency-key", true), ("webhook-id", false)] {
        if let Some(value) = one(place::header(headers, name))? {
            let value = unquoted(value);
            if !value.is_empty() {
                return Ok(Some(key(&value, names_one_body)));
            }
        }
    }
    Ok(None)
}

fn one<T>(found: Result<T, Absent>) -> Result<Option<T>, String> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(Absent::Nothing(_)) => Ok(None),
        Err(Absent::Several(why)) => Err(why),
    }
}

fn key(value: &[u8], names_one_body: bool) -> DedupeKey {
    let text = kept(value);
    DedupeKey {
        text,
        names_one_body,
    }
}

/// The content of a quoted string of structured headers (RFC 8941 §3.3.3), such as `"k-1"`; any other
/// text unchanged. So a key is the same with and without quotes.
fn unquoted(value: &[u8]) -> Cow<'_, [u8]> {
    let inside = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    let Some(inside) = inside else {
        return value.into();
    };
    let mut text = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => match bytes.next() {
                Some(escaped @ (b'"' | b'\\')) => text.push(*escaped),
                _ => return value.into(),
            },
            b'"' => return value.into(),
            plain => text.push(*plain),
        }
    }
    text.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::domain::hook::{HookId, OrderBy, Unordered};
    use crate::domain::keep::Keep;
    use crate::domain::name::Name;
    use crate::domain::time::Timestamp;

    fn found(rule: &str, headers: &[(&str, &str)], body: &str) -> Result<Option<String>, String> {
        let hook = Hook {
            id: HookId(1),
            name: "orders".parse().unwrap(),
            namespace: Name::default_namespace(),
            order_by: OrderBy::Nothing,
            unordered: Unordered::Refuse,
            dedupe_by: rule.parse().unwrap(),
            verify: None,
            handshake: None,
            versioning: None,
            version_rule: 0,
            allow_from: crate::domain::network::Networks::default(),
            body_max: 1,
            keep: Keep::default(),
            handlers: Vec::new(),
            created_at: Timestamp::default(),
        };
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect();
        let key = dedupe_key(&hook, &headers, body.as_bytes())?;
        Ok(key.map(|key| format!("{}{}", key.text, if key.names_one_body { "!" } else { "" })))
    }

    fn standard(headers: &[(&str, &str)]) -> Option<String> {
        found("standard", headers, "").unwrap()
    }

    #[test]
    fn an_idempotency_key_goes_before_a_webhook_id_unless_it_is_empty() {
        let (idem, id) = ("idempotency-key", "webhook-id");
        assert_eq!(standard(&[]), None);
        assert_eq!(standard(&[(id, "b"), (idem, "a")]).unwrap(), "a!");
        assert_eq!(standard(&[(id, "b")]).unwrap(), "b");
        for empty in ["", "\"\""] {
            assert_eq!(standard(&[(idem, empty), (id, "b")]).unwrap(), "b");
            assert_eq!(standard(&[(idem, empty)]), None);
        }
    }

    #[test]
    fn a_key_is_the_same_quoted_or_not() {
        for name in ["idempotency-key", "webhook-id"] {
            assert_eq!(standard(&[(name, "\"a b\"")]), standard(&[(name, "a b")]));
            assert_eq!(
                standard(&[(name, r#""a\"\\b""#)]),
                standard(&[(name, r#"a"\b"#)])
            );
            for whole in ["\"", "\"a", "a\"", r#""a"b""#, r#""a\""#, r#""\x""#] {
                assert!(standard(&[(name, whole)]).unwrap().starts_with(whole));
            }
        }
    }

    #[test]
    fn a_hook_may_know_repeats_by_a_place_of_its_own() {
        let delivery = ("x-delivery", "d1");
        let idem = ("idempotency-key", "i1");
        let of = |rule, headers: &[_], body| found(rule, headers, body).unwrap();
        assert_eq!(
            of("header:X-Delivery", &[idem, delivery], "").unwrap(),
            "d1"
        );
        assert_eq!(of("header:X-Delivery", &[idem], "").unwrap(), "i1!");
        assert_eq!(of("/id", &[idem], r#"{"id":7.0}"#).unwrap(), "7");
        assert_eq!(of("/id", &[], "not JSON"), None);
        assert_eq!(of("form:id", &[], "id=a+b").unwrap(), "a b");
    }

    #[test]
    fn two_keys_that_differ_are_refused_and_a_repeated_one_is_one() {
        let twice = |a, b| found("standard", &[("webhook-id", a), ("webhook-id", b)], "");
        assert_eq!(twice("a", "a"), Ok(Some("a".into())));
        assert_eq!(
            twice("a", "b"),
            Err("two values in header webhook-id".into())
        );
    }
}
