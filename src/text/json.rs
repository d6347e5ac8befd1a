//! Differences between two JSON values, for people.

use serde_json::Value;

/// Longest value shown, in bytes.
const VALUE_MAX: usize = 40;

/// At most `most` differences, as JSON pointers with both values: `/total 118 -> 121`. Empty when the
/// values are equal as JSON. Arrays are compared as a whole.
pub fn differences(old: &Value, new: &Value, most: usize) -> Vec<String> {
    let mut found = Vec::new();
    compare("", Some(old), Some(new), most, &mut found);
    found
}

fn compare(
    path: &str,
    old: Option<&Value>,
    new: Option<&Value>,
    most: usize,
    found: &mut Vec<String>,
) {
    if old == new || found.len() == most {
        return;
    }
    let (Some(Value::Object(old)), Some(Value::Object(new))) = (old, new) else {
        let path = if path.is_empty() { "/" } else { path };
        found.push(format!("{path} {} -> {}", shown(old), shown(new)));
        return;
    };
    let added = new.keys().filter(|key| !old.contains_key(*key));
    for key in old.keys().chain(added) {
        let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
        compare(&path, old.get(key), new.get(key), most, found);
    }
}

fn shown(value: Option<&Value>) -> String {
    let Some(value) = value else {
        return "nothing".to_owned();
    };
    let text = value.to_string();
    match text.char_indices().nth(VALUE_MAX) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_differ_as_json_and_every_place_is_said() {
        let of = |old, new| differences(&old, &new, 3);
        assert!(of(json!({"a": 1, "b": 2}), json!({"b": 2, "a": 1})).is_empty());
        let old = json!({"total": 118, "by": {"x/y": 1}, "gone": true});
        let new = json!({"total": 121, "by": {"x/y": 2}, "n": [1]});
        assert_eq!(
            of(old, new),
            [
                "/total 118 -> 121",
                "/by/x~1y 1 -> 2",
                "/gone true -> nothing"
            ]
        );
        assert_eq!(
            of(json!({"a": 1}), json!({"a": 1, "n": [1]})),
            ["/n nothing -> [1]"]
        );
        assert_eq!(of(json!(5), json!(6)), ["/ 5 -> 6"]);
        assert_eq!(differences(&json!([1]), &json!([2]), 0), [""; 0]);
    }
}
