//! Filters: patterns on places of an event, which choose the events that a handler takes. It skips the
//! others.
//!
//! Patterns on one place are alternatives; every named place must match. So `/type=invoice.*` and
//! `/type=charge.*` take either type, and `/type=invoice.*` with `/livemode=true` needs both.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::event::Event;
use super::place::Place;
use super::version::Late;

/// Number of patterns of a handler at most.
pub const RULES_MAX: usize = 32;

/// Length limit of a pattern, in bytes.
const GLOB_MAX: usize = 200;

/// A pattern on a place, such as `/type=invoice.*` or `header:X-GitHub-Event=push`, divided at the
/// first `=`. `*` matches any text, `?` any character; case matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    place: Place,
    glob: WildMatch,
}

/// Error for a text that is not a pattern.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a pattern: give /JSON/POINTER=PATTERN, header:NAME=PATTERN or form:NAME=PATTERN, such as '/type=invoice.*'"
)]
pub struct InvalidRule(String);

impl FromStr for Rule {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let wrong = || InvalidRule(text.chars().take(GLOB_MAX).collect());
        let (place, glob) = text.split_once('=').ok_or_else(wrong)?;
        if glob.is_empty() || glob.len() > GLOB_MAX {
            return Err(wrong());
        }
        Ok(Self {
            place: place.parse().map_err(|_| wrong())?,
            glob: WildMatch::new(glob),
        })
    }
}

/// Patterns on the same place; a value must match one of them.
#[derive(Debug, PartialEq)]
struct Group {
    place: Place,
    globs: Vec<WildMatch>,
}

/// Filter of a handler; without patterns, it takes all events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Filter(Arc<[Group]>);

/// Error for patterns that do not make a filter.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidFilter {
    /// One of the patterns is invalid.
    #[error(transparent)]
    Rule(#[from] InvalidRule),
    /// There are too many patterns.
    #[error("a handler has {RULES_MAX} patterns at most, got {0}")]
    TooMany(usize),
}

impl Filter {
    /// The filter with these patterns.
    ///
    /// # Errors
    /// [`InvalidFilter::TooMany`].
    pub fn new(rules: Vec<Rule>) -> Result<Self, InvalidFilter> {
        if rules.len() > RULES_MAX {
            return Err(InvalidFilter::TooMany(rules.len()));
        }
        let mut groups: Vec<Group> = Vec::new();
        for Rule { place, glob } in rules {
            match groups.iter_mut().find(|group| group.place == place) {
                Some(group) if group.globs.contains(&glob) => {}
                Some(group) => group.globs.push(glob),
                None => groups.push(Group {
                    place,
                    globs: vec![glob],
                }),
            }
        }
        Ok(Self(groups.into()))
    }

    /// True without patterns: the handler takes all events.
    pub fn takes_all(&self) -> bool {
        self.0.is_empty()
    }

    /// True if the handler takes the event. None takes an event that its hook skips as late. No pattern matches a missing or empty value, or one that is
    /// not a text, number or boolean.
    pub fn takes(&self, event: &Event) -> bool {
        if event.late == Some(Late::Skip) {
            return false;
        }
        let mut headers = None;
        self.0.iter().all(|group| {
            let value = match &group.place {
                Place::Header(name) => headers
                    .get_or_insert_with(|| headers_of(event))
                    .get(name)
                    .filter(|value| !value.is_empty())
                    .cloned(),
                place => {
                    let found = place.find(&HeaderMap::new(), &event.body).ok();
                    found.map(|value| String::from_utf8_lossy(&value).into_owned())
                }
            };
            value.is_some_and(|value| group.globs.iter().any(|glob| glob.matches(&value)))
        })
    }

    /// Its patterns as text.
    pub fn rules(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|group| {
            let globs = group.globs.iter();
            globs.map(|glob| format!("{}={glob}", group.place))
        })
    }
}

fn headers_of(event: &Event) -> BTreeMap<String, String> {
    serde_json::from_str(&event.headers).unwrap_or_default()
}

/// Display form: the patterns, separated by commas.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rules().collect::<Vec<_>>().join(", "))
    }
}

impl TryFrom<Vec<String>> for Filter {
    type Error = InvalidFilter;

    fn try_from(texts: Vec<String>) -> Result<Self, InvalidFilter> {
        let rules: Result<_, InvalidRule> = texts.iter().map(|text| text.parse()).collect();
        Self::new(rules?)
    }
}

impl From<Filter> for Vec<String> {
    fn from(filter: Filter) -> Self {
        filter.rules().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::event::{EventId, StreamId};
    use crate::domain::position::Seq;
    use crate::domain::time::Timestamp;

    fn event(headers: &str, body: &str) -> Event {
        Event {
            stream: StreamId(1),
            seq: Seq(1),
            id: EventId::from_bytes([1; 16]),
            received_at: Timestamp::from_millis(0),
            key_id: None,
            dedupe_key: None,
            headers: headers.into(),
            body: body.to_owned().into(),
            late: None,
            is_damaged: false,
        }
    }

    fn filter(rules: &[&str]) -> Filter {
        let rules: Vec<_> = rules.iter().map(|rule| (*rule).to_owned()).collect();
        rules.try_into().unwrap()
    }

    #[test]
    fn one_pattern_of_each_place_must_match() {
        let github = r#"{":query":"a=1","x-github-event":"push"}"#;
        let body = r#"{"type":"invoice.paid","live":true,"n":7,"o":{},"e":"","a~b":"x"}"#;
        let event = event(github, body);
        for (rules, takes) in [
            (&[][..], true),
            (&["/type=invoice.*"], true),
            (&["/type=invoice.p?id"], true),
            (&["/type=invoice"], false),
            (&["/type=Invoice.*"], false),
            (&["/type=charge.*", "/type=invoice.*"], true),
            (&["/type=invoice.*", "/live=true"], true),
            (&["/type=invoice.*", "/live=false"], false),
            (&["/n=7"], true),
            (&["/o=*"], false),
            (&["/e=*"], false),
            (&["/missing=*"], false),
            (&["/a~0b=x"], true),
            (&["header:X-GitHub-Event=push"], true),
            (
                &["header:x-github-event=pull*", "header:x-github-event=pus?"],
                true,
            ),
            (&["header:x-other=*"], false),
            (&["form:type=*"], false),
        ] {
            assert_eq!(filter(rules).takes(&event), takes, "{rules:?}");
        }
        assert!(filter(&["form:who=a b*"]).takes(&super::tests::event("{}", "who=a+b%21")));
        assert!(!filter(&["/type=*"]).takes(&super::tests::event("{}", "no JSON")));
    }

    #[test]
    fn a_filter_reads_back_as_it_was_written() {
        let given = filter(&["/type=a=b", "header:X-A=*", "/type=c?", "/type=a=b"]);
        let written = serde_json::to_string(&given).unwrap();
        assert_eq!(
            written,
            r#"["body:/type=a=b","body:/type=c?","header:x-a=*"]"#
        );
        assert_eq!(serde_json::from_str::<Filter>(&written).unwrap(), given);
        assert!(filter(&[]).takes_all() && !given.takes_all());
        for wrong in [
            "",
            "type=x",
            "/type",
            "/type=",
            "header:=x",
            "header:a b=x",
            "=x",
        ] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
        let many: Vec<_> = (0..33).map(|n| format!("/t={n}")).collect();
        assert_eq!(Filter::try_from(many), Err(InvalidFilter::TooMany(33)));
    }
}
