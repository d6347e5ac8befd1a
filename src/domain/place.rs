//! The place of a key in a request: a JSON pointer, a header, or a field of a form.
//!
//! One rule for all places: an empty value counts as absent, equal values count as one, and different
//! values are an error, because it is unknown which of them is meant.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::HeaderMap;
use percent_encoding::percent_decode;

use super::pointer::{self, Found};

/// Longest pointer or field name, in bytes.
const PLACE_MAX: usize = 200;

/// Place of a key in a request. Written `body:/data/customer`, `header:x-account` or `form:customer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A JSON pointer (RFC 6901) into the body.
    Body(String),
    /// A header, by its lower-case name.
    Header(String),
    /// A field of a body that is a form (`application/x-www-form-urlencoded`).
    Form(String),
}

/// Reason why a request has no key at a place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// There is no value, or one that cannot be a key.
    #[error("{0}")]
    Nothing(String),
    /// There are different values.
    #[error("{0}")]
    Several(String),
}

impl Place {
    /// The key of a request at this place.
    ///
    /// # Errors
    /// [`Absent`]; the message names the place.
    pub fn find(&self, headers: &HeaderMap, body: &[u8]) -> Result<Vec<u8>, Absent> {
        match self {
            Self::Header(name) => header(headers, name).map(<[u8]>::to_vec),
            Self::Form(name) => one(
                fields(body)
                    .filter_map(|(field, value)| (field == name.as_bytes()).then_some(value)),
                || format!("field {name:?} of the form"),
            )
            .map(Cow::into_owned),
            Self::Body(at) => match pointer::find(body, at) {
                Ok(Found::Key(key)) => Ok(key.into_bytes()),
                Ok(Found::NoKey(what)) => Err(Absent::Nothing(format!("{what} at {at}"))),
                Err(not_json) => Err(Absent::Nothing(not_json.to_string())),
            },
        }
    }
}

/// The value of a header.
///
/// # Errors
/// [`Absent`] unless it has exactly one value.
pub fn header<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h [u8], Absent> {
    let values = headers.get_all(name).iter();
    one(values.map(|value| value.as_bytes()), || {
        format!("header {name}")
    })
}

fn one<V: AsRef<[u8]>>(
    values: impl Iterator<Item = V>,
    place: impl Fn() -> String,
) -> Result<V, Absent> {
    let mut found: Option<V> = None;
    for value in values.filter(|value| !value.as_ref().is_empty()) {
        match &found {
            Some(first) if first.as_ref() != value.as_ref() => {
                return Err(Absent::Several(format!("two values in {}", place())));
            }
            _ => found = Some(value),
        }
    }
    found.ok_or_else(|| Absent::Nothing(format!("no value in {}", place())))
}

/// Decoded names and values of a form, as bytes.
pub fn fields(form: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    let parts = form.split(|byte| *byte == b'&');
    parts.filter(|part| !part.is_empty()).map(|part| {
        let end = part.iter().position(|byte| *byte == b'=');
        let (name, value) = part.split_at(end.unwrap_or(part.len()));
        (
            decoded(name),
            decoded(value.strip_prefix(b"=").unwrap_or(value)),
        )
    })
}

fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'+') {
        return percent_decode(text).into();
    }
    let spaced: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    percent_decode(&spaced).collect::<Vec<u8>>().into()
}

/// A text that is not a place.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not body:/JSON/POINTER, header:NAME or form:NAME")]
pub struct InvalidPlace(String);

impl FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let wrong = || InvalidPlace(text.chars().take(PLACE_MAX).collect());
        if let Some(header) = text.strip_prefix("header:") {
            let name: http::HeaderName = header.parse().map_err(|_| wrong())?;
            return Ok(Self::Header(name.as_str().to_owned()));
        }
        if let Some(name) = text.strip_prefix("form:") {
            let fits = !name.is_empty() && name.len() <= PLACE_MAX;
            return fits.then(|| Self::Form(name.to_owned())).ok_or_else(wrong);
        }
        let pointer = text.strip_prefix("body:").unwrap_or(text);
        let fits = pointer.starts_with('/') && pointer.len() <= PLACE_MAX;
        fits.then(|| Self::Body(pointer.to_owned()))
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(pointer) => write!(f, "body:{pointer}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Form(name) => write!(f, "form:{name}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn found(place: &str, values: &[&str], body: &str) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-account", value.parse().unwrap());
        }
        let place: Place = place.parse().unwrap();
        let key = place.find(&headers, body.as_bytes());
        key.map(|key| String::from_utf8_lossy(&key).into_owned())
            .map_err(|absent| absent.to_string())
    }

    #[test]
    fn a_header_gives_its_one_value() {
        let of = |values: &[&str]| found("header:X-Account", values, "");
        assert_eq!(of(&["acme"]).unwrap(), "acme");
        assert_eq!(of(&["acme", "acme"]).unwrap(), "acme");
        assert_eq!(of(&["", "acme"]).unwrap(), "acme");
        assert_eq!(of(&["1.0"]).unwrap(), "1.0", "a header is a text");
        assert_eq!(
            of(&["acme", "zenith"]).unwrap_err(),
            "two values in header x-account"
        );
        assert_eq!(of(&[""]).unwrap_err(), "no value in header x-account");
        assert_eq!(of(&[]).unwrap_err(), "no value in header x-account");
    }

    #[test]
    fn a_form_gives_its_field_decoded() {
        let of = |body: &str| found("form:who", &[], body);
        assert_eq!(of("a=1&who=a+b%26%C3%A9&b").unwrap(), "a b&é");
        assert_eq!(of("w%68o=x").unwrap(), "x");
        assert_eq!(of("who=&who=x").unwrap(), "x");
        assert_eq!(
            of("who=x&who=y").unwrap_err(),
            "two values in field \"who\" of the form"
        );
        for without in ["", "who", "who=", "Who=x", r#"{"who":"x"}"#, "&&=&"] {
            assert_eq!(
                of(without).unwrap_err(),
                "no value in field \"who\" of the form"
            );
        }
    }

    #[test]
    fn a_body_gives_the_value_at_a_pointer_or_says_what_is_there() {
        let of = |body: &str| found("/id", &[], body);
        for same in [
            r#"{"id":1}"#,
            r#"{"id":1.0}"#,
            r#"{"id":1e0}"#,
            r#"{"id":"1"}"#,
        ] {
            assert_eq!(of(same).unwrap(), "1", "{same}");
        }
        assert_eq!(of(r#"{"id":"1.0"}"#).unwrap(), "1.0", "a text is a text");
        assert_eq!(
            of(r#"{"id":9007199254740993}"#).unwrap(),
            "9007199254740993"
        );
        assert_eq!(
            of(r#"{"id":9007199254740992}"#).unwrap(),
            "9007199254740992"
        );
        let (composed, decomposed) = ("{\"id\":\"\u{e9}\"}", "{\"id\":\"e\u{301}\"}");
        assert_ne!(of(composed), of(decomposed), "bytes are compared");
        assert_eq!(of(r#"{"id":"é"}"#), of(r#"{"id":"\u00e9"}"#));
        assert_eq!(of(r#"{"id":{}}"#).unwrap_err(), "an object at /id");
        assert_eq!(of("{}").unwrap_err(), "no value at /id");
        assert_eq!(of("").unwrap_err(), "the body is not JSON: it is empty");
        assert_eq!(of("\u{feff}{\"id\":7}").unwrap(), "7");
    }

    #[test]
    fn a_place_reads_back_as_it_was_written() {
        for (given, written) in [
            ("/data/customer", "body:/data/customer"),
            ("body:/a", "body:/a"),
            ("header:X-Account", "header:x-account"),
            ("form:a b", "form:a b"),
        ] {
            let place: Place = given.parse().unwrap();
            assert_eq!(place.to_string(), written);
            assert_eq!(written.parse::<Place>().unwrap(), place);
        }
        for wrong in ["", "customer", "header:", "header:a b", "body:x", "form:"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
