//! The live feed: a viewer gets a full snapshot first, and every second the changes since.
//!
//! Promises: [`apply`] on the previous value gives exactly the present one; a change that does not fit
//! is refused. Encoding of a change: of an object, an object with the changed fields; of an array, an
//! object with the changed indices, where `-` is a new length and `+` has appended items, or `[front,
//! from, to, tail]` if most items only moved; otherwise `[value]`, or the bare value if it is not an
//! object or array.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Sample;
use crate::domain::time::Timestamp;

/// One message of the feed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// The full snapshot, with the history of the requested window. Only in the first message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Value>,
    /// Change of the snapshot since the previous message, without its history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Arc<Value>>,
    /// New samples of the window's history.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<Sample>,
}

/// Largest shift for which an array's change is encoded as moved.
const MOVED_MAX: usize = 8;

/// The change that turns `old` into `new`; `None` when they are equal.
pub fn change(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    Some(match (old, new) {
        (Value::Object(old), Value::Object(new)) if has_same_fields(old, new) => {
            let fields = old.iter().zip(new.values());
            let changed = fields.filter_map(|((name, old), new)| {
                let change = change(old, new)?;
                Some((name.clone(), change))
            });
            Value::Object(changed.collect())
        }
        (Value::Array(old), Value::Array(new)) => {
            moved(old, new).unwrap_or_else(|| by_place(old, new))
        }
        (_, Value::Object(_) | Value::Array(_)) => Value::Array(vec![new.clone()]),
        (_, plain) => plain.clone(),
    })
}

fn has_same_fields(old: &Map<String, Value>, new: &Map<String, Value>) -> bool {
    old.len() == new.len() && old.keys().eq(new.keys())
}

/// Encodes an array that gained items at one end and may have lost items at the other.
fn moved(old: &[Value], new: &[Value]) -> Option<Value> {
    let told = |front: &[Value], from: usize, kept: usize| {
        let tail = &new[front.len() + kept..];
        serde_json::json!([front, from, from + kept, tail])
    };
    let is_worth_it = |kept: usize| kept > 0 && kept + MOVED_MAX >= old.len();
    for by in 1..=MOVED_MAX {
        if let Some(rest) = old.get(by..) {
            let kept = rest.len().min(new.len());
            if is_worth_it(kept) && rest[..kept] == new[..kept] {
                return Some(told(&[], by, kept));
            }
        }
        if let Some(rest) = new.get(by..) {
            let kept = rest.len().min(old.len());
            if is_worth_it(kept) && rest[..kept] == old[..kept] {
                return Some(told(&new[..by], 0, kept));
            }
        }
    }
    None
}

fn by_place(old: &[Value], new: &[Value]) -> Value {
    let both = old.iter().zip(new).enumerate();
    let mut changed: Map<_, _> = both
        .filter_map(|(place, (old, new))| Some((place.to_string(), change(old, new)?)))
        .collect();
    if new.len() < old.len() {
        changed.insert("-".to_owned(), new.len().into());
    } else if let Some(added @ [_, ..]) = new.get(old.len()..) {
        changed.insert("+".to_owned(), added.to_vec().into());
    }
    Value::Object(changed)
}

/// Applies a change to the previous value; `None` when it does not fit.
pub fn apply(value: &mut Value, change: Value) -> Option<()> {
    match (value, change) {
        (Value::Object(fields), Value::Object(changed)) => {
            for (name, change) in changed {
                apply(fields.get_mut(&name)?, change)?;
            }
        }
        (Value::Array(places), Value::Object(changed)) => {
            for (place, change) in changed {
                match (place.as_str(), change) {
                    ("-", Value::Number(len)) => {
                        places.truncate(usize::try_from(len.as_u64()?).ok()?);
                    }
                    ("+", Value::Array(added)) => places.extend(added),
                    (place, change) => {
                        apply(places.get_mut(place.parse::<usize>().ok()?)?, change)?
                    }
                }
            }
        }
        (place, Value::Array(mut told)) => match &mut told[..] {
            [value] => *place = value.take(),
            [Value::Array(front), from, to, Value::Array(tail)] => {
                let at = |number: &Value| usize::try_from(number.as_u64()?).ok();
                let (from, to) = (at(from)?, at(to)?);
                let mut made = std::mem::take(front);
                made.extend_from_slice(place.as_array()?.get(from..to)?);
                made.append(tail);
                *place = Value::Array(made);
            }
            _ => return None,
        },
        (place, plain) => *place = plain,
    }
    Some(())
}

/// Fields with ages, which grow every second by themselves.
const AGES: [&str; 3] = ["oldest_ms", "flow_ms", "up_ms"];

/// Ages from this one on, in milliseconds, are sent as their start time, which stays the same.
const OLD_MS: i64 = 10_000;

/// A number larger than any age in milliseconds, and smaller than any time since 2001.
const MOMENTS_MS: i64 = 1_000_000_000_000;

/// Replaces old ages in a snapshot by their start times.
pub fn stilled(mut snapshot: Value, at: Timestamp) -> Value {
    let now = at.as_millis();
    ages(&mut snapshot, &|age| match age {
        OLD_MS.. if now - age > MOMENTS_MS => now - age,
        _ => age,
    });
    snapshot
}

/// Restores the ages in a snapshot from [`stilled`].
pub fn unstilled(mut snapshot: Value) -> Option<Value> {
    let at = snapshot.get("at")?.clone();
    let now = serde_json::from_value::<Timestamp>(at).ok()?.as_millis();
    ages(&mut snapshot, &|age| match age {
        MOMENTS_MS.. => (now - age).max(0),
        _ => age,
    });
    Some(snapshot)
}

fn ages(value: &mut Value, changed: &impl Fn(i64) -> i64) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match value.as_i64() {
                    Some(age) if AGES.contains(&name.as_str()) => *value = changed(age).into(),
                    _ => ages(value, changed),
                }
            }
        }
        Value::Array(places) => places.iter_mut().for_each(|value| ages(value, changed)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_changed_is_told() {
        let lane =
            |backlog: u64| json!({"lane": "default-1-0", "backlog": backlog, "trend": [1, 2]});
        let old = json!({"lanes": [lane(1), lane(2)], "log": ["b", "a"], "eta": null});
        let new = json!({"lanes": [lane(1), lane(7)], "log": ["c", "b", "a"], "eta": null});
        let told = change(&old, &new).unwrap();
        let expected = json!({"lanes": {"1": {"backlog": 7}}, "log": [["c"], 0, 2, []]});
        assert_eq!(told, expected);
        assert_eq!(change(&new, &new), None);
    }

    #[test]
    fn an_old_age_stands_still_while_time_goes_on() {
        let at = |ms: i64| Timestamp::from_millis(1_795_489_154_000 + ms);
        let seen = |at: Timestamp, age: i64| json!({"at": at, "lanes": [{"oldest_ms": age, "flow_ms": 22}]});
        let before = stilled(seen(at(0), 60_000), at(0));
        let after = stilled(seen(at(1_000), 61_000), at(1_000));
        assert_eq!(before["lanes"], after["lanes"]);
        assert_eq!(unstilled(after), Some(seen(at(1_000), 61_000)));
    }

    #[test]
    fn a_change_that_does_not_fit_is_refused() {
        for wrong in [
            json!({"b": 1}),
            json!({"a": {"7": 1}}),
            json!({"a": [[], 0, 9, []]}),
            json!({"a": [1, 2]}),
            json!({"a": {"x": 1}}),
        ] {
            assert_eq!(
                apply(&mut json!({"a": [1]}), wrong.clone()),
                None,
                "{wrong}"
            );
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let plain = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..4_i64).prop_map(Value::from),
            "[a-c]?".prop_map(Value::from),
        ];
        plain.prop_recursive(4, 40, 12, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..12).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_change_makes_exactly_what_is_there_now(old in values(), new in values()) {
            let mut made = old.clone();
            if let Some(change) = change(&old, &new) {
                prop_assert_eq!(apply(&mut made, change), Some(()));
            }
            prop_assert_eq!(made, new);
        }
    }
}
