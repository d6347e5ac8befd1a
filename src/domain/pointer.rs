//! Finds the value at a JSON pointer (RFC 6901) in a body without building a tree.
//!
//! It reads the body once, follows the pointer and skips everything else, but checks all of it to be
//! JSON. Of repeated names in an object the last one counts, as in `JSON.parse`.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{self, NotJson};

/// The value at a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A key: the text of a string, a number in canonical form ([`json::number`]), `true` or `false`.
    Key(String),
    /// A value that cannot be a key, described in words such as `an object` or `no value`.
    NoKey(&'static str),
}

use Found::{Key, NoKey};

/// The pointer leads to nothing.
const NO_VALUE: Found = NoKey("no value");

/// Finds the value at `pointer` in `body`. `null`, objects, arrays, empty strings and strings that are
/// not Unicode (`"\ud800"`) are no keys.
///
/// # Errors
/// [`NotJson`] unless the whole body is one JSON value.
pub fn find(body: &[u8], pointer: &str) -> Result<Found, NotJson> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let found = std::str::from_utf8(text)
        .ok()
        .map(|text| descend(text, pointer));
    match found {
        Some(Ok(found)) => Ok(found),
        // Serde refuses some valid JSON: numbers beyond f64, and more than 127 levels along the
        // pointer. Such a body has no key, unless it is not JSON at all.
        _ => json::text(body).map(|_| NO_VALUE),
    }
}

fn descend(body: &str, pointer: &str) -> serde_json::Result<Found> {
    let mut json = serde_json::Deserializer::from_str(body);
    let found = Rest(pointer).deserialize(&mut json)?;
    json.end()?;
    Ok(found)
}

/// The rest of the pointer, below the value that is read next.
#[derive(Clone, Copy)]
struct Rest<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Rest<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        if self.0.is_empty() {
            let value = <&RawValue>::deserialize(json)?;
            return Ok(key_of(value.get()));
        }
        let Some(steps) = self.0.strip_prefix('/') else {
            IgnoredAny::deserialize(json)?;
            return Ok(NO_VALUE);
        };
        let (step, rest) = match steps.find('/') {
            Some(end) => steps.split_at(end),
            None => (steps, ""),
        };
        json.deserialize_any(Step {
            step: unescaped(step),
            rest: Rest(rest),
        })
    }
}

/// The key that a JSON value gives.
fn key_of(value: &str) -> Found {
    match value.as_bytes().first() {
        Some(b'"') => match serde_json::from_str::<String>(value) {
            Ok(text) if text.is_empty() => NoKey("an empty text"),
            Ok(text) => Key(text),
            Err(_) => NoKey("a text that is not Unicode"),
        },
        Some(b'n') => NoKey("null"),
        Some(b'{') => NoKey("an object"),
        Some(b'[') => NoKey("an array"),
        Some(b't' | b'f') => Key(value.to_owned()),
        _ => Key(json::number(value).into_owned()),
    }
}

fn unescaped(step: &str) -> Cow<'_, str> {
    if step.contains('~') {
        step.replace("~1", "/").replace("~0", "~").into()
    } else {
        step.into()
    }
}

/// One step of the pointer, with the rest behind it.
struct Step<'p> {
    step: Cow<'p, str>,
    rest: Rest<'p>,
}

impl Step<'_> {
    /// The step as an array index: digits without a leading zero.
    fn index(&self) -> Option<usize> {
        let plain = self.step == "0" || !self.step.starts_with(['0', '+']);
        self.step.parse().ok().filter(|_| plain)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = NO_VALUE;
        while let Some(here) = map.next_key_seed(Is(&self.step))? {
            if here {
                found = map.next_value_seed(self.rest)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Some(index) = self.index() else {
            IgnoredAny.visit_seq(seq)?;
            return Ok(NO_VALUE);
        };
        for _ in 0..index {
            if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(NO_VALUE);
            }
        }
        let found = seq.next_element_seed(self.rest)?.unwrap_or(NO_VALUE);
        IgnoredAny.visit_seq(seq)?;
        Ok(found)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(NO_VALUE)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(NO_VALUE)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(NO_VALUE)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(NO_VALUE)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(NO_VALUE)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(NO_VALUE)
    }
}

/// Compares the next name with this one.
struct Is<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<bool, D::Error> {
        name.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    /// Compared as bytes, so that a name with an unpaired surrogate is no error.
    fn visit_bytes<E>(self, name: &[u8]) -> Result<bool, E> {
        Ok(name == self.0.as_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn found(body: &str, pointer: &str) -> Option<String> {
        match find(body.as_bytes(), pointer).unwrap() {
            Key(key) => Some(key),
            NoKey(_) => None,
        }
    }

    #[test]
    fn scalars_give_their_text_and_nothing_else_gives_a_key() {
        let body = r#"{"s":"aé\n","n":1.50e+2,"big":123456789012345678901234567890,"t":true,
            "f":false,"z":null,"o":{"a":1},"l":[1],"e":"","half":"\ud800","huge":1e999,"\ud800":1,
            "after":"x"}"#;
        for (pointer, key) in [
            ("/s", Some("aé\n")),
            ("/n", Some("150")),
            ("/big", Some("123456789012345678901234567890")),
            ("/huge", Some("1e999")),
            ("/after", Some("x")),
            ("/t", Some("true")),
            ("/f", Some("false")),
            ("/z", None),
            ("/o", None),
            ("/l", None),
            ("/e", None),
            ("/half", None),
            ("/absent", None),
            ("/s/deeper", None),
            ("/n/deeper", None),
            ("/huge/deeper", None),
            ("", None),
            ("no-slash", None),
        ] {
            assert_eq!(found(body, pointer).as_deref(), key, "{pointer}");
        }
        assert_eq!(found(" 7 ", "").as_deref(), Some("7"));
    }

    #[test]
    fn steps_are_names_or_indices_and_may_be_escaped() {
        let body = r#"{"a/b":{"m~n":["x",{"":"y"}]},"~1":"z","01":"n"}"#;
        for (pointer, key) in [
            ("/a~1b/m~0n/0", Some("x")),
            ("/a~1b/m~0n/1/", Some("y")),
            ("/~01", Some("z")),
            ("/01", Some("n")),
            ("/a~1b/m~0n/00", None),
            ("/a~1b/m~0n/+0", None),
            ("/a~1b/m~0n/-", None),
            ("/a~1b/m~0n/2", None),
            ("/a~1b/m~0n/99999999999999999999999", None),
        ] {
            assert_eq!(found(body, pointer).as_deref(), key, "{pointer}");
        }
    }

    #[test]
    fn the_last_of_repeated_names_counts_even_if_it_has_nothing() {
        assert_eq!(found(r#"{"a":1,"a":2}"#, "/a").as_deref(), Some("2"));
        assert_eq!(
            found(r#"{"a":{"b":1},"a":{"b":"x"}}"#, "/a/b").as_deref(),
            Some("x")
        );
        assert_eq!(found(r#"{"a":{"b":1},"a":null}"#, "/a/b"), None);
    }

    #[test]
    fn what_is_not_one_whole_json_value_is_refused_wherever_it_breaks() {
        for body in [
            "",
            " ",
            "{",
            r#"{"a":1"#,
            r#"{"a":1}x"#,
            r#"{"a":1}{}"#,
            r#"{"a":1,}"#,
            "nul",
            "'a'",
            "[1,]",
            r#"{"a":1,"b":tru}"#,
            r#"{"b":01,"a":1}"#,
            "{\"b\":\"\n\",\"a\":1}",
            r#"{"b":"\x","a":1}"#,
            "{a:1}",
        ] {
            assert!(find(body.as_bytes(), "/a").is_err(), "{body}");
        }
        assert!(find(b"{\"a\":1,\"b\":\"\xff\"}", "/a").is_err());
        assert_eq!(found("\u{feff}{\"a\":1}", "/a").as_deref(), Some("1"));
    }

    #[test]
    fn it_is_said_what_stands_where_a_key_was_looked_for() {
        for (body, what) in [
            ("{}", "no value"),
            ("7", "no value"),
            (r#"{"a":null}"#, "null"),
            (r#"{"a":{}}"#, "an object"),
            (r#"{"a":[1]}"#, "an array"),
            (r#"{"a":""}"#, "an empty text"),
            (r#"{"a":"\ud800"}"#, "a text that is not Unicode"),
        ] {
            assert_eq!(find(body.as_bytes(), "/a"), Ok(NoKey(what)), "{body}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{}1{}", "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(found(&deep, "/a"), None);
        assert_eq!(
            found(&format!(r#"{{"b":{deep},"a":1}}"#), "/a").as_deref(),
            Some("1")
        );
        assert_eq!(found(&deep, &"/0".repeat(100)), None);
        assert_eq!(found(&deep, &"/0".repeat(1000)), None);
        assert!(find("[".repeat(500_000).as_bytes(), &"/0".repeat(1000)).is_err());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-c/~0\"\\\\é]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-c/~0é]{0,2}", inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    /// Every pointer that leads to a value, and some that lead to none.
    fn pointers(value: &Value, here: &str, all: &mut Vec<String>) {
        all.extend([here.to_owned(), format!("{here}/zz"), format!("{here}/00")]);
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    pointers(item, &format!("{here}/{index}"), all);
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    let step = name.replace('~', "~0").replace('/', "~1");
                    pointers(member, &format!("{here}/{step}"), all);
                }
            }
            _ => {}
        }
    }

    fn expected(value: Option<&Value>) -> Option<String> {
        match value? {
            Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
            scalar @ (Value::Bool(_) | Value::Number(_)) => {
                Some(json::number(&scalar.to_string()).into_owned())
            }
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_tree_would_find(value in json()) {
            let body = value.to_string();
            let mut all = Vec::new();
            pointers(&value, "", &mut all);
            for pointer in all {
                prop_assert_eq!(found(&body, &pointer), expected(value.pointer(&pointer)), "{} in {}", pointer, body);
            }
        }

        #[test]
        fn it_refuses_exactly_what_is_not_json(body in "[\\[\\]{}\",:a0-9 .eE\\\\-]{0,12}", pointer in "(/[a0]?){0,3}") {
            let is_json = serde_json::from_str::<&RawValue>(&body).is_ok();
            prop_assert_eq!(find(body.as_bytes(), &pointer).is_ok(), is_json, "{}", body);
        }
    }
}
